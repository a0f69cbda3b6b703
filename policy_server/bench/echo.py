"""The limit: a ROUTER that answers every message with bytes, and does nothing else."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import zmq


def main(pipe: Connection, bind: str, answer: bytes) -> None:
    """A process of its own. `pipe` says "books" and "stop"; see `child.Serving`."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(bind)
    stop = threading.Event()
    thread = threading.Thread(target=_serve, args=(socket, answer, stop), daemon=True)
    thread.start()
    pipe.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    while pipe.recv() == "books":
        pipe.send({"cpu_s": time.process_time()})
    stop.set()
    thread.join(5)
    socket.close(0)
    context.term()


def _serve(socket: zmq.Socket[bytes], answer: bytes, stop: threading.Event) -> None:
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
