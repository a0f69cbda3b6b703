"""Steps on rows that stay where they are learn what free steps learn.

All but the recording itself is tested on any machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server.algorithms.ppo import PPO, PPOTraining
from policy_server.config import ModelConfig
from policy_server.networks import flatten_parameters
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, MultiDiscrete
from tests.gpu import DEVICES, full_precision, needs_gpu  # noqa: F401

SEEN = Dict({"camera": Box(0, 255, (6, 6, 2), "uint8"), "speed": Box(-1, 1, (3,))})
ACTION = Dict({"steer": Box(-1, 1, (2,)), "use": MultiDiscrete([3, 2])})
SPACES = PolicySpaces(SEEN, ACTION, mask=True)


def make(device: str, records: bool, model: ModelConfig | None = None, **options: Any) -> PPO:
    defaults = {
        "lr": 1e-3, "minibatch_size": 16, "num_epochs": 3, "train_batch_size": 64,
        "entropy_coeff": 0.01, "vf_clip_param": None,
    }  # fmt: skip
    training = PPOTraining(**(defaults | options))
    model = model or ModelConfig(hidden=(16,))
    ppo = PPO(SPACES, model, training, seed=3, device=torch.device(device))
    ppo.records = records
    return ppo


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_kl_loss": False, "entropy_coeff": 0.0},
        {"entropy_coeff_schedule": [[0, 0.0], [3, 0.1]], "lr_schedule": [[0, 1e-3], [4, 1e-4]]},
        {"grad_clip": 0.1},
        {"grad_clip": 0.1, "grad_clip_by": "norm", "minibatch_size": 64},
        {"model": ModelConfig(hidden=(16,), free_log_std=False, share_layers=True)},
        {"minibatch_size": 1, "num_epochs": 1},
    ],
    ids=str,
)
def test_recorded_steps_learn_the_same(device: str, options: dict[str, Any]) -> None:
    """Over updates of unlike sizes, whose minibatches are unlike too (the batch of 9 is smaller
    than a minibatch, that of 50 makes 12 and 13), with rates that move in between."""
    free, recorded = make(device, False, **options), make(device, True, **options)
    actor = make("cpu", False, **options).network
    for update, lengths in enumerate([(9, 1, 5, 8), (3, 2, 2, 2), (13, 12, 13, 12), (9, 1, 5, 8)]):
        size = max(lengths)
        batch = random_batch(actor, SPACES, size, 4, update, np.array(lengths))
        expected, metrics = free.update(batch, update), recorded.update(batch, update)
        assert metrics == pytest.approx(expected, rel=2e-3, abs=2e-5)
    np.testing.assert_allclose(
        flatten_parameters(recorded.network), flatten_parameters(free.network), atol=2e-5
    )
    assert recorded.kl_coeff == pytest.approx(free.kl_coeff)


def test_half_precision_is_recorded_like_any_other() -> None:
    """In bfloat16 another order of adding up shows; the direction is the same."""
    model = ModelConfig(hidden=(16,), precision="bfloat16")
    free, recorded = make("cpu", False, model=model), make("cpu", True, model=model)
    before = flatten_parameters(free.network)
    batch = random_batch(free.network, SPACES, 9, 4, 0)
    expected, metrics = free.update(batch, 0), recorded.update(batch, 0)
    assert metrics == pytest.approx(expected, rel=0.05, abs=0.01)
    moves = [flatten_parameters(ppo.network) - before for ppo in (free, recorded)]
    assert np.corrcoef(*moves)[0, 1] > 0.9


@pytest.mark.parametrize("records", [False, True])
def test_a_state_of_before_goes_on_the_same(records: bool) -> None:
    """It is written to where the steps find it."""
    first = make("cpu", records)
    batches = [random_batch(first.network, SPACES, 9, 4, seed) for seed in range(3)]
    first.update(batches[0], 0)
    state = first.state()
    first.update(batches[1], 1)
    first.load(state)
    other = make("cpu", records)
    other.load(state)
    for ppo in (first, other):
        ppo.update(batches[2], 2)
    np.testing.assert_array_equal(
        flatten_parameters(first.network), flatten_parameters(other.network)
    )


@pytest.mark.parametrize("records", [False, True])
def test_whether_there_is_a_penalty_is_said_by_the_settings(records: bool) -> None:
    """Not by the state that is loaded."""
    penalised, free = make("cpu", records), make("cpu", records, use_kl_loss=False)
    state, other = penalised.state(), free.state()
    free.load(state)
    assert free.kl_coeff == 0.0
    penalised.load(other)
    assert penalised.kl_coeff == penalised.config.kl_coeff


def test_what_a_step_changes_can_be_put_back() -> None:
    """Warming up before a recording makes steps that nobody may notice."""
    plain, tried = make("cpu", True), make("cpu", True)
    batch = random_batch(plain.network, SPACES, 9, 4, 0)
    plain.update(batch, 0)
    tried.update(batch, 0)
    assert tried._recorded is not None
    before = [tensor.clone() for tensor in tried.optimizer.changes]
    tried._recorded._steps[True]()
    assert not torch.equal(before[0], tried.optimizer.weights)
    for tensor, was in zip(tried.optimizer.changes, before, strict=True):
        tensor.copy_(was)
    plain.update(batch, 1)
    tried.update(batch, 1)
    np.testing.assert_array_equal(
        flatten_parameters(tried.network), flatten_parameters(plain.network)
    )


def test_a_row_without_weight_cannot_spoil_the_others() -> None:
    """What lies there is of this update: an old row's ratio may be infinite by now."""
    ppo = make("cpu", True, num_epochs=1)
    ppo.update(random_batch(ppo.network, SPACES, 13, 4, 0, np.array([13, 12, 13, 12])), 0)
    assert ppo._recorded is not None
    for column in (*ppo._recorded._columns, *ppo._recorded._obs):
        if column.is_floating_point():
            column.fill_(torch.inf)
    metrics = ppo.update(random_batch(ppo.network, SPACES, 9, 4, 1, np.array([3, 2, 2, 2])), 1)
    assert all(np.isfinite(value) for value in metrics.values())


@needs_gpu
def test_a_gpu_records_by_itself() -> None:
    training = PPOTraining(minibatch_size=16, train_batch_size=64)
    assert PPO(SPACES, ModelConfig(), training, seed=0, device=torch.device("cuda")).records
