"""A clock that only tests move, and clients whose server sits in the same thread."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

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
    """A client, its peer, the wire between them and the clock of both."""

    def __init__(self, groups: Any, script: Script | None, peer_options: dict, options: dict):
        self.clock = FakeClock()
        self.peer = Peer(script, **peer_options)
        self.wire = PeerTransport(self.peer, self.clock.advance)
        self.client = Client(
            None, groups, transport=self.wire, clock=self.clock, rng=Even(), **options
        )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rig() -> Callable[..., Rig]:
    def make(groups: Any, peer: dict | None = None, *, options: dict | None = None, **script: Any) -> Rig:
        numbers = {key: frozenset(value) for key, value in script.items()}
        return Rig(groups, Script(**numbers), peer or {}, options or {})

    return make
