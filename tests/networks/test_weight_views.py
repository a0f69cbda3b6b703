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


def test_it_is_exact_and_copies_nothing() -> None:
    acting = network(0)
    views = WeightViews(acting)
    assert views.possible
    for seed in (1, 2):  # one publication after the other
        learned = network(seed)
        vector = flatten_parameters(learned)
        views.show(vector)
        begin = vector.__array_interface__["data"][0]
        places = [parameter.data_ptr() for parameter in acting.parameters()]
        assert all(begin <= place < begin + vector.nbytes for place in places)
        np.testing.assert_array_equal(flatten_parameters(acting), vector)
        assert torch.equal(acting.policy(OBS), learned.policy(OBS))


def test_another_size_is_refused_and_changes_nothing() -> None:
    acting, vector = network(0), flatten_parameters(network(1))
    before = flatten_parameters(acting)
    for wrong in (vector[1:], np.append(vector, np.float32(0)), vector[None]):
        with pytest.raises(CheckpointError, match="got shape"):
            WeightViews(acting).show(wrong)
    np.testing.assert_array_equal(flatten_parameters(acting), before)


def test_buffers_of_floats_come_too_and_others_stay() -> None:
    learned, acting = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    learned(torch.randn(8, 3))
    WeightViews(acting).show(flatten_parameters(learned))
    assert torch.equal(acting.running_var, learned.running_var)
    assert acting.num_batches_tracked == 0


class Drifting(nn.Module):
    """Puts another buffer in the place of its old one with every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return self.layer(x - self.mean)


def test_a_buffer_that_was_replaced_is_found_again() -> None:
    learned, acting = Drifting(), Drifting()
    views = WeightViews(acting)
    with torch.no_grad():
        acting(torch.ones(3, 2))
    learned.mean.fill_(7.0)
    views.show(flatten_parameters(learned))
    assert acting.mean.tolist() == [7.0, 7.0]


def test_tied_weights_are_shown_once() -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        layers[1].weight = layers[0].weight
        return layers

    acting, learned = tied(0), tied(1)
    WeightViews(acting).show(flatten_parameters(learned))
    assert torch.equal(acting(torch.ones(1, 3)), learned(torch.ones(1, 3)))


def test_a_vector_that_somebody_can_write_to_is_copied() -> None:
    acting, vector = network(0), flatten_parameters(network(1)).copy()
    WeightViews(acting).show(vector)
    shown = flatten_parameters(acting)
    vector[:] = 0
    np.testing.assert_array_equal(flatten_parameters(acting), shown)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_what_is_not_float32_must_be_copied(part: str) -> None:
    layer = nn.Linear(2, 2)
    setattr(layer, part, nn.Parameter(getattr(layer, part).double()))
    assert not WeightViews(layer).possible
    assert not WeightViews(nn.Linear(2, 2, device="meta")).possible
    with pytest.raises(AssertionError, match="load_flat"):
        WeightViews(layer).show(np.zeros(6, np.float32))


def test_numbers_of_another_kind_are_refused() -> None:
    with pytest.raises(CheckpointError, match="float64"):
        WeightViews(nn.Linear(2, 2)).show(np.zeros(6))


def test_a_network_without_numbers() -> None:
    WeightViews(nn.ReLU()).show(np.zeros(0, np.float32))
