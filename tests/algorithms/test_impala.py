"""IMPALA's update as a whole; its loss is in `test_policy_gradients`, V-trace in `test_vtrace`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from handmade import random_batch

from policy_server.algorithms.impala import IMPALA
from policy_server.algorithms.impala_options import IMPALATraining
from policy_server.config import ModelConfig
from policy_server.networks import flatten_parameters
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete

SPACES = PolicySpaces(Box(-1, 1, (3,)), Discrete(4))
CPU = torch.device("cpu")


def make(**options: Any) -> IMPALA:
    training = IMPALATraining(lr=1e-2, **options)
    return IMPALA(SPACES, ModelConfig(hidden=(16,)), training, seed=3, device=CPU)


def test_epochs_are_updates_with_the_same_batch() -> None:
    """Each corrects for what the ones before it changed."""
    several, one = make(num_epochs=3), make()
    for seed in range(2):
        batch = random_batch(several.network, SPACES, 9, 4, seed)
        reported = several.update(batch, 0)
        first, *others = (one.update(batch, 0) for _ in range(3))
        assert reported == first
        assert len({metrics["log_ratio_abs"] for metrics in (first, *others)}) == 3
    np.testing.assert_array_equal(
        flatten_parameters(several.network), flatten_parameters(one.network)
    )
