"""What the sequence buffer holds, against the unrolls it was made of."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from other_dtype import refuses_halves

from policy_server.algorithms.observations import ObservationRows
from policy_server.algorithms.sequences import states_before
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError
from policy_server.networks import build_network
from policy_server.networks.recurrent_q import RecurrentQNetwork
from policy_server.replay.sequences import SequenceBuffer
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete
from tests.algorithms.handmade import random_batch

K, L, LANES, STEPS = 2, 4, 6, 17
CPU = torch.device("cpu")


def played(masked: bool, seed: int = 0) -> tuple[Batch, RecurrentQNetwork]:
    spaces = PolicySpaces(Box(-9, 9, (3,)), Discrete(5), masked)
    torch.manual_seed(0)
    plain = build_network(spaces, ModelConfig(hidden=(8,)))
    made = RecurrentQNetwork(spaces, ModelConfig(hidden=(8,), memory_size=4), dueling=False)
    lengths = np.array([17, 17, 5, 1, 12, 17])
    batch = random_batch(plain, spaces, STEPS, LANES, seed, lengths, endings=0.1)
    state = np.random.default_rng(seed).normal(size=(LANES, 8)).astype(np.float32)
    return dataclasses.replace(batch, state=state), made


def buffer(made: RecurrentQNetwork, capacity: int = 100) -> SequenceBuffer:
    def before(batch: Batch, t: np.ndarray, b: np.ndarray) -> np.ndarray:
        return states_before(made, ObservationRows.of_batch(batch, CPU), batch, t, b)

    return SequenceBuffer(capacity, K, L, CPU, before)


def state_by_hand(made: RecurrentQNetwork, batch: Batch, t: int, b: int) -> np.ndarray:
    assert batch.state is not None
    state = torch.from_numpy(batch.state[b : b + 1].copy())
    with torch.no_grad():
        for time in range(t):
            _, state = made.step((torch.from_numpy(batch.obs[0][time, b][None]),), state)
            if batch.terminated[time, b] or batch.truncated[time, b]:
                state = torch.zeros_like(state)
    return state.numpy()[0]


@pytest.mark.parametrize("masked", [False, True])
def test_every_step_is_there_once_with_all_that_belongs_to_it(masked: bool) -> None:
    batch, made = played(masked)
    store = buffer(made)
    gone, places = store.insert(batch, batch.rewards)
    assert len(gone) == 0
    drawn = store.sequences(places)
    seen = np.zeros((STEPS, LANES), int)
    ended = batch.terminated | batch.truncated
    for i in range(len(places)):
        length = int(drawn.lengths[i])
        first = drawn.obs[0][K, i].numpy()
        ((t, b),) = np.argwhere((batch.obs[0][:-1] == first).all(2))
        end = t + length
        seen[t:end, b] += 1
        assert not ended[t : end - 1, b].any()
        np.testing.assert_array_equal(drawn.obs[0][K : K + length, i], batch.obs[0][t:end, b])
        np.testing.assert_array_equal(drawn.categories[:length, i], batch.categories[t:end, b])
        np.testing.assert_array_equal(drawn.rewards[:length, i], batch.rewards[t:end, b])
        over = bool(ended[end - 1, b])
        assert bool(drawn.terminated[i]) == bool(batch.terminated[end - 1, b])
        behind = drawn.obs[0][K + length, i].numpy()
        if batch.truncated[end - 1, b]:
            (row,) = np.flatnonzero((batch.final_index == (end - 1, b)).all(1))
            np.testing.assert_array_equal(behind, batch.final_obs[0][row])
            assert not masked, "nobody knows what is allowed there"
        elif not over:
            np.testing.assert_array_equal(behind, batch.obs[0][end, b])
        if masked and not over:
            assert batch.masks is not None
            got = drawn.mask[K : K + length + 1, i].numpy()
            np.testing.assert_array_equal(got, batch.masks[t : end + 1, b])
        burned = bool(drawn.burned[i])
        began = t == 0 or ended[t - 1, b]
        assert burned != began, "sequences behind the first have steps in front of them"
        if burned:
            np.testing.assert_array_equal(drawn.obs[0][:K, i], batch.obs[0][t - K : t, b])
        wanted = state_by_hand(made, batch, t - K if burned else t, b)
        np.testing.assert_allclose(drawn.state[i], wanted, atol=1e-5)
    if not masked:
        np.testing.assert_array_equal(seen, batch.valid)
        return
    last = np.zeros_like(batch.valid)
    last[batch.lengths - 1, np.arange(LANES)] = True
    unknown = batch.valid & ((last & ~batch.terminated) | batch.truncated)
    np.testing.assert_array_equal(seen, batch.valid & ~unknown)


def test_the_oldest_are_overwritten() -> None:
    _, made = played(False)
    store = buffer(made, capacity=30)
    sizes = []
    for seed in range(3):
        more, _ = played(False, seed)
        gone, places = store.insert(more, more.rewards)
        sizes.append(len(places))
        assert len(gone) == max(0, sum(sizes) - 30) - max(0, sum(sizes[:-1]) - 30)
    assert store.items == 30
    assert store.inserted == sum(sizes) > 30
    assert store.drawable(np.arange(30)).all()


def test_a_full_buffer_takes_what_the_documents_say() -> None:
    """(K + L + 1) (observation + W) + 8 L + 4 S + 6 bytes a sequence, in docs/OPERATING.md."""
    batch, made = played(True)
    store = buffer(made, capacity=30)
    store.insert(batch, batch.rewards)
    assert store.nbytes == 30 * ((K + L + 1) * (3 * 4 + 5) + 8 * L + 4 * 8 + 6)


def test_state_goes_on_elsewhere() -> None:
    batch, made = played(True)
    one, other = buffer(made), buffer(made)
    one.insert(batch, batch.rewards)
    other.load(*one.state())
    places = np.arange(one.items)
    for mine, its in zip(one.sequences(places), other.sequences(places), strict=True):
        pairs: Any = zip(mine, its, strict=True) if isinstance(mine, tuple) else [(mine, its)]
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(CheckpointError, match="holds 100 sequences and this one 99"):
        buffer(made, 99).load(*one.state())


def test_a_stored_buffer_keeps_observations_of_its_own_kind_only() -> None:
    batch, made = played(True)
    one, other = buffer(made), buffer(made)
    one.insert(batch, batch.rewards)
    other.load(*one.state())
    refuses_halves(other, batch)


def test_padding_is_a_value_of_its_space() -> None:
    """Where 0 is no option, a network cannot look at it."""
    batch, made = played(True)
    counted = np.full_like(batch.obs[0], 7.0)
    batch = dataclasses.replace(
        batch, obs=(counted,), final_obs=(np.full_like(batch.final_obs[0], 7.0),)
    )
    store = buffer(made)
    _, places = store.insert(batch, batch.rewards)
    drawn = store.sequences(places)
    assert (drawn.lengths < L).any()
    assert (drawn.obs[0] == 7.0).all()
