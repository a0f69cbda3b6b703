"""The limits: servers that answer every message with bytes, and do nothing else."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq

LARGEST_BYTES, CONNECTIONS = 1 << 28, 1024

Serve = Callable[[threading.Event], None]


def main(pipe: Connection, bind: str, answer: bytes) -> None:
    """A ROUTER, in a process of its own. `pipe` says "books" and "stop"; see `child.Serving`."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(bind)
    address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    _stand(pipe, address, lambda stop: _router(socket, answer, stop))
    socket.close(0)
    context.term()


def local(pipe: Connection, answer: bytes) -> None:
    """The same on local sockets, those of the real server."""
    from policy_server.gateway.local_sockets import LocalSockets

    sockets = LocalSockets(LARGEST_BYTES, CONNECTIONS)
    _stand(pipe, sockets.path, lambda stop: _local(sockets, answer, stop))
    sockets.close()


def _stand(pipe: Connection, address: str, serve: Serve) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(stop,), daemon=True)
    thread.start()
    pipe.send(address)
    while pipe.recv() == "books":
        pipe.send({"cpu_s": time.process_time()})
    stop.set()
    thread.join(5)


def _router(socket: zmq.Socket[bytes], answer: bytes, stop: threading.Event) -> None:
    """The loop of the real server, less everything it is there for."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poll, recv, send = poller.poll, socket.recv, socket.send
    more, nowait = zmq.SNDMORE | zmq.NOBLOCK, zmq.NOBLOCK
    while not stop.is_set():
        if not poll(200):
            continue
        peers: list[Any] = []
        try:
            while True:
                peer = recv(nowait)
                recv(nowait)
                peers.append(peer)
        except zmq.Again:
            pass
        for peer in peers:
            send(peer, more)
            send(answer, nowait)


def _local(sockets: Any, answer: bytes, stop: threading.Event) -> None:
    poller = select.poll()
    poller.register(sockets, select.POLLIN)
    poll, drain, send = poller.poll, sockets.drain, sockets.send
    while not stop.is_set():
        if not poll(200):
            continue
        inbox: list[tuple[int, bytes]] = []
        drain(inbox, 0.0)
        for peer, _ in inbox:
            send(peer, answer)
