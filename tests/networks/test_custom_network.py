"""Networks of the user's own."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.networks import build_network
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete

SPACES = PolicySpaces(
    Dict({"x": Box(-1, 1, (3,)), "y": Discrete(2, start=5)}),
    Dict({"a": Discrete(4), "b": Box(-1, 1, (2,))}),
)


class Good(nn.Module):
    def __init__(self, spaces: PolicySpaces, outputs: int, units: int = 4):
        super().__init__()
        self.body = nn.Linear(3, units)
        self.head = nn.Linear(units, outputs)

    def policy(self, obs):
        assert (obs[1] >= 5).all()
        return self.head(torch.relu(self.body(obs[0])))

    def value(self, obs):
        return obs[0].sum(1)

    def forward(self, obs):
        return self.policy(obs), self.value(obs)


class WrongShape(Good):
    def value(self, obs):
        return obs[0][:, :1]


class Fails(Good):
    def policy(self, obs):
        raise ValueError("no such leaf")


class NoValue(nn.Module):
    def __init__(self, spaces: PolicySpaces, outputs: int):
        super().__init__()

    def policy(self, obs):
        return obs


class NoModule:
    def __init__(self, spaces: PolicySpaces, outputs: int):
        self.policy = self.value = self.forward = print


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mynets")
    for made in (Good, WrongShape, Fails, NoValue, NoModule):
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, "mynets", module)


@pytest.mark.parametrize(("free", "width"), [(True, 6), (False, 8)])
def test_is_made_from_spaces_outputs_and_its_options(free: bool, width: int) -> None:
    model = ModelConfig(
        custom="mynets:Good", custom_kwargs={"units": 9}, free_log_std=free, initial_log_std=-1.0
    )
    network = build_network(SPACES, model)
    obs = (torch.randn(5, 3), torch.full((5,), 6))
    head, value = network(obs)
    assert head.shape == (5, width)
    torch.testing.assert_close(network.policy(obs), head)
    torch.testing.assert_close(network.value(obs), value)
    assert network.policy_layers() is None
    names = {name for name, _ in network.named_parameters()}
    assert "module.head.weight" in names
    assert ("log_std" in names) is free
    if free:
        assert network.log_std.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("custom", "kwargs", "sentence"),
    [
        ("mynets", {}, "expected \"module:Class\", got 'mynets'"),
        ("nowhere.to:BeFound", {}, "cannot be imported: No module named 'nowhere'"),
        ("mynets:Missing", {}, "cannot be imported: .*Missing"),
        ("mynets:Good", {"unit": 3}, r"cannot be made as Good\(spaces, outputs=6, .*unit"),
        ("mynets:NoValue", {}, "got a NoValue without value"),
        ("mynets:NoModule", {}, "got a NoModule that is no torch.nn.Module"),
        (
            "mynets:WrongShape",
            {},
            r"WrongShape.value to answer .* shapes \[\(2,\)\], got \[\(2, 1\)\]",
        ),
        ("mynets:Fails", {}, r"Fails.policy failed on two .*ValueError: no such leaf"),
    ],
)
def test_what_is_wrong_with_it_is_said(
    custom: str, kwargs: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_network(SPACES, ModelConfig(custom=custom, custom_kwargs=kwargs))
