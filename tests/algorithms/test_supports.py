"""An algorithm says of every kind of action space that it cannot act there, or learns there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server import algorithms
from policy_server.config import ModelConfig
from policy_server.errors import UnsupportedSpaceError
from policy_server.networks import build_network
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, Space

CHOICE, CHOICES, REALS = Discrete(3), MultiDiscrete([3, 2]), Box(-1, 1, (2,))
ACTIONS: dict[str, Space] = {
    "choice": CHOICE,
    "choices": CHOICES,
    "reals": REALS,
    "choice and reals": Dict({"a": CHOICE, "b": REALS}),
    "choices and reals": Dict({"a": CHOICES, "b": REALS}),
    "two choices and reals": Dict({"a": CHOICE, "b": REALS, "c": CHOICE}),
}
SMALL: dict[str, Any] = {
    "train_batch_size": 8, "steps_per_update": 20, "learning_starts": 20, "minibatch_size": 8,
    "random_steps": 0, "num_epochs": 1,
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", algorithms.names())
def test_it_learns_or_refuses(name: str, action: str) -> None:
    training, page = algorithms.get(name)
    spaces = PolicySpaces(Box(-9, 9, (3,)), ACTIONS[action])
    if not training.supports.fits(ActionLayout(spaces.action), mask=False):
        with pytest.raises(UnsupportedSpaceError, match=f"{name}: expected an action space of"):
            training.supports.check_spaces(name, spaces)
        return
    training.supports.check_spaces(name, spaces)
    fields = {field.name for field in dataclasses.fields(training)}
    config = training(**{key: value for key, value in SMALL.items() if key in fields})
    made = page(spaces, ModelConfig(hidden=(4,)), config, seed=0, device=torch.device("cpu"))
    batch = random_batch(build_network(spaces, ModelConfig(hidden=(4,))), spaces, 10, 4, 0)
    np.clip(batch.reals, -0.99, 0.99, out=batch.reals)
    before = made.network.policy((torch.ones(1, 3),)).clone()
    made.update(batch, 0)
    assert not torch.equal(made.network.policy((torch.ones(1, 3),)), before)
