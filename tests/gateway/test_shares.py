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


SMALL = {"train_batch_size": 20, "minibatch_size": 20}
ROOM = 2 * 20 + 20
"""Steps that may wait where two lanes play: an unroll of each, and a batch."""


def left_behind(world, lag: int | None, lanes: int, ticks_to_learn: int, batches: int = 1):
    """Two lanes play; `lanes` others have just left, and what they did is in the queue."""
    queue = QUEUE | {"max_policy_lag": lag, "max_queued_batches": batches}
    w = world(collection=queue, training=SMALL)
    players = Players(w, [2, lanes])
    players.auditor.ticks_to_learn = ticks_to_learn
    for _ in range(21):
        players.tick()
    w.tick((players.peers[1].name, encode(Bye("done"))))
    players.playing[1] = 0
    return players


@pytest.mark.parametrize(("lag", "batches"), [(209, 1), (None, 1), (None, 10)])
@pytest.mark.parametrize("lanes", [10, 100])
def test_what_is_queued_when_a_session_leaves_is_learned_from(world, lag, batches, lanes):
    """And so is what comes meanwhile and waits behind it."""
    players = left_behind(world, lag, lanes, ticks_to_learn=3, batches=batches)
    w = players.world
    queued = w.desk.store.finished_steps
    assert queued > 20 * lanes - 100
    for _ in range(2 * queued):
        players.tick()
    lost = {reason: n for reason, n in w.desk.accounts.dropped.items() if n}
    assert lost == {"interrupted": lanes}, "the steps of those who left whose outcome nobody saw"
    players.auditor.ticks_to_learn = 10**9
    for _ in range(20 * (batches + 4)):
        players.tick()
        assert w.desk.store.finished_steps <= max(ROOM, 20 * batches), "and room is as it was"
    assert w.desk.accounts.dropped["overflow"] > 0
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


@pytest.mark.parametrize(("slower", "kept"), [(7, True), (12, False)])
def test_a_slow_lane_may_be_four_versions_behind(world, slower, kept):
    """Where nothing is said, and an unroll of each lane makes one batch."""
    training = {"train_batch_size": 40, "minibatch_size": 40}
    w = world(collection=QUEUE | {"max_policy_lag": None}, training=training)
    players = Players(w, [1, 1])
    players.auditor.ticks_to_learn = 1
    lags: list[int] = []

    def audit(batch: Batch) -> None:
        lags.append(w.desk.collector.version - int(batch.versions.min()))

    players.auditor.audit = audit
    for tick in range(20 * slower * 5):
        players.playing[1] = int(tick % slower == 0)
        players.tick()
    assert (max(lags) == 4) == kept
    assert (w.desk.accounts.dropped["stale_policy"] == 0) == kept


@pytest.mark.parametrize("lag", [99, None])
@pytest.mark.parametrize("ticks_to_learn", [16, 10**9])
def test_where_lanes_left_and_the_learner_is_slow_the_queue_shrinks(world, lag, ticks_to_learn):
    """An unroll at a time, to what those who play need."""
    players = left_behind(world, lag, lanes=100, ticks_to_learn=ticks_to_learn)
    store = players.world.desk.store
    queued = before = store.finished_steps
    assert queued > 1500
    for _ in range(3000):
        players.tick()
        assert before - 5 * 20 <= store.finished_steps <= queued + ROOM
        before = store.finished_steps
    assert before <= ROOM
    players.world.balances()


def test_what_lanes_left_may_also_be_too_old(world):
    """All at once, since it began at once; and the queue shrinks as well."""
    players = left_behind(world, 16, lanes=100, ticks_to_learn=16)
    accounts = players.world.desk.accounts
    for _ in range(3000):
        players.tick()
    assert accounts.dropped["stale_policy"] > 1000
    assert players.world.desk.store.finished_steps <= ROOM


def test_who_comes_and_goes_leaves_no_room_behind(world):
    w = world(collection=QUEUE, training=SMALL)
    players = Players(w, [2])
    players.auditor.ticks_to_learn = 10**9
    for visit in range(20):
        guest = Peer(w, b"guest%d" % visit, (SPEC._replace(lanes=1),))
        guest.hello(run_id=bytes([visit + 1]) * 16)
        for _ in range(25):
            players.tick()
        w.tick((guest.name, encode(Bye("done"))))
        for _ in range(35):
            players.tick()
            assert w.desk.store.finished_steps <= ROOM + 20
    for _ in range(20):
        players.tick()
    assert w.desk.store.finished_steps == ROOM


def test_what_was_left_over_has_room_beside_the_next_unrolls(world):
    training = {"train_batch_size": 70, "minibatch_size": 70}
    players = Players(world(collection=QUEUE, training=training), [6])
    players.auditor.ticks_to_learn = 1
    for _ in range(400):
        players.tick()
    accounts = players.world.desk.accounts
    assert accounts.trained > 2000
    assert accounts.dropped["overflow"] == 0
