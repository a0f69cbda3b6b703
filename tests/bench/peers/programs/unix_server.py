"""The least that a server on a unix socket can do: epoll, `recv`, `send`.

    python unix_server.py REPLY_BYTES

Packets keep their borders (SOCK_SEQPACKET), so that nothing needs parsing.
"""

from __future__ import annotations

import select
import socket
import sys
import tempfile
import threading
from pathlib import Path

from lockstep import Words, serve


def main() -> None:
    words = Words()
    answer = bytes(int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "echo")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(64)
        threading.Thread(target=_loop, args=(listener, answer), daemon=True).start()
        serve(words, [path])


def _loop(listener: socket.socket, answer: bytes) -> None:
    epoll = select.epoll()
    door = listener.fileno()
    epoll.register(door, select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == door:
                peer, _ = listener.accept()
                peers[peer.fileno()] = peer
                epoll.register(peer, select.EPOLLIN)
                continue
            peer = peers[descriptor]
            if peer.recv(4096):
                peer.send(answer)
            else:
                epoll.unregister(descriptor)
                peers.pop(descriptor).close()


if __name__ == "__main__":
    main()
