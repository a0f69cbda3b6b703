"""The socket loop: the only place of the server that knows ZeroMQ. It moves bytes.

One thread owns the sockets and runs the whole tick. Other threads may only `wake` it.
"""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import zmq

from policy_server.address import check_address
from policy_server.config import ServerConfig
from policy_server.errors import AddressError
from policy_server.gateway.gateway import Gateway
from policy_server.gateway.local_sockets import LocalSockets
from policy_server.gateway.session import Frames, Peer

MAX_DRAIN = 1024  # messages per tick
EXPIRE_EVERY_S = 1.0
LIVELY_S = 100e-6
"""Messages with shorter gaps than this are waited for awake."""


class RouterLoop:
    """Drives a gateway from a ROUTER socket, which is bound at once.

    Attributes:
        address: where it listens, with the port that was taken.
        stray_frames: parts beyond the one frame that a message is.
        undeliverable: replies whose peer was gone or did not read.

    Raises:
        AddressError: the address is taken, impossible, or open to others unasked.
    """

    def __init__(self, config: ServerConfig):
        check_address(config.bind, config.insecure)
        self._running = True
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.IPV6, int("[" in config.bind))
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
        socket.setsockopt(zmq.RCVHWM, 1000)
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt(zmq.SNDTIMEO, 0)
        try:
            socket.bind(config.bind)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise AddressError(
                f"cannot listen on '{config.bind}': {_reason(error)}. Choose another address with "
                "server.bind or --bind."
            ) from None
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._reader, zmq.POLLIN)
        self._local = None
        if config.local_sockets:
            self._local = LocalSockets.open(config.max_message_bytes, 2 * config.max_sessions)
        if self._local is not None:
            self._poller.register(self._local.fileno(), zmq.POLLIN)
        self.stray_frames = 0
        self.undeliverable = 0
        self._lively = False  # the last message had not been waited for for long

    def wake(self) -> None:
        """Ends the loop's sleep. Any thread may call."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def run(self, gateway: Gateway) -> None:
        """Serves until `stop`."""
        clock = gateway.clock
        next_expiry = 0.0
        gateway.offer(None if self._local is None else self._local.path)
        gc.collect()
        gc.freeze()
        while self._running:
            # 1. Whatever came is answered.
            events = self._wait(gateway.patience_s)
            inbox = self._drain(events, clock()) if events else []
            now = clock()
            gone = self.send(gateway.answer(inbox, now))
            # 2. Then it is booked.
            gateway.finish(now)
            for peer in gone:
                gateway.unreachable(peer)
            if now >= next_expiry:
                gateway.expire(now)
                if self._local is not None:
                    self._local.expire(now, gateway.peers)
                next_expiry = now + EXPIRE_EVERY_S

    def _wait(self, patience_s: float) -> list[tuple[Any, int]]:
        """What can be read, as soon as there is something.

        Where messages come thick and fast the thread stays awake for a moment: to fall asleep
        and be woken, on a processor that fell asleep too, costs more than the wait (a single
        simulator on two cores had its answer in 150 us instead of 250).
        """
        poll = self._poller.poll
        if self._lively and patience_s:
            until = perf_counter() + LIVELY_S
            while not (events := poll(0)):
                os.sched_yield()
                if perf_counter() > until:
                    self._lively = False
                    break
            else:
                return events
        since = perf_counter()
        events = poll(round(patience_s * 1000))
        self._lively = bool(events) and perf_counter() - since < LIVELY_S
        return events

    def stop(self) -> None:
        """The loop ends after its present tick. Any thread may call."""
        self._running = False
        self.wake()

    def _drain(self, events: list[tuple[Any, int]], now: float) -> Frames:
        """Everything that waits, up to a bound."""
        inbox: Frames = []
        for source, _ in events:
            if source == self._reader:
                os.read(self._reader, 4096)
            elif source is self._socket:
                self._receive(inbox)
            elif self._local is not None:
                self._local.drain(inbox, now)
        return inbox

    def _receive(self, inbox: Frames) -> None:
        """What came over ZeroMQ. Two plain `recv` per message, no multipart."""
        recv, again = self._socket.recv, zmq.Again
        more, nowait, rcvmore = self._socket.getsockopt, int(zmq.NOBLOCK), zmq.RCVMORE
        try:
            while len(inbox) < MAX_DRAIN:
                peer = recv(nowait)
                # A ROUTER never gives an identity without a part behind it.
                frame = recv(nowait)
                if more(rcvmore):
                    # A message is one frame. Whatever else came is skipped, and refused as a whole.
                    while more(rcvmore):
                        recv(nowait)
                        self.stray_frames += 1
                    frame = b""
                inbox.append((peer, frame))
        except again:
            pass

    def send(self, frames: Frames) -> list[Peer]:
        """Replies and events. On the gateway's thread, or when the loop has ended. Returns the
        peers that are gone."""
        gone: list[Peer] = []
        send, nowait = self._socket.send, int(zmq.NOBLOCK)
        more = int(zmq.SNDMORE) | nowait
        for peer, frame in frames:
            if isinstance(peer, int):
                assert self._local is not None, "a local peer without local sockets"
                sent = self._local.send(peer, frame)
                if not sent:
                    self.undeliverable += 1
                    if sent is None:
                        gone.append(peer)
                continue
            try:
                send(peer, more)
                send(frame, nowait)
            except zmq.ZMQError as error:
                # Gone (EHOSTUNREACH) or not reading (EAGAIN): it will come back and ask again.
                if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    raise
                self.undeliverable += 1
                if error.errno == zmq.EHOSTUNREACH:
                    gone.append(peer)
        return gone

    def close(self) -> None:
        """Gives the address back; what was sent has half a second to leave."""
        if self._local is not None:
            self._local.close()
        self._socket.close()
        self._context.term()
        os.close(self._reader)
        os.close(self._writer)
        if self.address.startswith("ipc://"):
            with contextlib.suppress(OSError):
                Path(urlsplit(self.address).path).unlink()


def _reason(error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return "the port is taken by another program"
    return str(error.strerror or error).lower()
