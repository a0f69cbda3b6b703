"""Moves whole frames between this process and a server, and knows nothing of what they say."""

from __future__ import annotations

import logging
import math
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import zmq

from sim_clients import local_socket
from sim_clients.protocol import LOCAL_SOCKET

log = logging.getLogger(__name__)

_QUEUE = 128  # frames; a connection has 2 requests at a time and a few repeats of them
_SLICE_MS = 250
_SLICE_S = _SLICE_MS / 1000
_BYE_LINGER_MS = 500
_MAX_FRAME = 256 * 1024 * 1024


class Transport(Protocol):
    """What a client needs of a wire. Frames may get lost; they never come in parts.

    Attributes:
        capabilities: what HELLO shall say that this wire can do.
    """

    capabilities: tuple[str, ...]

    def send(self, frame: bytes) -> None:
        """Sends, or drops the frame where the wire is jammed: the client will repeat it."""

    def receive(self, timeout_s: float | None) -> bytes | None:
        """The next frame; None where there is none within `timeout_s` seconds, or within a part of
        them (None: wait for ever).

        Raises:
            ConnectionError: it is known that nothing can come any more; `reconnect` mends it.
        """

    def move(self, path: str) -> None:
        """Goes on over the server's local socket at `path`, or, where that cannot be, as before."""

    def reconnect(self) -> None:
        """Starts over with a new connection; frames under way are gone."""

    def close(self) -> None:
        """Ends the connection after a short while for the last frame to leave. Idempotent."""


class ZmqTransport:
    """A DEALER to `address` ("tcp://host:port" or "ipc:///path"); then, where the server is on
    this machine and says so, its local socket. Not thread-safe.

    Args:
        context: an own ZeroMQ context; None: the process's shared one.
        max_message_bytes: larger frames from the server end the connection.
        local: may it move to a local socket?
    """

    def __init__(
        self,
        address: str,
        *,
        context: zmq.Context[Any] | None = None,
        max_message_bytes: int = _MAX_FRAME,
        local: bool = True,
    ):
        self.address = address
        self.capabilities: tuple[str, ...] = ()
        if local and local_socket.supported and is_loopback(address):
            self.capabilities = (LOCAL_SOCKET,)
        self._local: local_socket.LocalSocket | None = None
        self._context = context or zmq.Context.instance()
        self._max_message_bytes = max_message_bytes
        self._timeout_ms = -1
        self._socket: zmq.Socket[bytes] | None = None
        self._open()

    def _open(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, _QUEUE)
        socket.setsockopt(zmq.RCVHWM, _QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        # Greetings sent before the server listens must wait for it, not fail.
        socket.setsockopt(zmq.IMMEDIATE, 0)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise ValueError(
                f"expected an address such as 'tcp://127.0.0.1:5555' or 'ipc:///tmp/policy', got "
                f"'{self.address}' ({error})."
            ) from None
        self._socket = socket
        self._timeout_ms = -1

    def send(self, frame: bytes) -> None:
        if self._local is not None:
            self._local.send(frame)
            return
        try:
            (self._socket or self._live()).send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return  # a full queue means that nobody reads; the repeat timer covers the frame

    def receive(self, timeout_s: float | None) -> bytes | None:
        if self._local is not None:
            return self._local.receive(timeout_s)
        socket = self._socket or self._live()
        # To block in `recv` costs 10 us less CPU than poll and `recv`, of 60 for the round trip;
        # whoever waits for long does so in slices of one length, so that it need not be set anew.
        if timeout_s is None or timeout_s >= _SLICE_S:
            timeout_ms = _SLICE_MS
        else:
            timeout_ms = math.ceil(timeout_s * 1000)  # to end early would spin until it is time
        if timeout_ms != self._timeout_ms:
            self._timeout_ms = timeout_ms
            socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        try:
            return socket.recv()
        except zmq.Again:
            return None

    def move(self, path: str) -> None:
        try:
            self._local = local_socket.LocalSocket(path, self._max_message_bytes)
        except (OSError, ValueError) as error:  # ValueError: no path at all
            log.info("the server's local socket is out of reach (%s): ZeroMQ it is", error)
        else:
            self._drop_dealer(0)

    def reconnect(self) -> None:
        self._drop(0)
        self._open()

    def close(self) -> None:
        self._drop(_BYE_LINGER_MS)

    def _live(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise RuntimeError("this transport is closed: make a new one.")
        return self._socket

    def _drop(self, linger_ms: int) -> None:
        if self._local is not None:
            self._local.close()
            self._local = None
        self._drop_dealer(linger_ms)

    def _drop_dealer(self, linger_ms: int) -> None:
        if self._socket is not None:
            self._socket.close(linger_ms)
            self._socket = None


def is_loopback(address: str) -> bool:
    """Whether whoever answers there is on this machine."""
    if address.startswith("ipc://"):
        return True
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
