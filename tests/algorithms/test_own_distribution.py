"""Distributions of the user's own: one that says what ours says learns what ours learns."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch
from torch.distributions import Categorical, Normal, kl_divergence

from policy_server import AlgorithmConfig, algorithms
from policy_server.acting import Stochastic
from policy_server.algorithms.ops.heads import make_heads
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.inference.choosers import chooser_for
from policy_server.networks import build_network
from policy_server.networks.own_distribution import OwnDistribution
from policy_server.settings import Settings
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete
from tests.learning.test_every_algorithm import OPTIONS
from tests.networks.beta import Beta

BETA = "tests.networks.beta:Beta"
SPACES = PolicySpaces(Box(-9, 9, (3,)), Dict({"a": Discrete(4), "b": Box(-1, 1, (2,))}), mask=True)
HEADS = [n for n in algorithms.names() if algorithms.training_class(n).supports.heads]
SMALL = {"train_batch_size": 8, "minibatch_size": 8, "num_epochs": 2}


class Same(OwnDistribution):
    """A choice and two reals with deviations in the head: ours, put together from torch's."""

    def __init__(self, parameters, mask, layout):
        super().__init__(parameters, mask, layout)
        w, d = layout.mask_width, layout.reals
        logits = parameters[:, :w]
        if mask is not None:
            logits = torch.where(mask != 0, logits, -1e30)
        self.choice = Categorical(logits=logits)
        self.real = Normal(parameters[:, w : w + d], parameters[:, w + d :].exp())

    @staticmethod
    def width(layout):
        return layout.mask_width + 2 * layout.reals

    def log_prob(self, categories, reals):
        return self.choice.log_prob(categories[:, 0]) + self.real.log_prob(reals).sum(1)

    def entropy(self):
        probabilities = self.choice.logits.exp()
        return -(probabilities * self.choice.logits).sum(1) + self.real.entropy().sum(1)

    def kl(self, new):
        difference = self.choice.logits - new.choice.logits
        discrete = (self.choice.logits.exp() * difference).sum(1)
        return discrete + kl_divergence(self.real, new.real).sum(1)

    def sample(self):
        return self.choice.sample().unsqueeze(1), self.real.sample()

    def mode(self):
        return self.choice.logits.argmax(1, keepdim=True), self.real.mean


class NoGradient(Same):
    def log_prob(self, categories, reals):
        return super().log_prob(categories, reals).detach()


class WrongShape(Same):
    def sample(self):
        return self.choice.sample(), self.real.sample()


class Fails(Same):
    def entropy(self):
        raise ValueError("no closed form")


class NotFinite(Same):
    def mode(self):
        return self.choice.logits.argmax(1, keepdim=True), self.real.mean / 0


@pytest.fixture(autouse=True)
def user_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_distributions")
    for one in (Same, NoGradient, WrongShape, Fails, NotFinite, ModelConfig):
        setattr(module, one.__name__, one)
    monkeypatch.setitem(sys.modules, "my_distributions", module)


def model(name: str | None) -> ModelConfig:
    return ModelConfig(hidden=(8,), free_log_std=False, distribution=name)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_distribution_learns_the_same(name: str) -> None:
    training, page = algorithms.get(name)
    fields = training.__dataclass_fields__
    options: dict[str, Any] = {key: value for key, value in SMALL.items() if key in fields}
    config = training(**options, entropy_coeff=0.1)
    ours, own = (
        page(SPACES, model(one), config, seed=0, device=torch.device("cpu"))
        for one in (None, "my_distributions:Same")
    )
    batch = random_batch(build_network(SPACES, model(None)), SPACES, 10, 4, 0)
    for i in range(2):
        there, here = ours.update(batch, 40 * i), own.update(batch, 40 * i)
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)
    obs = (torch.randn(5, 3),)
    torch.testing.assert_close(own.network.policy(obs), ours.network.policy(obs), atol=1e-5, rtol=0)


def test_the_chooser_draws_from_it_and_is_repeatable() -> None:
    network = build_network(SPACES, model("my_distributions:Same"))
    layout, n = ActionLayout(SPACES.action), 4000
    chooser = chooser_for(network, layout, Stochastic())
    rng = np.random.default_rng(0)
    head = np.repeat(rng.normal(size=(1, 8)).astype(np.float32), n, 0)
    mask = np.repeat(np.array([[1, 0, 1, 1]], np.uint8), n, 0)
    uniform, greedy = rng.random((n, 1)), np.arange(n) < 2
    choice = chooser.choose(head, None, mask, uniform, greedy, 0, np.arange(n))
    own = Same(torch.from_numpy(head), torch.from_numpy(mask), layout)
    frequencies = np.bincount(choice.categories[2:, 0], minlength=4) / (n - 2)
    np.testing.assert_allclose(frequencies, own.choice.probs[0].numpy(), atol=0.03)
    assert frequencies[1] == 0
    np.testing.assert_allclose(choice.reals.mean(0), head[0, 4:6], atol=0.1)
    best = own.mode()
    np.testing.assert_array_equal(choice.categories[:2], best[0][:2].numpy())
    np.testing.assert_array_equal(choice.reals[:2], best[1][:2].numpy())
    again = chooser.choose(head, None, mask, uniform, greedy, 0, np.arange(n))
    for one, other in zip(choice, again, strict=True):
        np.testing.assert_array_equal(one, other)
    state = torch.get_rng_state()
    others = chooser.choose(head, None, mask, rng.random((n, 1)), None, 0, np.arange(n))
    assert not np.array_equal(others.reals, choice.reals)
    assert torch.equal(state, torch.get_rng_state())
    logp = chooser.log_prob(head, None, mask, choice.categories, choice.reals)
    np.testing.assert_allclose(choice.logp, logp, rtol=1e-6)
    reader = make_heads(network, layout, torch.device("cpu"))
    columns = torch.from_numpy(head), torch.from_numpy(mask), torch.from_numpy(choice.categories)
    learned = reader.distribution(network, *columns)
    kept = reader.unpack(reader.pack(learned))
    for one in (learned, kept):
        there = one.log_prob(columns[2], torch.from_numpy(choice.reals))
        np.testing.assert_allclose(there.numpy(), logp, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("NoGradient", "log_prob to carry a gradient"),
        (
            "WrongShape",
            r"sample to answer two observations with .*\(2, 1\), \(2, 2\)\], got \[\(2,\)",
        ),
        ("Fails", "entropy failed on 8 zeros .*ValueError: no closed form"),
        ("NotFinite", "mode to answer two observations with finite numbers"),
        ("ModelConfig", "to be derived from .*OwnDistribution"),
        ("Missing", "cannot be imported"),
    ],
)
def test_what_is_wrong_with_one_is_said_at_once(name: str, match: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.distribution: .*{match}"):
        build_network(SPACES, model(f"my_distributions:{name}"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    def settings(algorithm: str, **options: Any) -> Settings:
        return Settings.from_mapping({"algorithm": algorithm, "model": options})

    assert settings("PPO", distribution=BETA).model.distribution == BETA
    with pytest.raises(ConfigError, match=r'model\.distribution: expected "module:Class"'):
        settings("PPO", distribution="Beta")
    with pytest.raises(ConfigError, match="leave one of them out"):
        settings("PPO", distribution=BETA, autoregressive=True)
    with pytest.raises(ConfigError, match=r"model\.distribution = .* with algorithm 'SAC'"):
        settings("SAC", distribution=BETA)


def test_beta_is_a_density_on_the_range_of_the_box() -> None:
    layout = ActionLayout(Box(-3, 5, (1,)))
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    parameters = torch.tensor([[0.3, -1.0]], dtype=torch.float64).expand(len(grid), -1)
    each = Beta(parameters, None, layout)
    logp = each.log_prob(torch.zeros(len(grid), 0), grid.unsqueeze(1))
    assert torch.trapezoid(logp.exp(), grid).item() == pytest.approx(1.0, abs=1e-6)
    entropy = torch.trapezoid(-logp.exp() * logp, grid).item()
    assert entropy == pytest.approx(each.entropy()[0].item(), abs=1e-4)
    assert grid[logp.argmax()].item() == pytest.approx(each.mode()[1][0, 0].item(), abs=1e-3)
    with pytest.raises(UnsupportedSpaceError, match="bounded on both sides"):
        Beta.width(ActionLayout(Box(0, np.inf, (1,))))


def test_beta_solves_a_world_of_amounts() -> None:
    builder = (
        AlgorithmConfig("PPO")
        .environment("tests.learning.worlds:Amounts-v0")
        .simulators(num=1, lanes=16)
        .training(
            **(
                OPTIONS["PPO"]
                | {"lr": 1e-2, "minibatch_size": 64, "num_epochs": 8, "entropy_coeff": 0.0}
            )
        )
        .server(seed=1)
        .model(distribution=BETA)
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )
    with builder.build(in_process=True) as algorithm:
        for _ in range(30):
            result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        assert algorithm.evaluate(32)["episode_return_mean"] > 11.0
