"""Whatever simulators do, a batch holds exactly what happened, and the books balance."""

from __future__ import annotations

import random

import pytest

from sim_clients.protocol import MessageType
from tests.gateway.ledger import Auditor, LedgerSimulator


def play(
    world, rng: random.Random, ticks: int, simulators: int = 3, lanes: int = 4, mishaps: bool = True
):
    """Random ticks: simulators speak in any order, repeat themselves, vanish and come back."""
    fleet: list[LedgerSimulator] = []
    auditor = Auditor(None)

    def deliver(out):
        for peer, frame in out:
            for simulator in fleet:
                lost = mishaps and frame[1] == MessageType.ACTIONS and rng.random() < 0.03
                if simulator.peer == peer and not lost:
                    simulator.take(frame)

    for number in range(simulators):
        simulator = LedgerSimulator(number, lanes, auditor, rng)
        fleet.append(simulator)
        deliver(world.tick((simulator.peer, simulator.hello())))
        while simulator.session is None:
            deliver(world.tick((simulator.peer, simulator.hello())))
    real = world.auditors["default_policy"]
    real.executed, real.endings = auditor.executed, auditor.endings
    world.gateway.train(None)
    for _ in range(ticks):
        inbox = []
        for simulator in fleet:
            chance = rng.random()
            if simulator.waiting is not None:
                if chance < 0.3:
                    inbox.append((simulator.peer, simulator.waiting))  # a retry
            elif chance < 0.8:
                inbox.append((simulator.peer, simulator.step()))
            if mishaps and simulator.waiting is None and rng.random() < 0.01:
                # Another connection: resumes, and goes on with the same numbers.
                simulator.peer += b"'"
                inbox = [(p, f) for p, f in inbox if p != simulator.peer]
                inbox.append((simulator.peer, simulator.hello(simulator.session)))
            elif mishaps and simulator.waiting is None and rng.random() < 0.01:
                # The lease runs out: a new session, in the middle of the episodes.
                session = world.gateway.sessions.by_id.get(simulator.session)
                if session is not None:
                    world.gateway.sessions.end(session, "test")
                simulator.peer += b"+"
                inbox.append((simulator.peer, simulator.hello(simulator.session)))
        rng.shuffle(inbox)
        deliver(world.tick(*inbox, seconds=rng.choice([0.0005, 0.002, 0.5])))
        world.balances()
    return real, fleet


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "collection", [{}, {"ahead": True}, {"mode": "async", "fragment_length": 7}], ids=repr
)
def test_exactly_once_adjacent_and_balanced(world, seed, collection):
    w = world(collection=collection)
    auditor, fleet = play(w, random.Random(seed), ticks=1500)
    assert len(auditor.batches) > 5
    assert sum(s.answers for s in fleet) > 500
    accounts = w.desk.accounts
    assert accounts.trained + accounts.in_flight == len(auditor.seen)
    assert accounts.dropped["interrupted"] > 0


def test_episodes_that_nobody_will_have_whole_are_named_once(world):
    w = world(evaluation={"interval": 3, "episodes": 2})
    auditor, _ = play(w, random.Random(0), ticks=1500)
    desk = w.desk
    named = [int(number) for batch in auditor.batches for number in batch.missed]
    over = {episode.number: episode for episode in desk.episodes}
    assert any(over[number].ending == "interrupted" for number in named)
    assert any(over[number].evaluation for number in named)
    assert sorted(named + desk.ledger.missed) == sorted(
        episode.number
        for episode in desk.episodes
        if episode.ending == "interrupted" or episode.evaluation or not episode.complete
    )
    # As far as a successor is concerned, those under way are over.
    going = desk.ledger.number[desk.ledger.open].tolist()
    assert len(going) > 3
    assert sorted(desk.state().data["missed"]) == sorted(desk.ledger.missed + going)
    desk.load(desk.state())
    assert set(going) <= set(desk.ledger.missed)


def test_synchronous_without_mishaps_drops_only_what_was_abandoned(world):
    w = world()
    auditor, _ = play(w, random.Random(3), ticks=800, mishaps=False)
    dropped = {k: v for k, v in w.desk.accounts.dropped.items() if v}
    assert set(dropped) <= {"interrupted", "stale_policy"}
    assert w.desk.accounts.trained > 20 * w.settings.training.train_batch_size
    assert auditor.updates > 20


def test_ahead_of_a_slow_learner_is_one_batch_and_no_more(world):
    w = world(collection={"ahead": True, "straggler_s": 0.03})
    rng = random.Random(3)
    auditor, (quick, slow) = play(w, rng, ticks=0, simulators=2, mishaps=False)
    auditor.ticks_to_learn = 300
    for tick in range(3000):
        frames = []
        for simulator, pace in ((quick, 1), (slow, 10)):
            if tick % pace == 0:
                frames.append((simulator.peer, simulator.waiting or simulator.step()))
        for peer, frame in w.tick(*frames):
            (quick if peer == quick.peer else slow).take(frame)
        w.balances()
    assert len(auditor.batches) > 3
    unroll = 64 // 8
    for batch in auditor.batches:
        assert 64 <= batch.steps <= 64 + 4 * unroll, "nobody collects more than one batch ahead"


def test_asynchronous_learner_that_is_too_slow_bounds_the_queue(world):
    w = world(collection={"mode": "async", "fragment_length": 5, "max_queued_batches": 2})
    simulators = random.Random(5)
    auditor, _ = play(w, simulators, ticks=20, mishaps=False)
    auditor.ticks_to_learn = 10**9
    play_more(w, auditor, simulators, 1500)
    assert w.desk.accounts.dropped["overflow"] > 0
    assert w.desk.store.finished_steps <= 2 * 64 + 5 * 12


@pytest.mark.parametrize(("batch", "updates"), [(20, 50), (70, 15), (110, 8)])
def test_asynchronous_batches_smaller_than_what_ends_at_once_lose_nothing(world, batch, updates):
    """All lanes began together, so their unrolls end together: more than the queue may hold."""
    w = world(
        collection={
            "mode": "async",
            "fragment_length": 20,
            "max_queued_batches": 1,
            "max_policy_lag": 99,
        },
        training={"train_batch_size": batch, "minibatch_size": batch},
    )
    simulators = random.Random(5)
    auditor, _ = play(w, simulators, ticks=0, simulators=1, mishaps=False)
    auditor.ticks_to_learn = 1
    play_more(w, auditor, simulators, 400)
    assert auditor.updates > updates
    assert w.desk.accounts.dropped["overflow"] == 0


def play_more(w, auditor, rng, ticks):
    simulator = LedgerSimulator(9, 6, auditor, rng)
    w.tick((simulator.peer, simulator.hello()))
    for _ in range(ticks):
        for peer, frame in w.tick((simulator.peer, simulator.waiting or simulator.step())):
            if peer == simulator.peer:
                simulator.take(frame)
        w.balances()
