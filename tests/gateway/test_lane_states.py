"""What lanes remember: their own, from the beginning of each episode on, and nothing of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.gateway.wire import Peer

MODEL = {"memory": "lstm", "memory_size": 4, "hidden": (8,)}
FIRST, ENDED, CONTINUED = 1, 2, 16  # bits of a lane's flags


@pytest.fixture
def remembering(world: Any) -> Any:
    return world(model=MODEL, collection={"mode": "async", "fragment_length": 4})


def sight(seed: int, lanes: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(lanes, 3)).astype(np.float32)


def after(w: Any, seen: list[np.ndarray]) -> np.ndarray:
    """What a lane must remember of an episode with these observations: float32 `[S]`."""
    network = w.desk.served._executor.network
    state = torch.zeros(1, network.state_size)
    with torch.no_grad():
        for obs in seen:
            _, state = network.step((torch.from_numpy(obs[None]),), state)
    return state.numpy()[0]


def test_each_lane_remembers_its_own_episode(remembering: Any) -> None:
    w, peer = remembering, Peer(remembering)
    peer.hello()
    peer.step(obs=sight(1))
    peer.step(obs=sight(2), flags=b"\0\0")
    peer.step(obs=sight(3), flags=bytes([0, FIRST | ENDED]))
    states = w.desk.served.states
    np.testing.assert_allclose(
        states.now[0], after(w, [sight(1)[0], sight(2)[0], sight(3)[0]]), atol=1e-6
    )
    np.testing.assert_allclose(states.now[1], after(w, [sight(3)[1]]), atol=1e-6)
    np.testing.assert_array_equal(states.before[1], 0)
    assert abs(states.before[0]).min() > 0


def test_who_joins_in_mid_episode_remembers_nothing(remembering: Any) -> None:
    w, peer = remembering, Peer(remembering)
    peer.hello()
    peer.step(obs=sight(1))
    peer.step(obs=sight(2), flags=bytes([0, CONTINUED]))
    np.testing.assert_allclose(w.desk.served.states.now[1], after(w, [sight(2)[1]]), atol=1e-6)


def test_a_lane_of_another_session_does_not_inherit(remembering: Any) -> None:
    w, peer = remembering, Peer(remembering)
    peer.hello()
    peer.step(obs=sight(1))
    w.gateway.sessions.end(next(iter(w.gateway.sessions.by_id.values())), "test")
    other = Peer(w, b"b")
    other.hello(run_id=b"s" * 16, identity="other")
    other.step(obs=sight(5))
    seen = sorted(after(w, [row])[0] for row in sight(5))
    got = sorted(state[0] for state in w.desk.served.states.now if state.any())
    np.testing.assert_allclose(got, seen, atol=1e-6)


def test_unrolls_carry_what_their_lane_remembered_when_they_began(remembering: Any) -> None:
    """Unrolls of 4 steps: the second one begins in mid-episode."""
    w, peer = remembering, Peer(remembering)
    peer.hello()
    seen = [sight(i) for i in range(9)]
    for i, obs in enumerate(seen):
        peer.step(obs=obs, flags=b"\1\1" if i == 0 else b"\0\0")
    unrolls = list(w.desk.store.finished)
    assert [(u.lane, u.first_t) for u in unrolls] == [(0, 0), (1, 0), (0, 4), (1, 4)]
    np.testing.assert_array_equal(unrolls[0].state, 0)
    for unroll in unrolls[2:]:
        wanted = after(w, [obs[unroll.lane] for obs in seen[:4]])
        np.testing.assert_allclose(unroll.state, wanted, atol=1e-6)
    batch = w.desk.store.gather([w.desk.store.pop() for _ in unrolls])
    np.testing.assert_array_equal(batch.state, np.stack([u.state for u in unrolls]))


def test_what_was_executed_instead_is_judged_with_the_memory_of_then(remembering: Any) -> None:
    w, peer = remembering, Peer(remembering)
    peer.hello()
    peer.step(obs=sight(1))
    peer.step(obs=sight(2), flags=b"\0\0")
    store, row = w.desk.store, w.desk.store.base[1] + w.desk.store.t[1]
    told = int(store.categories[row, 0])
    done = (told + 1) % 4
    extras = {"action": [np.array([1], "<u4").tobytes(), [np.array([done], "<i8").tobytes()]]}
    peer.step(obs=sight(3), flags=b"\0\0", extras=extras)
    network = w.desk.served._executor.network
    state = torch.from_numpy(after(w, [sight(1)[1]])[None])
    with torch.no_grad():
        head, _ = network.step((torch.from_numpy(sight(2)[1:]),), state)
    wanted = torch.log_softmax(head, 1)[0, done].item()
    assert store.logp[row] == pytest.approx(wanted, abs=1e-6)
