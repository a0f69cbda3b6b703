"""How the lanes of several sessions share a synchronous batch."""

from __future__ import annotations

import numpy as np
import pytest

from sim_clients.protocol import Actions, decode
from tests.gateway.wire import SPEC, Peer

UNROLL = 80
"""R2D2's; more than a batch of its has to have."""


class Players:
    """Sessions with these numbers of lanes, of which the first `playing` take part."""

    def __init__(self, world, lanes: list[int], playing: list[int] | None = None):
        self.world, self.playing = world, playing or lanes
        world.gateway.train(None)
        self.peers = [
            Peer(world, bytes([65 + i]), (SPEC._replace(lanes=n),)) for i, n in enumerate(lanes)
        ]
        for i, peer in enumerate(self.peers):
            peer.hello(run_id=bytes([i]) * 16)
        (self.auditor,) = world.auditors.values()
        self.auditor.audit = lambda batch: None  # these observations are not stamped
        self.answered = [0] * len(lanes)
        self.asking = [True] * len(lanes)

    def tick(self, seconds: float = 0.001) -> int:
        """Those who are not waiting for an answer go on; how many there were answered."""
        inbox = []
        for i, (peer, n) in enumerate(zip(self.peers, self.playing, strict=True)):
            if n and self.asking[i]:
                flags = bytes([not self.answered[i]]) * n
                lanes = np.arange(n, dtype="<u4").tobytes()
                inbox.append(
                    (peer.name, peer.frame(self.answered[i] + 1, flags=flags, lanes=lanes))
                )
                self.asking[i] = False
        names = [peer.name for peer in self.peers]
        told = [
            names.index(to)
            for to, frame in self.world.tick(*inbox, seconds=seconds)
            if isinstance(decode(frame), Actions)
        ]
        for i in told:
            self.answered[i] += 1
            self.asking[i] = True
        return len(told)


@pytest.mark.parametrize(("algorithm", "unroll"), [("R2D2", UNROLL), ("DQN", 8), ("PPO", 8)])
def test_nobody_waits_while_a_batch_is_filled_together(world, algorithm, unroll):
    """Sessions of a lane each, whose unrolls are as long as the algorithm has them."""
    players = Players(world(algorithm=algorithm), [1] * 8)
    for _ in range(unroll):
        assert players.tick() == 8
    players.tick()  # the outcome of the last step comes with the next
    (batch,) = players.auditor.batches
    assert batch.lengths.tolist() == [unroll] * 8


def test_lanes_that_do_not_play_are_not_waited_for(world):
    """A batch of long unrolls leaves when those who play have had one each."""
    players = Players(world(algorithm="R2D2"), [1, 1, 1, 1, 64], [1, 1, 1, 0, 1])
    players.auditor.ticks_to_learn = 1
    waited = sum(players.tick() < 4 for _ in range(10 * UNROLL))
    assert len(players.auditor.batches) >= 9
    assert {tuple(batch.lengths) for batch in players.auditor.batches} == {(UNROLL,) * 4}
    assert waited < 30, "but for the learner"


def test_who_joins_late_has_a_part_and_who_had_one_waits(world):
    players = Players(world(algorithm="R2D2"), [1, 3], [1, 0])
    players.auditor.ticks_to_learn = 1
    for _ in range(UNROLL // 2):
        assert players.tick() == 1
    players.playing[1] = 3
    for _ in range(UNROLL // 2):
        assert players.tick() == 2
    waited = sum(players.tick() == 1 for _ in range(UNROLL // 2))
    assert waited == UNROLL // 2, "the first lane has had its unroll"
    for _ in range(3):
        players.tick()
    (batch,) = players.auditor.batches
    assert batch.lengths.tolist() == [UNROLL] * 4
    assert sum(players.tick() for _ in range(10)) == 20, "and both go on"
