"""Simulators on a unix socket, several in a process.

python unix_client.py REQUEST_BYTES SIMULATORS PROCESSES ADDRESS
"""

from __future__ import annotations

import select
import socket
import sys
import time

from lockstep import Play, Words, ask


def main() -> None:
    words = Words()
    frame = bytes(int(sys.argv[1]))
    simulators, processes, path = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

    def make(number: int) -> Play:
        mine = [_connect(path) for i in range(simulators) if i % processes == number]
        epoll = select.epoll()
        for peer in mine:
            epoll.register(peer, select.EPOLLIN)
        by_descriptor = {peer.fileno(): peer for peer in mine}

        def play(begin: float, end: float) -> list[float]:
            now = time.perf_counter
            latencies: list[float] = []
            sent_at = {}
            for descriptor, peer in by_descriptor.items():
                sent_at[descriptor] = now()
                peer.send(frame)
            while sent_at:
                for descriptor, _ in epoll.poll():
                    peer = by_descriptor[descriptor]
                    peer.recv(4096)
                    at = now()
                    before = sent_at.pop(descriptor)
                    if begin <= at < end:
                        latencies.append(at - before)
                    if at < end:
                        sent_at[descriptor] = now()
                        peer.send(frame)
            return latencies

        return play

    ask(words, processes, make)


def _connect(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(path)
    return peer


if __name__ == "__main__":
    main()
