"""A minimal client for gateway tests: frames by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim_clients.protocol import (
    Box,
    Discrete,
    GroupSpec,
    Hello,
    Step,
    StepGroup,
    decode,
    encode,
)
from sim_clients.protocol.messages import Message

SPEC = GroupSpec("agent", Box(-10, 10, (3,)), Discrete(4), 2)


class Peer:
    """One connection to a `World`."""

    def __init__(self, world: Any, name: bytes = b"a", specs: tuple[GroupSpec, ...] = (SPEC,)):
        self.world, self.name, self.specs = world, name, specs
        self.seq = 0
        self.raw: list[bytes] = []

    def send(self, frame: bytes) -> list[Message]:
        """Replies to this connection, decoded; the bytes stay in `raw`."""
        self.raw = [
            reply for peer, reply in self.world.tick((self.name, frame)) if peer == self.name
        ]
        return [decode(reply) for reply in self.raw]

    def hello(
        self, run_id: bytes = b"r" * 16, resume: bytes | None = None, **changes: Any
    ) -> Message:
        hello = Hello(1, ("test", "1"), run_id, resume, None, (), None, self.specs, {})
        (reply,) = self.send(encode(hello._replace(**changes)))
        return reply

    def frame(self, seq: int, obs: Any = None, flags: bytes = b"\x01\x01", **changes: Any) -> bytes:
        lanes = len(flags)
        obs = np.zeros((lanes, 3)) if obs is None else np.asarray(obs)
        rewards = np.zeros(lanes, "<f4").tobytes()
        group = StepGroup(None, flags, rewards, [obs.astype("<f4").tobytes()], None)
        return encode(Step(seq, [group._replace(**changes)]))

    def step(self, **changes: Any) -> Message:
        """The next STEP; its number is used up if it is answered with ACTIONS."""
        (reply,) = self.send(self.frame(self.seq + 1, **changes))
        if type(reply).__name__ == "Actions":
            self.seq += 1
        return reply
