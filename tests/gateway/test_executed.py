"""Simulators that did something else than they were told."""

from __future__ import annotations

import numpy as np
import pytest

from sim_clients.protocol import Actions, Box, Discrete, Error, GroupSpec, Step, StepGroup, encode
from sim_clients.protocol.limits import bounded
from tests.gateway.wire import Peer


def test_executed_actions_replace_what_was_sent(free):
    peer = Peer(free)
    peer.hello()
    reply = peer.step()
    told = np.frombuffer(reply.groups[0].actions[0], "<i8")
    done = (int(told[1]) + 1) % 4
    extras = {"action": [np.array([1], "<u4").tobytes(), [np.array([done], "<i8").tobytes()]]}
    peer.step(flags=b"\0\0", extras=extras)
    store, slots = free.desk.store, [0, 1]
    rows = store.base[slots]
    assert store.categories[rows, 0].tolist() == [told[0], done]
    again = free.desk.served.log_prob(
        tuple(c[rows] for c in store.obs),
        None,
        store.categories[rows],
        store.reals[rows],
        np.array(slots),
    )
    np.testing.assert_allclose(store.logp[rows], again, rtol=1e-6)


def test_an_executed_action_that_the_mask_forbids_is_not_learned_from(free):
    peer = Peer(free, specs=(GroupSpec("agent", Box(-1, 1, (1,)), Discrete(3), 1, mask=True),))
    peer.hello()
    mask = {"mask": b"\1\1\0"}
    group = StepGroup(None, b"\1", b"\0" * 4, [b"\0" * 4], mask)
    peer.send(encode(Step(1, [group])))
    done = {**mask, "action": [b"\0" * 4, [np.array([2], "<i8").tobytes()]]}
    (reply,) = peer.send(encode(Step(2, [group._replace(flags=b"\0", extras=done)])))
    assert isinstance(reply, Actions)
    assert free.desk.accounts.dropped["interrupted"] == 1
    assert np.isfinite(free.desk.store.logp[free.desk.store.base[0]])
    free.balances()


def acting_on(world, box: Box) -> tuple[Peer, bytes]:
    """A lane that has begun an episode, and the action of the box that it was told."""
    world.gateway.train(None)
    peer = Peer(world, specs=(GroupSpec("agent", Box(-1, 1, (3,)), box, 1),))
    peer.hello()
    reply = peer.step(flags=b"\1")
    assert isinstance(reply, Actions)
    return peer, reply.groups[0].actions[0]


def did(peer: Peer, numbers: list[float] | bytes, flags: bytes = b"\0"):
    """What the server says to a lane that goes on after it did that."""
    column = numbers if isinstance(numbers, bytes) else np.array(numbers, "<f4").tobytes()
    return peer.step(flags=flags, extras={"action": [b"\0" * 4, [column]]})


@pytest.mark.parametrize("numbers", [[1.0, 3.001], [-1.001, 3.0], [1e9, 0.0]])
def test_outside_its_box_nothing_can_have_been_done(free, numbers):
    peer = acting_on(free, Box(np.float32([-1, 2]), np.float32([1, 3]), (2,)))[0]
    error = did(peer, numbers)
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("bad_action", False)
    assert "expected an action of Box" in error.text
    assert "as declared" in error.text
    assert isinstance(did(peer, [-1.0, 3.000005]), Actions), "rounding is not a mistake"
    free.balances()


@pytest.mark.parametrize(
    "box",
    [
        Box(0.1, 0.1, (2,), "float64"),  # float32, in which policies act, has no such number
        Box(-np.inf, 0.1, (2,), "float64"),
        Box(0, np.inf, (2,)),
        Box(-np.finfo(float).max, np.finfo(float).max, (2,), "float64"),
        Box(-5, 7, (2,), "int32"),
        Box(-1e11, 1e11, (2,)),  # beyond what an observation may be
        Box(-1e11, 1e11, (2,), "float64"),
        Box(0, 2**40, (2,), "int64"),
        Box(-(2**31), 2**31 - 1, (2,), "int32"),  # in float32 there is no such bound
        Box(0, 2**32 - 1, (2,), "uint32"),
        Box(0, 2**64 - 1, (2,), "uint64"),
        Box(0.1, 0.3, (2,), "float16"),
        Box(-np.inf, 1e-3, (2,), "float16"),
    ],
    ids=str,
)
def test_what_was_sent_can_have_been_done(free, box):
    peer, sent = acting_on(free, box)
    for _ in range(20):
        reply = did(peer, sent)
        assert isinstance(reply, Actions), reply
        sent = reply.groups[0].actions[0]
    assert free.desk.accounts.dropped["interrupted"] == 0


def test_what_nobody_was_sent_is_not_looked_at(free):
    """A client that fills all rows: at the beginning of an episode there was no action."""
    peer = Peer(free, specs=(GroupSpec("agent", Box(-1, 1, (3,)), Box(1, 2, (2,)), 1),))
    peer.hello()
    assert isinstance(did(peer, [0.0, 0.0], flags=b"\1"), Actions)
    assert isinstance(did(peer, [0.0, 0.0]), Error)


@pytest.mark.parametrize(
    "box",
    [
        Box(-1e-6, 1e-6, (2,)),
        Box(-1e-7, 1e-7, (2,), "float64"),
        Box(1e6, 1e6 + 1, (2,), "float64"),
        Box(-3e4, 3e4, (2,)),
        Box(-1e6, np.inf, (2,)),
        Box(-np.inf, 5e5, (2,)),
        Box(-1e308, 1e308, (2,), "float64"),
    ],
    ids=str,
)
def test_other_actions_count_however_narrow_the_box(free, box):
    peer, sent = acting_on(free, box)
    told = np.frombuffer(sent, box.dtype)
    whole = bounded(box).all()
    middle, half = (
        (box.low / 2 + box.high / 2, box.high / 2 - box.low / 2) if whole else (0, np.ones(2))
    )
    done = np.where(told > middle, middle - 0.8 * half, middle + 0.8 * half).astype(box.dtype)
    assert isinstance(did(peer, done.tobytes()), Actions)
    store = free.desk.store
    stored = free.desk.served.scale.to_simulator(store.reals[store.base[0]])
    assert np.abs(stored - done).max() <= 0.1 * half.max()
    outside = (box.high + 0.3 * half if whole else np.full(2, 1e11)).astype(box.dtype)
    assert isinstance(did(peer, outside.tobytes()), Error)
    free.balances()


@pytest.mark.parametrize(
    "box",
    [
        Box(-1, 1, (40,)),
        Box(-1, 1, (40,), "float64"),
        Box(-1, 1, (40,), "float16"),
        Box(-5, 7, (40,), "int32"),
        Box(0, 255, (40,), "uint8"),
        Box(-1e-7, 1e-7, (40,)),
        Box(-np.inf, np.inf, (40,)),
    ],
    ids=str,
)
def test_doing_as_told_is_no_news(free, box):
    """With forty reals even a policy's own actions are improbable, and many are cut to the bounds, or
    rounded: what is learned from is what the policy drew."""
    peer, sent = acting_on(free, box)
    store, rows = free.desk.store, []
    for _ in range(10):
        at = store.base[0] + store.t[0]
        drawn, logp = store.reals[at].copy(), store.logp[at]
        assert (np.abs(drawn) > 1).any()
        reply = did(peer, sent)
        np.testing.assert_array_equal(store.reals[at], drawn)
        assert store.logp[at] == logp
        sent = reply.groups[0].actions[0]
        rows.append(logp)
    assert min(rows) < -50
    assert free.desk.accounts.dropped["interrupted"] == 0


@pytest.mark.parametrize("algorithm", ["SAC", "TQC", "TD3", "DDPG"])
def test_who_learns_from_anything_learns_from_what_is_improbable(world, algorithm):
    """A safety controller that takes over at the bounds is an example like any other."""
    w = world(algorithm=algorithm, collection={"mode": "async"}, training={"random_steps": 0})
    peer, _ = acting_on(w, Box(-1, 1, (6,)))
    assert isinstance(did(peer, [1.0] * 6), Actions)
    assert w.desk.accounts.dropped["interrupted"] == 0
    store = w.desk.store
    np.testing.assert_array_equal(store.reals[store.base[0]], np.ones(6))
    w.balances()


def test_who_learns_from_ratios_does_not(free):
    peer, _ = acting_on(free, Box(-np.inf, np.inf, (2,)))
    assert isinstance(did(peer, [3.0, 3.0]), Actions)
    assert free.desk.accounts.dropped["interrupted"] == 0
    assert isinstance(did(peer, [100.0, 3.0]), Actions)
    assert free.desk.accounts.dropped["interrupted"] == 1
    free.balances()
