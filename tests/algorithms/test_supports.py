"""An algorithm says of every kind of action space that it cannot act there, or learns there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from group_spaces import of_two
from handmade import random_batch
from test_every_page import MODEL, OPTIONS, heads, in_turn, seen, updated
from torch import nn

from policy_server import algorithms
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.networks import build_network, flatten_parameters
from policy_server.settings import Settings
from policy_server.types import PolicySpaces
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


def config_of(name: str) -> Any:
    training, _ = algorithms.get(name)
    return training(**(OPTIONS[name] | {"lr": 1e-2}))


def make(name: str, spaces: PolicySpaces, model: ModelConfig, seed: int = 0) -> Any:
    _, page = algorithms.get(name)
    return page(spaces, model, config_of(name), seed=seed, device=torch.device("cpu"))


def learn(made: Any, spaces: PolicySpaces) -> None:
    """Three updates."""
    network = build_network(spaces, MODEL)
    for i, batch in enumerate(in_turn([random_batch(network, spaces, 5, 4, i) for i in range(3)])):
        np.clip(batch.reals, -0.99, 0.99, out=batch.reals)
        state = np.zeros((4, made.network.state_size), np.float32)
        updated(made, dataclasses.replace(batch, state=state), 20 * i)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", algorithms.names())
def test_it_learns_or_refuses(name: str, action: str) -> None:
    supports = algorithms.training_class(name).supports
    spaces = PolicySpaces(Box(-9, 9, (3,)), ACTIONS[action])
    spaces = of_two(spaces) if supports.groups else spaces
    if not supports.fits(spaces):
        with pytest.raises(UnsupportedSpaceError, match=f"{name}.*: expected an action space of"):
            supports.check_spaces(name, spaces)
        return
    supports.check_spaces(name, spaces)
    made = make(name, spaces, MODEL)
    before = flatten_parameters(made.network)
    learn(made, spaces)
    assert not np.array_equal(flatten_parameters(made.network), before)


SUPPORTS = {name: algorithms.training_class(name).supports for name in algorithms.names()}


@pytest.mark.parametrize("name", [n for n, s in SUPPORTS.items() if s.mask and s.continuous])
def test_a_mask_needs_choices(name: str) -> None:
    supports = SUPPORTS[name]
    spaces = PolicySpaces(Box(-9, 9, (3,)), REALS, mask=True)
    spaces = of_two(spaces) if supports.groups else spaces
    with pytest.raises(UnsupportedSpaceError, match=f"{name}: expected choices where there is"):
        supports.check_spaces(name, spaces)


HEADS = [n for n in algorithms.names() if algorithms.training_class(n).supports.heads]


@pytest.mark.parametrize("name", HEADS)
def test_all_parts_of_autoregressive_heads_learn(name: str) -> None:
    spaces = PolicySpaces(Box(-9, 9, (3,)), ACTIONS["two choices and reals"])
    model = ModelConfig(hidden=(4,), autoregressive=True)
    made = make(name, spaces, model)
    parameters = dict(made.network.autoregressive.named_parameters())
    before = {key: parameter.clone() for key, parameter in parameters.items()}
    learn(made, spaces)
    assert [key for key, old in before.items() if torch.equal(old, parameters[key])] == []
    other = make(name, spaces, model, seed=1)
    other.load(made.state())
    mine, its = flatten_parameters(made.network), flatten_parameters(other.network)
    np.testing.assert_array_equal(mine, its)


def test_algorithms_with_heads_are_known() -> None:
    assert HEADS == ["PG", "A2C", "A3C", "PPO", "IMPALA", "APPO"]


class Mine(nn.Module):
    """A network of the user's own, which sees nothing but the first number."""

    def __init__(self, spaces: PolicySpaces, outputs: int, units: int):
        super().__init__()
        self.body, self.last = nn.Linear(1, units), nn.Linear(units, 1)
        self.head = nn.Linear(units, outputs)

    def policy(self, obs: Any) -> torch.Tensor:
        return self.head(torch.tanh(self.body(obs[0][:, :1])))

    def value(self, obs: Any) -> torch.Tensor:
        return self.last(torch.tanh(self.body(obs[0][:, :1]))).squeeze(1)

    def forward(self, obs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(obs), self.value(obs)


def simplest(name: str) -> PolicySpaces:
    supports = algorithms.training_class(name).supports
    one = PolicySpaces(Box(-9, 9, (3,)), CHOICE if supports.discrete else REALS)
    return of_two(one) if supports.groups else one


@pytest.mark.parametrize("name", algorithms.names())
def test_a_network_of_the_users_own_learns(name: str) -> None:
    model = ModelConfig(hidden=(4,), custom="test_supports:Mine", custom_kwargs={"units": 5})
    made = make(name, simplest(name), model)
    mine = [part for part in made.network.modules() if type(part).__name__ == "Mine"]
    before = [part.body.weight.clone() for part in mine]
    learn(made, simplest(name))
    assert mine
    for part, old in zip(mine, before, strict=True):
        assert not torch.equal(part.body.weight, old)
    if hasattr(made, "critics"):
        assert any(isinstance(part, type(mine[0])) for part in made.critics.modules())
    assert made.network.policy_layers() is None
    one, other = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 7.0, -3.0]])
    assert torch.equal(heads(made.network, seen(name, one)), heads(made.network, seen(name, other)))


@pytest.mark.parametrize("name", algorithms.names())
def test_another_precision_is_heeded_or_refused(name: str) -> None:
    settings = {"algorithm": name, "model": {"precision": "bfloat16"}}
    if not algorithms.training_class(name).supports.precision:
        with pytest.raises(ConfigError, match="expected 'float32'"):
            Settings.from_mapping(settings)
        return
    Settings.from_mapping(settings)
    spaces, reduced = simplest(name), ModelConfig(hidden=(8,), precision="bfloat16")
    made, whole = make(name, spaces, reduced), make(name, spaces, ModelConfig(hidden=(8,)))
    obs = seen(name, torch.randn(50, 3))
    here, there = heads(made.network, obs), heads(whole.network, obs)
    assert here.dtype == torch.float32
    assert not torch.equal(here, there)
    torch.testing.assert_close(here, there, rtol=0.05, atol=0.02)
    assert made.network.policy_layers() is None
    learn(made, spaces)
    assert not torch.equal(heads(made.network, obs), here)
