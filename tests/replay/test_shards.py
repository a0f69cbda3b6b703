"""A replay buffer in two processes is one replay buffer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
import torch

from policy_server import AlgorithmConfig
from policy_server.algorithms.apex_dqn import ApexDQN
from policy_server.algorithms.apex_options import ApexDQNTraining
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError, ConfigError
from policy_server.networks import build_network
from policy_server.replay.draws import NothingToDraw
from policy_server.replay.shards import Priorities, ShardedSteps
from policy_server.replay.steps import StepBuffer, Transitions
from policy_server.server import start_ray
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete

# Batches made by hand live beside the tests of the algorithms.
sys.path.insert(0, str(Path(__file__).parents[1] / "algorithms"))
from handmade import random_batch

SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(4), mask=True)
MODEL = ModelConfig(hidden=(8,))
PRIORITIES = Priorities(0.7, 0.5, 1e-3)
OPTIONS: dict[str, Any] = {
    "train_batch_size": 8, "steps_per_update": 20, "learning_starts": 40, "buffer_size": 400,
    "samples_per_insert": 2.0, "save_replay": True,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def ray_runs() -> Iterator[None]:
    start_ray(None)
    yield
    ray.shutdown()


def played(seed: int) -> Batch:
    torch.manual_seed(seed)
    batch = random_batch(build_network(SPACES, MODEL), SPACES, 6, 5, seed)
    batch.first_t[:] = 6 * seed  # each lane goes on where its last unroll stopped
    batch.episodes[:] = 0
    batch.terminated[:3] = batch.truncated[:3] = False
    ended = batch.terminated | batch.truncated
    batch.episodes[:] = 100 * seed + np.cumsum(ended, 0) - ended
    return random_finals(batch)


def random_finals(batch: Batch) -> Batch:
    """True final observations for the truncated steps that are left."""
    left = np.array([batch.truncated[t, b] for t, b in batch.final_index], bool)
    batch.final_index = batch.final_index[left]
    batch.final_obs = tuple(leaf[left] for leaf in batch.final_obs)
    return batch


def table(steps: Transitions) -> np.ndarray:
    """A row for each step, sorted: [n, columns]."""
    columns = [
        steps.obs[0], steps.mask, steps.categories, steps.rewards[:, None], steps.next_obs[0],
        steps.next_mask, steps.discounts[:, None],
    ]  # fmt: skip
    rows = torch.cat([column.double() for column in columns], 1).numpy()
    return rows[np.lexsort(rows.T)]


class Filled(NamedTuple):
    """The same steps in one buffer and in two parts, and where they lie."""

    one: StepBuffer
    two: ShardedSteps
    mine: np.ndarray
    its: np.ndarray


@pytest.fixture(scope="module")
def filled() -> Filled:
    one, two = StepBuffer(400, torch.device("cpu")), ShardedSteps(2, 400, PRIORITIES, 0)
    mine, its = [], []
    for batch in map(played, range(3)):
        mine.append(one.insert(batch, batch.rewards)[1])
        its.append(two.insert(batch, batch.rewards)[1])
    return Filled(one, two, np.concatenate(mine), np.concatenate(its))


def test_steps_are_those_of_one_buffer(filled: Filled) -> None:
    one, two, mine, its = filled
    assert one.items == two.items == len(mine) == len(its) == 90
    wanted, found = one.drawable(mine), two.drawable(its)
    assert 0 < wanted.sum() == found.sum() < 90
    order = np.random.default_rng(0).permutation(found.sum())
    steps = two.transitions(its[found][order], 3, 0.9)
    np.testing.assert_array_equal(table(steps), table(one.transitions(mine[wanted], 3, 0.9)))
    again = two.transitions(its[found], 3, 0.9)
    torch.testing.assert_close(again.rewards[torch.from_numpy(order)], steps.rewards)
    torch.testing.assert_close(again.obs[0][torch.from_numpy(order)], steps.obs[0])


def test_every_step_is_drawn_by_its_share_of_all_priorities(filled: Filled) -> None:
    steps, places = filled.two, filled.its
    errors = np.where(places % 2 == 0, 9.0, 1.0) * np.linspace(0.5, 1.5, len(places))
    steps.surprised(places, errors)
    known = steps.drawable(places)
    masses = (errors + PRIORITIES.eps) ** PRIORITIES.alpha
    counts = dict.fromkeys(places[known].tolist(), 0)
    draws, n = 40, 500
    for _ in range(draws):
        drawn, weights = steps.draw(n)
        for place in drawn.tolist():
            counts[place] += 1
        mass = dict(zip(places.tolist(), masses.tolist(), strict=True))
        share = np.array([mass[place] for place in drawn.tolist()]) / masses.sum()
        by_hand = (len(places) * share) ** -PRIORITIES.beta
        np.testing.assert_allclose(weights, by_hand / by_hand.max(), rtol=1e-5)
    # What cannot be learned from yet is drawn again within its part.
    for part in (0, 1):
        mine = known & (places % 2 == part)
        part_share = masses[places % 2 == part].sum() / masses.sum()
        expected = draws * n * part_share * masses[mine] / masses[mine].sum()
        got = np.array([counts[place] for place in places[mine].tolist()])
        assert (np.abs(got - expected) < 5 * np.sqrt(expected) + 1).all()


def cut_off(batch: Batch, lanes: np.ndarray) -> Batch:
    """Each step of these lanes is an episode that was truncated."""
    batch.terminated[:, lanes], batch.truncated[:, lanes] = False, True
    batch.final_index = np.argwhere(batch.truncated)
    t, b = batch.final_index.T
    batch.final_obs = tuple(leaf[1:][t, b] for leaf in batch.obs)
    return batch


def test_a_part_of_which_nothing_can_be_drawn_yet_is_drawn_for() -> None:
    """Masked, a step whose episode was truncated is never learned from."""
    odd = np.array([1, 3])
    batch = cut_off(played(0), odd)
    steps = ShardedSteps(2, 400, PRIORITIES, 0)
    _, places = steps.insert(batch, batch.rewards)
    can = steps.drawable(places)
    assert can[places % 2 == 0].any()
    assert not can[places % 2 == 1].any()
    for _ in range(10):
        drawn, weights = steps.draw(20)
        assert len(drawn) == len(weights) == 20
        assert steps.drawable(drawn).all()
    nothing = ShardedSteps(2, 400, PRIORITIES, 0)
    nothing.insert(cut_off(played(0), np.arange(5)), batch.rewards)
    with pytest.raises(NothingToDraw):
        nothing.draw(20)


def made(seed: int, **options: Any) -> ApexDQN:
    config = ApexDQNTraining(**(OPTIONS | {"replay_shards": 2} | options))
    return ApexDQN(SPACES, MODEL, config, seed=seed, device=torch.device("cpu"))


def priorities(one: ApexDQN, parts: int) -> np.ndarray:
    """Of all steps, sorted."""
    tensors = one.state().tensors
    masses = [tensor for name, tensor in tensors.items() if name.endswith("priorities")]
    assert len(masses) == parts
    every = np.concatenate(masses)
    return np.sort(every[every > 0])


def test_new_steps_have_the_priorities_of_one_buffer_and_two_updates_and_two_elsewhere_are_four() -> (
    None
):
    one, other, local = made(0), made(1), made(0, replay_shards=0)
    one.update(played(0), 0)
    local.update(played(0), 0)
    np.testing.assert_allclose(priorities(one, 2), priorities(local, 1), rtol=1e-5)
    assert one.update(played(1), 0)["replay_size"] == 60
    other.load(one.state())
    for seed in range(2, 4):
        mine, its = one.update(played(seed), 0), other.update(played(seed), 0)
        assert mine == its
        assert "total_loss" in mine
    for here, there in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(here, there)
    with pytest.raises(CheckpointError, match=r"has 2 parts and training\.replay_shards = 3"):
        made(0, replay_shards=3).load(one.state())


def builder() -> AlgorithmConfig:
    return (
        AlgorithmConfig("ApexDQN")
        .environment("CartPole-v1")
        .simulators(num=1, lanes=4)
        .training(**(OPTIONS | {"replay_shards": 2}))
        .server(seed=1, bind="tcp://127.0.0.1:*")
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )


@pytest.mark.slow
def test_it_learns_over_sockets_with_processes_of_its_own() -> None:
    with builder().build() as algorithm:
        for _ in range(4):
            result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        metrics = result["policies"]["default_policy"]["metrics"]
        assert metrics["replay_size"] >= 60
        assert np.isfinite(metrics["total_loss"])


def test_a_server_in_one_process_refuses_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="replay_shards = 2 expects processes of its own"):
        builder().build(in_process=True)
