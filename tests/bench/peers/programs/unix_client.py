"""Simulators on a unix socket.

python unix_client.py REQUEST_BYTES SIMULATORS ADDRESS
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from lockstep import Words, ask


def main() -> None:
    words = Words()
    frame, simulators, path = bytes(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]

    def make(number: int) -> Callable[[], None]:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.connect(path)

        def step() -> None:
            peer.send(frame)
            peer.recv(4096)

        return step

    ask(words, simulators, make)


if __name__ == "__main__":
    main()
