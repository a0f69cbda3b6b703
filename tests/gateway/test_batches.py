"""Synchronous batches fill without anybody waiting for a clock."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from sim_clients.protocol import Flag, Step, StepGroup, decode, encode
from tests.gateway.wire import SPEC, Peer

RED, BLUE = SPEC._replace(name="red", lanes=3), SPEC._replace(name="blue", lanes=3)
NEVER = {"collection": {"straggler_s": 1e9}}
SHARED = {"policies": {"one": {}}, "policy_mapping": {"*": "one"}}
APART = {
    "policies": {
        "one": {"training": {"train_batch_size": 64}},
        "two": {"training": {"train_batch_size": 100, "minibatch_size": 50}},
    },
    "policy_mapping": {"red": "one", "blue": "two"},
}


class Fleet:
    """Simulators of two groups whose lanes end, leave and return as they like."""

    def __init__(self, world, simulators, seed):
        self.rng = random.Random(seed)
        self.world = world
        self.open = {}
        self.peers = []
        for i in range(simulators):
            peer = Peer(world, b"sim-%d" % i, (RED, BLUE))
            peer.hello(run_id=bytes([i]) * 16)
            self.peers.append(peer)
        self.waiting = set()
        for auditor in world.auditors.values():
            auditor.audit = lambda batch: None

    def group(self, peer, name):
        rows, flags = [], []
        for lane in range(3):
            key = (peer.name, name, lane)
            fate = self.rng.random()
            if not self.open.get(key):
                if fate < 0.5:
                    continue  # stays idle
                flag = Flag.FIRST
            elif fate < 0.05:
                flag = Flag.TERMINATED | Flag.LEAVING
            elif fate < 0.1:
                flag = Flag.TERMINATED | Flag.FIRST
            else:
                flag = 0
            rows.append(lane)
            flags.append(flag)
            self.open[key] = not flag & Flag.LEAVING
        n = len(rows)
        obs = np.zeros((n, 3), "<f4").tobytes()
        lanes = np.array(rows, "<u4").tobytes()
        return StepGroup(lanes, bytes(flags), b"\0" * (4 * n), [obs], None)

    def tick(self):
        inbox = []
        for peer in self.peers:
            if peer not in self.waiting and self.rng.random() < 0.8:
                peer.seq += 1
                groups = [self.group(peer, "red"), self.group(peer, "blue")]
                inbox.append((peer.name, encode(Step(peer.seq, groups))))
                self.waiting.add(peer)
        for name, frame in self.world.tick(*inbox):
            message = decode(frame)
            assert type(message).__name__ != "Error", message
            if type(message).__name__ == "Actions":
                self.waiting -= {peer for peer in self.peers if peer.name == name}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("multi_agent", [SHARED, APART], ids=["one policy", "two policies"])
@pytest.mark.parametrize("seed", range(3))
def test_lanes_out_of_step_never_wait_for_each_other(world, multi_agent, seed, ahead):
    w = world(multi_agent=multi_agent, collection=NEVER["collection"] | {"ahead": ahead})
    fleet = Fleet(w, 3, seed)
    w.gateway.train(None)
    for _ in range(1500):
        fleet.tick()
        w.balances()
    for desk in w.gateway.desks.values():
        assert desk.updates > 20, "the batches fill"
        assert desk.accounts.dropped["stale_policy"] == 0, "and nothing is cut in flight"


@pytest.mark.parametrize("ahead", [False, True])
def test_turns_fill_a_batch_without_the_clock(world, ahead):
    """Two lanes of one simulator act in turn: neither can speak before the other is answered."""
    w = world(collection=NEVER["collection"] | {"ahead": ahead})
    peer = Peer(w)
    peer.hello()
    w.auditors["default_policy"].audit = lambda batch: None
    w.gateway.train(None)
    lanes = [np.array([lane], "<u4").tobytes() for lane in (0, 1)]
    ticks = 0
    for turn in range(400):
        flags = b"\1" if turn < 2 else b"\0"
        frame = peer.frame(turn + 1, flags=flags, lanes=lanes[turn % 2])
        answers = peer.send(frame)
        while not any(type(a).__name__ == "Actions" for a in answers):
            ticks += 1
            assert ticks < 200, "nobody moves"
            answers = [decode(f) for p, f in w.tick() if p == peer.name]
        w.balances()
    assert w.desk.updates >= 5
    # A lane whose turn it is not loses the step it has in flight, once per batch.
    assert w.desk.accounts.dropped["stale_policy"] <= w.desk.updates + 1


def test_ahead_the_next_batch_fills_while_the_learner_works(world):
    w = world(collection=NEVER["collection"] | {"ahead": True})
    peers = [Peer(w, b"sim-%d" % i) for i in range(2)]
    for i, peer in enumerate(peers):
        peer.hello(run_id=bytes([i]) * 16)
    auditor = w.auditors["default_policy"]
    auditor.audit, auditor.ticks_to_learn = lambda batch: None, 300
    w.gateway.train(None)
    waiting: set[bytes] = set()
    taken = []
    for tick in range(1000):
        inbox = []
        for peer in peers:
            if peer.name not in waiting:
                peer.seq += 1
                flags = b"\1\1" if peer.seq == 1 else b"\0\0"
                inbox.append((peer.name, peer.frame(peer.seq, flags=flags)))
                waiting.add(peer.name)
        for name, frame in w.tick(*inbox):
            if type(decode(frame)).__name__ == "Actions":
                waiting.discard(name)
        if len(auditor.batches) > len(taken):
            taken.append(tick)
            assert w.desk.collector.learning
        elif taken and tick == taken[-1] + 200:
            assert w.desk.collector.learning
            assert w.desk.store.finished_steps == 64, "the next batch is full,"
            assert len(waiting) == 2, "and everybody waits"
    assert len(taken) >= 3
    assert [b - a for a, b in itertools.pairwise(taken)] == [300] * (len(taken) - 1)


def test_ahead_who_waits_goes_on_when_somebody_who_leaves_completes_the_batch(world):
    w = world(collection=NEVER["collection"] | {"ahead": True})
    stays, leaves = Peer(w, b"stays"), Peer(w, b"leaves")
    for i, peer in enumerate((stays, leaves)):
        peer.hello(run_id=bytes([i]) * 16)
    auditor = w.auditors["default_policy"]
    auditor.audit, auditor.ticks_to_learn = lambda batch: None, 300
    w.gateway.train(None)
    for seq in range(1, 17):
        flags = b"\1\1" if seq == 1 else b"\0\0"
        w.tick(*((peer.name, peer.frame(seq, flags=flags)) for peer in (stays, leaves)))
    assert w.tick((stays.name, stays.frame(17, flags=b"\0\0"))) == []
    gone = bytes([Flag.TERMINATED | Flag.LEAVING] * 2)
    w.tick((leaves.name, leaves.frame(17, flags=gone)))
    assert w.desk.collector.learning
    assert w.gateway.patience_s == 0, "at once"
    assert [peer for peer, _ in w.tick()] == [stays.name]


def test_ahead_no_batch_leaves_while_an_evaluation_has_the_simulators(world):
    w = world(collection=NEVER["collection"] | {"ahead": True})
    peer = Peer(w)
    peer.hello()
    auditor = w.auditors["default_policy"]
    auditor.audit, auditor.ticks_to_learn = lambda batch: None, 100
    w.gateway.train(None)
    seq = 0

    def tick(flags):
        nonlocal seq
        if w.gateway.waiting:
            w.tick()
        else:
            seq += 1
            w.tick((peer.name, peer.frame(seq, flags=flags)))
        w.balances()

    while w.desk.store.finished_steps < 64 or not w.desk.collector.learning:
        tick(b"\1\1" if seq == 0 else b"\0\0")
    w.gateway.evaluate(2)
    for _ in range(150):
        tick(b"\0\0")
        assert w.desk.evaluation.exclusive
    assert w.desk.updates == 1
    assert len(auditor.batches) == 1
    while w.desk.evaluation.exclusive:
        tick(bytes([Flag.TERMINATED | Flag.FIRST] * 2))
    tick(b"\0\0")
    assert len(auditor.batches) == 2, "then it does"


def test_evaluation_of_policies_with_episodes_of_different_length(world):
    w = world(multi_agent=APART)
    peer = Peer(w, specs=(RED._replace(lanes=1), BLUE._replace(lanes=1)))
    peer.hello()
    for auditor in w.auditors.values():
        auditor.audit = lambda batch: None
    w.gateway.train(1)

    def play(until):
        for _tick in range(3000):
            if until():
                return
            if not peer.waiting:
                peer.turn += 1
                flags = [
                    b"\1" if peer.turn == 1 else b"\3" if peer.turn % n == 0 else b"\0"
                    for n in (5, 50)
                ]
                obs = [np.zeros((1, 3), "<f4").tobytes()]
                groups = [StepGroup(None, f, b"\0" * 4, obs, None) for f in flags]
                peer.seq += 1
                out = w.tick((peer.name, encode(Step(peer.seq, groups))))
                peer.waiting = True
            else:
                out = w.tick()
            for _, frame in out:
                if type(decode(frame)).__name__ == "Actions":
                    peer.waiting = False
            w.balances()
        raise AssertionError("it never ends")

    peer.turn, peer.waiting = 0, False
    play(w.gateway.trained)
    for _ in range(2):
        w.gateway.evaluate(4)
        play(w.gateway.evaluated)
        assert [len(d.evaluation.last) for d in w.gateway.desks.values()] == [4, 4]
        w.gateway.train(1)
        play(w.gateway.trained)
    assert not any(desk.evaluation.exclusive for desk in w.gateway.desks.values())
