"""A clock that only tests move, and clients whose server sits in the same thread."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from sim_clients.client import Client
from sim_clients.conformance.peer import Peer, PeerTransport, Script


class FakeClock:
    """Seconds since the test began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Even(random.Random):
    """Jitter of exactly zero."""

    def random(self) -> float:
        return 0.5


class Rig:
    """A client, its peer, the wire between them and the clock of both.

    `script`: names of `Script` -> numbers.
    """

    def __init__(
        self, groups: Any, peer: Peer | None = None, *, script: dict | None = None, **options: Any
    ):
        numbers = {key: frozenset(value) for key, value in (script or {}).items()}
        self.clock = FakeClock()
        self.peer = peer or Peer(Script(**numbers))
        self.wire = PeerTransport(self.peer, self.clock.advance)
        self.client = Client(
            None, groups, transport=self.wire, clock=self.clock, rng=Even(), **options
        )

    def flags(self) -> list[list[int]]:
        """Flag bytes of the first group of every STEP received."""
        return [list(step.groups[0].flags) for step in self.peer.steps()]


def obs(n: int = 4) -> np.ndarray:
    return np.arange(2.0 * n).reshape(n, 2)


def no(n: int = 4) -> np.ndarray:
    return np.zeros(n, bool)


def some(n: int, *lanes: int) -> np.ndarray:
    flags = np.zeros(n, bool)
    flags[list(lanes)] = True
    return flags


def balance(client: Client) -> bool:
    s = client.stats
    return s.sent == s.acknowledged + s.refused + s.lost_steps + client.in_flight
