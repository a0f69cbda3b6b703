"""How the lanes of several sessions share a synchronous batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policy_server.replay.steps import StepBuffer
from policy_server.types import Batch
from sim_clients.protocol import Actions, Bye, decode, encode
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


def test_a_batch_that_outgrows_the_replay_buffer_ends_no_run(world):
    """Whoever joins has a part in the batch, however many there are."""
    training = {"buffer_size": 500, "steps_per_update": 64, "learning_starts": 200}
    players = Players(
        world(algorithm="DQN", training=training, collection={"fragment_length": 64}), [1] * 9
    )
    buffer, sizes = StepBuffer(500, torch.device("cpu")), []

    def insert(batch: Batch) -> None:
        _, new = buffer.insert(batch, batch.rewards)
        sizes.append((batch.steps, len(new)))

    players.auditor.audit = insert
    for _ in range(300):
        players.tick()
    assert len(sizes) > 2
    assert all(steps == 9 * 64 and 0 < kept < 500 for steps, kept in sizes)
    assert players.world.gateway.failure is None


QUEUE = {"mode": "async", "fragment_length": 20, "max_queued_batches": 1, "max_policy_lag": 99}


def left_behind(world, lag: int | None, lanes: int, ticks_to_learn: int) -> Players:
    """Two lanes, and the queue of as many more that have just left."""
    training = {"train_batch_size": 20, "minibatch_size": 20}
    w = world(collection=QUEUE | {"max_policy_lag": lag}, training=training)
    players = Players(w, [2, lanes])
    players.auditor.ticks_to_learn = ticks_to_learn
    for _ in range(21):
        players.tick()
    w.tick((players.peers[1].name, encode(Bye("done"))))
    players.playing[1] = 0
    return players


@pytest.mark.parametrize("lag", [99, None])
def test_what_is_queued_when_a_session_leaves_is_learned_from(world, lag):
    players = left_behind(world, lag, lanes=10, ticks_to_learn=3)
    w = players.world
    assert w.desk.store.finished_steps > 100
    trained = w.desk.accounts.trained
    for _ in range(39):
        players.tick()
    assert w.desk.accounts.trained > trained + 200
    lost = {reason: n for reason, n in w.desk.accounts.dropped.items() if n}
    assert lost == {"interrupted": 10}, "the steps of those who left whose outcome nobody saw"
    players.auditor.ticks_to_learn = 10**6
    for _ in range(200):
        players.tick()
    assert w.desk.accounts.dropped["overflow"] > 0
    room = 12 * 20 + 20
    assert w.desk.store.finished_steps <= room, "where nothing is learned it is bounded still"
    w.balances()


@pytest.mark.parametrize("lanes", [16, 64, 128])
def test_unrolls_that_end_together_are_learned_from_before_they_are_too_old(world, lanes):
    """With the settings that IMPALA has; the learner is fast enough."""
    w = world(algorithm="IMPALA")
    players = Players(w, [lanes])
    players.auditor.ticks_to_learn = 2
    for _ in range(600):
        players.tick()
    accounts = w.desk.accounts
    assert accounts.trained > 0.8 * 600 * lanes * min(1, 64 / lanes)
    assert sum(accounts.dropped.values()) < 0.05 * accounts.trained


@pytest.mark.parametrize("lag", [99, None])
def test_where_lanes_left_and_the_learner_is_slow_the_queue_shrinks(world, lag):
    players = left_behind(world, lag, lanes=100, ticks_to_learn=16)
    w = players.world
    queued = w.desk.store.finished_steps
    assert queued > 1500
    for _ in range(3000):
        players.tick()
        assert w.desk.store.finished_steps <= queued + 100 * 20
    assert w.desk.store.finished_steps <= 2 * 20 + 20
    w.balances()


def test_what_was_left_over_has_room_beside_the_next_unrolls(world):
    training = {"train_batch_size": 70, "minibatch_size": 70}
    players = Players(world(collection=QUEUE, training=training), [6])
    players.auditor.ticks_to_learn = 1
    for _ in range(400):
        players.tick()
    accounts = players.world.desk.accounts
    assert accounts.trained > 2000
    assert accounts.dropped["overflow"] == 0
