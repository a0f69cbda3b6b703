"""The scripted server on a socket, or in the same thread as its client.

python -m sim_clients.conformance.peer --bind tcp://127.0.0.1:5555 --drop 3 --wait 5
"""

from __future__ import annotations

import argparse
import itertools
import signal
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

import zmq

from sim_clients.conformance.scripted import Peer, Script
from sim_clients.protocol import Event, decode, encode

__all__ = ["Peer", "PeerTransport", "Script", "ServedPeer"]

_PATIENCE_MS = 200  # how long a served peer lets those wait whom it told to


class PeerTransport:
    """A `Transport` whose other end is a `Peer` in the same thread; time is the caller's.

    Args:
        advance: called with the seconds a client would have waited, where nothing came.
    """

    capabilities: tuple[str, ...] = ()
    _routes = itertools.count(1)

    def __init__(self, peer: Peer, advance: Any = None):
        self.peer = peer
        self.sent: list[bytes] = []
        self.reconnects = 0
        self.closed = False
        self._advance = advance or (lambda seconds: None)
        self._inbox: deque[bytes] = deque()
        self._route = b"%d" % next(self._routes)

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self.push(frame for _, frame in self.peer.handle(self._route, frame))

    def push(self, frames: Iterable[bytes]) -> None:
        """Frames the server sends by itself."""
        self._inbox.extend(frames)

    def receive(self, timeout_s: float | None) -> bytes | None:
        if self._inbox:
            return self._inbox.popleft()
        if timeout_s is None:
            raise RuntimeError("expected an answer, got none, and would wait for ever.")
        self._advance(timeout_s)
        return None

    def move(self, path: str) -> None:
        """There is nowhere to move to."""

    def reconnect(self) -> None:
        self.reconnects += 1
        self._inbox.clear()
        self._route = b"%d" % next(self._routes)

    def close(self) -> None:
        self.closed = True


class ServedPeer:
    """A `Peer` on a ROUTER socket, served by a thread of its own.

    Args:
        bind: endpoint; port "*" takes a free one.

    Attributes:
        address: where clients connect.
    """

    def __init__(self, peer: Peer, bind: str = "tcp://127.0.0.1:*"):
        self.peer = peer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(bind)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        # Closing a socket that another thread polls is undefined, so the thread is told to stop.
        self._inside = self._context.socket(zmq.PAIR)
        self._outside = self._context.socket(zmq.PAIR)
        self._inside.bind("inproc://stop")
        self._outside.connect("inproc://stop")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._inside, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(_PATIENCE_MS))
            if not ready:
                for parts in self.peer.release():
                    self._socket.send_multipart(parts)
            if self._inside in ready:
                command = self._inside.recv()
                if not command:
                    break
                for parts in self.peer.tell(decode(command)):  # type: ignore[arg-type]
                    self._socket.send_multipart(parts)
            if self._socket in ready:
                route, *frames = self._socket.recv_multipart()
                for frame in frames:
                    for parts in self.peer.handle(route, frame):
                        self._socket.send_multipart(parts)
        self._socket.close()
        self._inside.close()

    def tell(self, event: Event) -> None:
        """Sends an EVENT to all sessions."""
        self._outside.send(encode(event))

    def close(self) -> None:
        """Stops the thread and frees the address. Idempotent."""
        if self._thread.is_alive():
            self._outside.send(b"")
            self._thread.join()
            self._outside.close(0)
            self._context.term()

    def __enter__(self) -> ServedPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> int:
    """Serves until interrupted; prints the address, and at the end one line of counts."""
    parser = argparse.ArgumentParser(
        prog="python -m sim_clients.conformance.peer", description=__doc__
    )
    parser.add_argument("--bind", default="tcp://127.0.0.1:*")
    parser.add_argument("--token")
    for name in ("drop", "wait", "restart", "forget", "garbage", "refuse"):
        parser.add_argument(f"--{name}", type=_numbers, default=frozenset(), metavar="K,K,...")
    options = vars(parser.parse_args(arguments))
    bind, token = options.pop("bind"), options.pop("token")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    peer = Peer(Script(**options), token=token)
    with ServedPeer(peer, bind) as served:
        print(served.address, flush=True)
        while not stop.wait(0.2):
            pass
    kinds = [type(message).__name__ for message in peer.received]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(f"received: {counts or 'nothing'}; episodes finished: {len(peer.finished())}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
