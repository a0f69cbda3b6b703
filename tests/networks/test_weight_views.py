"""Weights taken over without a copy."""

import numpy as np
import pytest
import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError
from policy_server.networks import WeightViews, build_network, flatten_parameters
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete

SPACES = PolicySpaces(
    Dict({"image": Box(0, 255, (12, 12, 2), "uint8"), "choice": Discrete(3)}),
    Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}),
)
OBS = (torch.zeros(2, 12, 12, 2, dtype=torch.uint8), torch.ones(2, dtype=torch.int64))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(SPACES, ModelConfig(hidden=(5,), layer_norm=True))


def published(module: nn.Module) -> np.ndarray:
    vector = flatten_parameters(module)
    vector.flags.writeable = False
    return vector


def test_it_is_exact_and_copies_nothing() -> None:
    acting = network(0)
    views = WeightViews(acting)
    assert views.possible
    for seed in (1, 2):  # one publication after the other
        learned = network(seed)
        vector = published(learned)
        views.show(vector)
        begin = vector.__array_interface__["data"][0]
        places = [parameter.data_ptr() for parameter in acting.parameters()]
        assert all(begin <= place < begin + vector.nbytes for place in places)
        np.testing.assert_array_equal(flatten_parameters(acting), vector)
        assert torch.equal(acting.policy(OBS), learned.policy(OBS))


def test_another_size_is_refused_and_changes_nothing() -> None:
    acting, vector = network(0), published(network(1))
    before = flatten_parameters(acting)
    for wrong in (vector[1:], np.append(vector, np.float32(0)), vector[None]):
        with pytest.raises(CheckpointError, match="got shape"):
            WeightViews(acting).show(wrong)
    np.testing.assert_array_equal(flatten_parameters(acting), before)


def test_buffers_of_floats_come_too_and_others_stay() -> None:
    learned, acting = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    learned(torch.randn(8, 3))
    WeightViews(acting).show(published(learned))
    assert torch.equal(acting.running_var, learned.running_var)
    assert acting.num_batches_tracked == 0


def test_what_is_not_float32_must_be_copied() -> None:
    assert not WeightViews(nn.Linear(2, 2, dtype=torch.float64)).possible


def test_a_network_without_numbers() -> None:
    WeightViews(nn.ReLU()).show(np.zeros(0, np.float32))
