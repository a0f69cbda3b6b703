"""Steps whose answers come too late: an engine that must not wait goes on without."""

from __future__ import annotations

import numpy as np
import pytest
from client_rigs import Rig, balance, no, obs, some

from sim_clients.client import Group
from sim_clients.conformance.peer import Peer
from sim_clients.errors import StepTimeout
from sim_clients.protocol import ActionsGroup, Box, Discrete

FIRST, CONT = 1, 16
TWO = Group(Box(-9, 9, (2,)), Discrete(3), lanes=2)
ONE = Group(Box(-9, 9, (2,)), Discrete(3), lanes=1)


class Slow:
    """Holds the answers back until told otherwise."""

    def __init__(self, rig: Rig):
        self.held: list[bytes] = []
        self.rig = rig
        rig.wire.push = self.held.extend

    def give(self) -> None:
        self.rig.wire._inbox.extend(self.held)
        self.held.clear()


def slow(groups=TWO, **options) -> tuple[Rig, Slow]:
    rig = Rig(groups, timeout_s=0.1, **options)
    rig.client.step(obs(2))
    return rig, Slow(rig)


def test_raise_then_wait_for_the_same_answer():
    rig, server = slow()
    with pytest.raises(StepTimeout, match=r"within 0\.1 s"):
        rig.client.step(obs(2), [1, 1])
    assert rig.client.receive_actions(0.05) is None
    server.give()
    assert rig.client.receive_actions().tolist() == [0, 0]
    server.give()
    rig.wire.push = rig.wire._inbox.extend
    rig.client.step(obs(2), [1, 1])
    assert rig.flags()[-1] == [0, 0]  # nothing was lost
    assert balance(rig.client)


def test_raise_then_go_on_without():
    rig, server = slow()
    with pytest.raises(StepTimeout):
        rig.client.step(obs(2), [1, 1])
    sent = len(rig.peer.steps())
    with pytest.raises(StepTimeout, match="this step is lost"):
        rig.client.step(obs(2), [1, 1], [False, True])
    assert len(rig.peer.steps()) == sent
    assert rig.client.stats.lost_steps == 1
    server.give()
    rig.wire.push = rig.wire._inbox.extend
    rig.client.step(obs(2), [1, 1])
    assert rig.flags()[-1] == [CONT, CONT]
    assert balance(rig.client)


def test_repeat_never_waits_twice_and_says_what_was_missed():
    rig, server = slow(on_timeout="repeat")
    began = rig.clock.now
    assert rig.client.step(obs(2), [1, 1]).tolist() == [0, 0]
    assert rig.clock.now - began == pytest.approx(0.1)
    for ends in (no(2), some(2, 0), no(2)):  # lane 0 ends in a step nobody sees
        before = rig.clock.now
        rig.client.step(obs(2), [1, 1], ends)
        assert rig.clock.now == before
    assert rig.client.stats.lost_steps == 3
    server.give()
    rig.wire.push = rig.wire._inbox.extend
    rig.client.step(obs(2), [1, 1], some(2, 1))
    assert rig.flags()[-1] == [CONT, FIRST]
    rig.client.step(obs(2), [1, 1], no(2))
    assert rig.flags()[-1] == [0, 0]
    assert balance(rig.client)
    assert [e[2] for e in rig.peer.finished()] == ["abandoned"]


def test_lanes_that_left_unseen_begin_again():
    rig, server = slow(on_timeout="repeat")
    rig.client.step(obs(2), [1, 1])
    rig.client.step(obs(2), [1, 1], [True, False], leaving=[True, False])  # lost
    server.give()
    rig.wire.push = rig.wire._inbox.extend
    rig.client.step(obs(2), [1, 1])
    assert rig.flags()[-1] == [FIRST, CONT]


def test_repeat_returns_each_lanes_last_action():
    rig = Rig(TWO, timeout_s=0.1, on_timeout="repeat")
    rig.peer._zeros = lambda session, step: [ActionsGroup(0, [np.array([2, 1], "<i8").tobytes()])]
    rig.client.step(obs(2))
    server = Slow(rig)
    assert rig.client.step(obs(2), [1, 1]).tolist() == [2, 1]
    again = rig.client.step(obs(1), [1], lanes=[1])
    assert again.tolist() == [1]
    again[0] = 0
    assert rig.client.step(obs(1), [1], lanes=[1]).tolist() == [1]
    assert server.held


def test_fallback_function_gets_the_observations():
    calls = []

    def fallback(group, seen, n):
        calls.append((group, np.asarray(seen).tolist(), n))
        return np.full(n, 2)

    rig, _ = slow(on_timeout=fallback)
    assert rig.client.step(obs(2), [1, 1]).tolist() == [2, 2]
    assert rig.client.step(obs(2)[1:], [1], lanes=[1]).tolist() == [2]
    assert calls == [("agent", obs(2).tolist(), 2), ("agent", [[2.0, 3.0]], 1)]


def test_a_server_that_is_away_from_the_start_does_not_freeze_the_engine():
    peer = Peer()
    peer.dead = True
    rig = Rig(TWO, peer, timeout_s=0.1, on_timeout="repeat")
    for t in range(80):
        before = rig.clock.now
        rig.client.step(obs(2), [1, 1])
        assert rig.clock.now - before <= 0.1 + 1e-9
        rig.clock.advance(0.2)
        if t == 40:
            peer.revive()
    assert rig.client.ready
    assert rig.client.stats.lost_steps > 10
    assert all(f[0] in (FIRST, CONT, 0) for f in rig.flags())
    assert balance(rig.client)
