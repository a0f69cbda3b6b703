"""A served policy: what a lane gets depends on the lane, not on its company."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from policy_server.acting import Stochastic
from policy_server.config import InferenceConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import CheckpointError
from policy_server.inference.few_rows import FEW
from policy_server.inference.sampling import Choice
from policy_server.inference.served import ServedPolicy
from policy_server.networks import build_network
from policy_server.types import Leaves, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

N = 64
OBSERVATION = Box(-5, 5, (6,))
ACTIONS = Dict({"a": MultiDiscrete([3, 6]), "b": Box(-2, 2, (2,)), "c": MultiBinary(2)})
RNG = np.random.default_rng(0)
OBS: Leaves = (RNG.normal(0, 2, (N, 6)).astype(np.float32),)
MASK = np.ones((N, 13), np.uint8)
MASK[:, 1:9] = RNG.random((N, 8)) < 0.6
DRAWS = RNG.integers(0, 1000, N).astype(np.uint64)


def served(executor: str = "auto", seed: int = 3, **model: object) -> ServedPolicy:
    policy = ServedPolicy(
        "policy",
        PolicySpaces(OBSERVATION, ACTIONS, mask=True),
        partial(build_network, model=ModelConfig(**model)),  # type: ignore[arg-type]
        Stochastic(),
        PreprocessingConfig(),
        InferenceConfig("cpu", executor),
        seed,
    )
    weights = policy.weights()
    policy.load(weights + np.random.default_rng(1).normal(0, 0.1, weights.shape).astype(np.float32))
    return policy


def choose(policy: ServedPolicy, rows: np.ndarray) -> Choice:
    keys = policy.lane_keys("place", lanes=N)
    obs = tuple(leaf[rows] for leaf in OBS)
    return policy.choose(obs, MASK[rows], rows, keys, DRAWS.copy(), None, 0)


def assert_same(mine: Choice, theirs: Choice) -> None:
    np.testing.assert_array_equal(mine.categories, theirs.categories)
    np.testing.assert_allclose(mine.reals, theirs.reals, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mine.logp, theirs.logp, rtol=0, atol=1e-6)


@pytest.mark.parametrize("executor", ["numpy", "torch"])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_size_of_a_batch_changes_nothing(executor, size):
    policy = served(executor)
    together = choose(policy, np.arange(N))
    order = np.random.default_rng(2).permutation(N)
    parts = [choose(policy, order[i : i + size]) for i in range(0, N, size)]
    assert_same(
        Choice(*(np.concatenate(columns) for columns in zip(*parts, strict=True))),
        Choice(*(column[order] for column in together)),
    )


@pytest.mark.parametrize("size", [1, 3, FEW - 1, FEW])
def test_a_few_rows_are_not_a_bit_different_in_company(size):
    """What is computed row by row has no other rounding elsewhere; matrix products may."""
    policy = served("numpy")
    order = np.random.default_rng(5).permutation(N)
    parts = [choose(policy, order[i : i + size]) for i in range(0, N, size)]
    alone = [choose(policy, order[i : i + 1]) for i in range(N)]
    for mine, theirs in zip(zip(*parts, strict=True), zip(*alone, strict=True), strict=True):
        together, apart = np.concatenate(mine), np.concatenate(theirs)
        assert together.tobytes() == apart.tobytes()
        assert len(np.unique(apart, axis=0)) > 10, "the rows differ"


@pytest.mark.parametrize("layer_norm", [False, True])
def test_executors_choose_the_same(layer_norm):
    rows = np.arange(N)
    one = choose(served("numpy", layer_norm=layer_norm), rows)
    other = choose(served("torch", layer_norm=layer_norm), rows)
    np.testing.assert_array_equal(one.categories, other.categories)
    np.testing.assert_allclose(one.reals, other.reals, atol=1e-5)
    np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)


def test_a_lane_draws_anew_each_time_and_the_same_from_the_same_seed():
    policy, again, other = served(), served(), served(seed=4)
    other.load(policy.weights())
    rows = np.arange(N)
    first = choose(policy, rows)
    assert_same(choose(again, rows), first)
    assert (choose(other, rows).reals != first.reals).all()
    keys = policy.lane_keys("place", lanes=N)
    later = policy.choose(OBS, MASK, rows, keys, DRAWS + np.uint64(1), None, 0)
    assert (later.reals != first.reals).all()


def test_log_probabilities_of_given_actions_are_those_of_the_draw():
    policy = served()
    choice = choose(policy, np.arange(N))
    mine = policy.log_prob(OBS, MASK, choice.categories, choice.reals, np.arange(N))
    np.testing.assert_allclose(mine, choice.logp, rtol=1e-6, atol=1e-6)


def test_actions_are_sent_as_their_space_wants_them():
    policy = served()
    choice = choose(policy, np.arange(N))
    a, b, c = policy.to_simulator(choice)
    np.testing.assert_array_equal(a, choice.categories[:, :2])
    np.testing.assert_array_equal(b, np.clip(2 * choice.reals, -2, 2))
    np.testing.assert_array_equal(c, choice.categories[:, 2:])
    assert (a.dtype, b.dtype, c.dtype) == (np.int64, np.float32, np.int8)
    assert abs(choice.reals).max() > 1  # what was drawn stays as drawn


def test_state_goes_on_elsewhere():
    policy, other = served(), served(seed=9)
    other.restore(policy.state())
    np.testing.assert_array_equal(other.weights(), policy.weights())
    some = np.zeros((N, 4), np.int64), np.zeros((N, 2), np.float32), np.arange(N)
    mine, theirs = policy.log_prob(OBS, None, *some), other.log_prob(OBS, None, *some)
    np.testing.assert_array_equal(theirs, mine)


def test_another_networks_state_is_refused():
    words = (
        r"'policy': the stored network has \d+ weights and this one \d+: set the model, training"
    )
    with pytest.raises(CheckpointError, match=words):
        served().restore(served(hidden=(9,)).state())


def test_one_option_is_certain():
    policy = ServedPolicy(
        "one",
        PolicySpaces(OBSERVATION, Discrete(1)),
        partial(build_network, model=ModelConfig()),
        Stochastic(),
        PreprocessingConfig(),
        InferenceConfig("cpu"),
        0,
    )
    choice = policy.choose(
        OBS, None, np.arange(N), policy.lane_keys(lanes=N), DRAWS.copy(), None, 0
    )
    assert not choice.categories.any()
    assert not choice.logp.any()
