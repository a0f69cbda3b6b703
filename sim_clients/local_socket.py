"""The client's end of a local socket: whole frames over a stream, for simulators beside their server.

The server says in WELCOME where it listens; see docs/PROTOCOL.md, section 16.
"""

from __future__ import annotations

import math
import os
import select
import socket
import time
from pathlib import Path

from sim_clients.protocol import HEAD_BYTES

LIVELY_S = 50e-6
"""A server that answered within this time is waited for awake: to fall asleep and be woken costs
more. A single simulator had its actions in 75 to 90 us instead of 107 to 121."""
_BUFFER_BYTES = 1 << 16
_KERNEL_BYTES = 1 << 22

supported = hasattr(socket, "AF_UNIX") and hasattr(select, "poll")
"""Whether this system has what it takes."""


class LocalSocket:
    """A connection to the socket at `path`. Not thread-safe.

    Raises:
        OSError: nobody listens there whom this process may trust and reach.
    """

    def __init__(self, path: str, max_message_bytes: int):
        # Another user who stands for the server would be told what only the server should know.
        if Path(path).stat().st_uid != os.getuid():
            raise PermissionError(f"'{path}' belongs to somebody else")
        self._max_message_bytes = max_message_bytes
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        try:
            self._socket.settimeout(1.0)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._part = bytearray()
        self._unsent = bytearray()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._lively = False

    def send(self, frame: bytes) -> None:
        """Sends, or keeps what the kernel does not take yet; drops the frame where that is much
        already. That the server is gone is for `receive` to tell."""
        data = len(frame).to_bytes(HEAD_BYTES, "little") + frame
        if self._unsent:
            if len(self._unsent) <= _KERNEL_BYTES:
                self._unsent += data
            return
        sent = self._give(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._poller.modify(self._socket, select.POLLIN | select.POLLOUT)

    def receive(self, timeout_s: float | None) -> bytes | None:
        """The next frame; None where there is none within `timeout_s`, or none that is whole.

        Raises:
            ConnectionError: the server is gone.
        """
        if self._part:
            frame = self._cut()
            if frame is not None:
                return frame
        if not self._wait(timeout_s):
            return None
        try:
            n = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return None
        if n == 0:
            raise ConnectionResetError("the server closed the local socket")
        if not self._part and n == HEAD_BYTES + int.from_bytes(self._buffer[:4], "little"):
            return bytes(self._view[HEAD_BYTES:n])
        self._part += self._view[:n]
        return self._cut()

    def close(self) -> None:
        """What the kernel has taken still arrives."""
        self._socket.close()

    def _wait(self, timeout_s: float | None) -> bool:
        """Until there is something to read, or something was sent."""
        poll = self._poller.poll
        since = time.perf_counter()
        events: list[tuple[int, int]] = []
        if self._lively and timeout_s != 0:
            until = since + LIVELY_S
            while not (events := poll(0)) and time.perf_counter() < until:
                pass
        if not events:
            events = poll(None if timeout_s is None else math.ceil(timeout_s * 1000))
            self._lively = bool(events) and time.perf_counter() - since < LIVELY_S
        if self._unsent and events and events[0][1] & select.POLLOUT:
            del self._unsent[: self._give(self._unsent)]
            if not self._unsent:
                self._poller.modify(self._socket, select.POLLIN)
        return bool(events)

    def _give(self, data: bytes | bytearray) -> int:
        """To the kernel. -> bytes that are out of our hands."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # nobody will read it

    def _cut(self) -> bytes | None:
        """The first frame of what came in parts; None while it is not whole."""
        part = self._part
        size = int.from_bytes(part[:HEAD_BYTES], "little")
        if len(part) >= HEAD_BYTES and size > self._max_message_bytes:
            raise ConnectionAbortedError(
                f"expected a frame of at most {self._max_message_bytes} bytes, got {size}"
            )
        end = HEAD_BYTES + size
        if len(part) < end:
            return None
        with memoryview(part) as whole:
            frame = bytes(whole[HEAD_BYTES:end])
        del part[:end]
        return frame
