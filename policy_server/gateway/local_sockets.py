"""The second way in: stream sockets for simulators on the same machine.

The same messages as over ZeroMQ, each behind its length in four bytes, without ZeroMQ's I/O
threads on the way: a bare echo over them answers 16 simulators three times as often
(`policy-server bench --workloads W1`). Simulators hear of the place in WELCOME and come over by
saying HELLO again (docs/PROTOCOL.md, section 16). The place is a directory that only this user
can enter.

Lives on the gateway's thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Container
from pathlib import Path

from sim_clients.protocol import HEAD_BYTES

log = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 18
"""Read at a time."""
KERNEL_BYTES = 1 << 22
"""Asked of the kernel for each direction of a connection, so that a large frame goes in one piece."""
JAM_BYTES = 1 << 20
"""Unread replies beyond which further ones are dropped, as a full ZeroMQ queue drops them."""
FLOOD = 64
"""Frames in one read beyond which a peer does not take part but floods: a simulator waits for
answers. It is sent away."""
PREFIX = "policy-server-socket-"
YOUNG_S = 60.0
"""A directory may be of a server that is just starting."""
STRANGER_S = 10.0
"""Whoever has not said HELLO by then is sent away."""


class LocalSockets:
    """Listens in a directory of its own. Peers are numbered; a number is never used again.

    Attributes:
        path: where it listens.
    """

    def __init__(self, max_frame_bytes: int, max_connections: int):
        self.max_frame_bytes = max_frame_bytes
        self.max_connections = max_connections
        self._directory = tempfile.mkdtemp(prefix=PREFIX)
        self.path = os.path.join(self._directory, "socket")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(self.path)
        except OSError:
            self._listener.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._listening = True
        self._by_fd: dict[int, _Connection] = {}
        self._by_peer: dict[int, _Connection] = {}
        self._last_peer = 0
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)

    @classmethod
    def open(cls, max_frame_bytes: int, max_connections: int) -> LocalSockets | None:
        """None where the system has no such sockets, or no place for one."""
        if not hasattr(select, "epoll"):
            return None
        _sweep(Path(tempfile.gettempdir()))
        try:
            return cls(max_frame_bytes, max_connections)
        except OSError as error:
            log.warning("no local socket: %s; simulators on this machine use ZeroMQ", error)
            return None

    def fileno(self) -> int:
        """Readable while there is something to `drain`."""
        return self._epoll.fileno()

    # -- in ----------------------------------------------------------------------------------

    def drain(self, inbox: list[tuple[bytes | int, bytes]], now: float) -> None:
        """Appends the frames that came, at most one read of each connection."""
        buffer, view, by_fd = self._buffer, self._view, self._by_fd
        for fd, event in self._epoll.poll(0):
            connection = by_fd.get(fd)
            if connection is None:
                self._accept(now)
                continue
            if event & select.EPOLLOUT:
                self._flush(connection)
            if not event & ~select.EPOLLOUT:
                continue
            try:
                n = connection.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError:
                n = 0
            if n == 0:
                self._drop(connection)
            elif (
                not connection.part
                and n == HEAD_BYTES + int.from_bytes(buffer[:4], "little")
                and n - HEAD_BYTES <= self.max_frame_bytes
            ):
                inbox.append((connection.peer, bytes(view[HEAD_BYTES:n])))
            else:
                self._cut(connection, view[:n], inbox)

    def _cut(
        self, connection: _Connection, data: memoryview, inbox: list[tuple[bytes | int, bytes]]
    ) -> None:
        """Not just one whole frame: part of one, or several."""
        part = connection.part
        part += data
        at = frames = 0
        while len(part) - at >= HEAD_BYTES:
            size = int.from_bytes(part[at : at + HEAD_BYTES], "little")
            if size > self.max_frame_bytes or frames == FLOOD:
                self._drop(connection)
                return
            end = at + HEAD_BYTES + size
            if len(part) < end:
                break
            with memoryview(part) as whole:
                inbox.append((connection.peer, bytes(whole[at + HEAD_BYTES : end])))
            at, frames = end, frames + 1
        del part[:at]

    def _accept(self, now: float) -> None:
        try:
            accepted = self._take()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                log.warning("%s: simulators that come over the local socket must wait", error)
                self._listening = False  # or the loop would be called again at once, for ever
                self._epoll.unregister(self._listener)
            return  # or it is gone already
        if len(self._by_fd) >= self.max_connections:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        self._last_peer += 1
        connection = _Connection(accepted, self._last_peer, now)
        self._by_fd[accepted.fileno()] = self._by_peer[connection.peer] = connection
        self._epoll.register(accepted, select.EPOLLIN)

    def _take(self) -> socket.socket:
        accepted, _ = self._listener.accept()
        return accepted

    # -- out ---------------------------------------------------------------------------------

    def send(self, peer: int, frame: bytes) -> bool | None:
        """True: it is on its way. False: the peer does not read. None: the peer is gone."""
        connection = self._by_peer.get(peer)
        if connection is None:
            return None
        if connection.unsent:
            if len(connection.unsent) > JAM_BYTES:
                return False
            connection.unsent += len(frame).to_bytes(HEAD_BYTES, "little") + frame
            return True
        data = len(frame).to_bytes(HEAD_BYTES, "little") + frame
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return None  # what it said before it left is still to be read
        if sent < len(data):
            connection.unsent += memoryview(data)[sent:]
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _flush(self, connection: _Connection) -> None:
        try:
            del connection.unsent[: connection.send(connection.unsent)]
        except BlockingIOError:
            return
        except OSError:
            return  # reading will tell
        if not connection.unsent:
            self._epoll.modify(connection.socket, select.EPOLLIN)

    # -- going -------------------------------------------------------------------------------

    def expire(self, now: float, known: Container[bytes | int]) -> None:
        """Sends strangers away: connections that no session in `known` is bound to. Listens again
        if there were no descriptors."""
        if not self._listening:
            self._listening = True
            self._epoll.register(self._listener, select.EPOLLIN)
        for connection in list(self._by_fd.values()):
            if connection.peer in known:
                connection.since = now
            elif now - connection.since > STRANGER_S:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.socket)
        del self._by_fd[connection.socket.fileno()], self._by_peer[connection.peer]
        connection.socket.close()

    def close(self) -> None:
        for connection in list(self._by_fd.values()):
            with contextlib.suppress(OSError):  # what is still unsent gets its last chance
                connection.send(connection.unsent)
            self._drop(connection)
        self._epoll.close()
        self._listener.close()
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        with contextlib.suppress(OSError):
            Path(self._directory).rmdir()


class _Connection:
    """One simulator's end here.

    Attributes:
        part: the beginning of a frame.
        unsent: whole replies, or the rest of one, that the kernel has not taken.
        since: when it was last known to belong to a session.
    """

    __slots__ = ("part", "peer", "recv_into", "send", "since", "socket", "unsent")

    def __init__(self, accepted: socket.socket, peer: int, now: float):
        self.socket = accepted
        self.peer = peer
        self.since = now
        self.part = bytearray()
        self.unsent = bytearray()
        self.recv_into = accepted.recv_into
        self.send = accepted.send


def _sweep(place: Path) -> None:
    """Servers that were killed leave their directories behind: takes away those of this user's
    where nobody listens."""
    for directory in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            old = time.time() - status.st_mtime > YOUNG_S
            if old and status.st_uid == os.getuid() and _deserted(directory / "socket"):
                shutil.rmtree(directory)


def _deserted(path: Path) -> bool:
    """Nothing else counts as a no: a full queue, or a file that is no socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return path.is_socket()
        except OSError:
            return False
    return False
