"""Weights as one flat vector."""

import numpy as np
import pytest
import torch
from torch import nn

from policy_server.algorithms.optimizer import FlatAdam
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError
from policy_server.networks import build_network, flatten_parameters, load_flat
from policy_server.networks.snapshot import flat_view, parameter_count
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete

SPACES = PolicySpaces(
    Dict({"image": Box(0, 255, (12, 12, 2), "uint8"), "choice": Discrete(3)}),
    Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}),
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(SPACES, ModelConfig(hidden=(5,), layer_norm=True))


def test_round_trip_is_exact_and_in_place() -> None:
    one, two = network(0), network(1)
    places = [parameter.data_ptr() for parameter in two.parameters()]
    vector = flatten_parameters(one)
    assert not vector.flags.writeable
    assert vector.dtype == np.float32
    assert vector.shape == (parameter_count(one),) == (sum(p.numel() for p in one.parameters()),)
    assert (flatten_parameters(two) != vector).any()
    vector.flags.writeable = False
    load_flat(two, vector)
    assert [parameter.data_ptr() for parameter in two.parameters()] == places
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_array_equal(flatten_parameters(two), vector)


def test_a_snapshot_is_a_copy() -> None:
    one = network(0)
    vector = flatten_parameters(one)
    before = vector.copy()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(vector, before)


def test_parameters_side_by_side_are_lent_without_a_copy() -> None:
    one = network(0)
    assert flat_view(one) is None, "torch gives each its own place"
    optimizer = FlatAdam(one, 1e-5)
    lent = flat_view(one)
    assert lent is not None
    np.testing.assert_array_equal(lent, flatten_parameters(one))
    assert lent.__array_interface__["data"][0] == optimizer.weights.data_ptr()
    assert not lent.flags.writeable
    with torch.no_grad():
        optimizer.weights += 1.0
    np.testing.assert_array_equal(lent, flatten_parameters(one))
    norm = nn.BatchNorm1d(3)  # whose float buffers lie elsewhere
    FlatAdam(norm, 1e-5)
    assert flat_view(norm) is None
    assert flat_view(nn.Linear(2, 2, dtype=torch.float64)) is None
    assert flat_view(nn.ReLU()) is None


def test_buffers_of_floats_travel_and_others_stay() -> None:
    one, two = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    one(torch.randn(8, 3))
    assert len(flatten_parameters(one)) == 4 * 3
    load_flat(two, flatten_parameters(one))
    assert torch.equal(two.running_mean, one.running_mean)
    assert torch.equal(two.running_var, one.running_var)
    assert two.num_batches_tracked == 0


@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_is_refused(change: int) -> None:
    one = network(0)
    size = parameter_count(one)
    before = flatten_parameters(one)
    with pytest.raises(
        CheckpointError, match=rf"expected a vector of {size} .*\[{size + change}\]"
    ):
        load_flat(one, np.zeros(size + change, np.float32))
    np.testing.assert_array_equal(flatten_parameters(one), before)
