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
    "random_steps": 0, "num_epochs": 1, "samples_per_insert": 1.0,
}  # fmt: skip


def small(name: str) -> Any:
    """Options for an update of a few steps."""
    training, _ = algorithms.get(name)
    fields = {field.name for field in dataclasses.fields(training)}
    return training(**{key: value for key, value in SMALL.items() if key in fields})


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
    made = page(spaces, ModelConfig(hidden=(4,)), small(name), seed=0, device=torch.device("cpu"))
    batch = random_batch(build_network(spaces, ModelConfig(hidden=(4,))), spaces, 10, 4, 0)
    np.clip(batch.reals, -0.99, 0.99, out=batch.reals)
    before = made.network.policy((torch.ones(1, 3),)).clone()
    made.update(batch, 0)
    assert not torch.equal(made.network.policy((torch.ones(1, 3),)), before)


HEADS = [n for n in algorithms.names() if algorithms.training_class(n).supports.heads]


@pytest.mark.parametrize("name", HEADS)
def test_all_parts_of_autoregressive_heads_learn(name: str) -> None:
    spaces = PolicySpaces(Box(-9, 9, (3,)), ACTIONS["two choices and reals"])
    model = ModelConfig(hidden=(4,), autoregressive=True)
    _, page = algorithms.get(name)
    made = page(spaces, model, small(name), seed=0, device=torch.device("cpu"))
    parameters = dict(made.network.autoregressive.named_parameters())
    before = {key: parameter.clone() for key, parameter in parameters.items()}
    batch = random_batch(build_network(spaces, ModelConfig(hidden=(4,))), spaces, 10, 4, 0)
    made.update(batch, 0)
    assert [key for key, old in before.items() if torch.equal(old, parameters[key])] == []
    other = page(spaces, model, small(name), seed=1, device=torch.device("cpu"))
    other.load(made.state())
    obs = (torch.ones(1, 3),)
    assert torch.equal(made.network.policy(obs), other.network.policy(obs))
    for mine, theirs in zip(
        parameters.values(), other.network.autoregressive.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_algorithms_with_heads_are_known() -> None:
    assert HEADS == ["PG", "A2C", "A3C", "PPO", "IMPALA", "APPO"]
