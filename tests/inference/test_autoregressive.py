"""Autoregressive heads against sums over all actions, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from chi_square import counts_fit

from policy_server.acting import Stochastic
from policy_server.algorithms.ops.heads import make_heads
from policy_server.config import InferenceConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import ConfigError
from policy_server.inference.autoregressive import AutoregressiveChooser
from policy_server.inference.served import ServedPolicy
from policy_server.networks import build_network, flatten_parameters, heads
from policy_server.networks.policy import PolicyNetwork
from policy_server.settings import Settings
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete
from tests.broken import broken

SPACES = PolicySpaces(
    Box(-1, 1, (3,)), Dict({"a": Discrete(2), "b": Box(-1, 1, (2,)), "c": MultiDiscrete([3, 2])})
)
LAYOUT = ActionLayout(SPACES.action)
ALL = np.array(list(itertools.product(range(2), range(3), range(2))))
MASK = np.array([[1, 1, 0, 1, 1, 1, 1]], np.uint8)
EXACT = {"rtol": 0.0, "atol": 1e-10}


def network(free_log_std: bool = True, seed: int = 0) -> PolicyNetwork:
    """With heads far from uniform."""
    torch.manual_seed(seed)
    model = ModelConfig(hidden=(8,), autoregressive=True, free_log_std=free_log_std)
    made = build_network(SPACES, model).double()
    assert made.autoregressive is not None
    for name, parameter in made.autoregressive.named_parameters():
        if "_parts" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    return made


def of_all(made: PolicyNetwork, z: torch.Tensor, mask: np.ndarray | None):
    """The distributions on the way to each of all choices."""
    rows = len(ALL)
    allowed = torch.zeros(rows, 0) if mask is None else torch.from_numpy(mask).expand(rows, -1)
    reader = make_heads(made, LAYOUT, torch.device("cpu"))
    return reader.distribution(made, z.expand(rows, -1), allowed, torch.from_numpy(ALL))


def by_hand(made: PolicyNetwork, z: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Probability of each of all choices, from the page's equation. [12]"""
    weights = {k: v.detach().numpy() for k, v in made.autoregressive.named_parameters()}
    result = []
    for choices in ALL:
        probability, x, start = 1.0, z.copy(), 0
        for k, chosen in enumerate(choices):
            logits = weights[f"_parts.{k}.weight"] @ np.tanh(x) + weights[f"_parts.{k}.bias"]
            odds = np.exp(logits)
            if mask is not None:
                odds *= mask[0, start : start + len(odds)]
            probability *= odds[chosen] / odds.sum()
            x = x + weights[f"_embeddings.{k}"][chosen]
            start += len(odds)
        result.append(probability)
    return np.array(result)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all allowed", "masked"])
def test_probabilities_are_those_of_the_equation(mask: np.ndarray | None) -> None:
    made = network()
    z = torch.randn(1, heads.ENCODING, dtype=torch.float64)
    distribution = of_all(made, z, mask)
    reals = torch.zeros(len(ALL), 2, dtype=torch.float64)
    density = distribution.log_prob(torch.from_numpy(ALL), reals).exp()
    normal = torch.distributions.Normal(distribution.mean, distribution.log_std.exp())
    found = (density / normal.log_prob(reals).sum(1).exp()).detach().numpy()
    wanted = by_hand(made, z[0].numpy(), mask)
    np.testing.assert_allclose(found, wanted, **EXACT)
    np.testing.assert_allclose(found.sum(), 1.0, **EXACT)
    assert (wanted[ALL[:, 1] == 0] == 0).all() == (mask is not None)
    # Not one of them is what independent choices would give.
    first = wanted[ALL[:, 0] == 0].sum()
    assert abs(wanted[0] - first * wanted[(ALL[:, 1:] == ALL[0, 1:]).all(1)].sum()) > 1e-3 or mask is not None  # fmt: skip


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("z = self.after(k, z, categories[:, k])", "pass"),
        (
            "z = self.after(k, z, categories[:, k])",
            "z = self.after(k, z, categories[:, k - 1] % 2)",
        ),
        ("self._parts[k](torch.tanh(z))", "self._parts[k](z)"),
        ("return z + nn.functional", "return z - nn.functional"),
    ],
)
def test_one_line_that_is_wrong_would_be_noticed(line: str, instead: str) -> None:
    made = network()
    z = torch.randn(1, heads.ENCODING, dtype=torch.float64)
    wrong = broken(heads, line, instead)["AutoregressiveHeads"]
    made.autoregressive.__class__ = wrong
    plain = made.autoregressive.given(z.expand(len(ALL), -1), torch.from_numpy(ALL))
    parts = [torch.log_softmax(part, 1) for part in plain[:, :7].split([2, 3, 2], 1)]
    rows = torch.arange(len(ALL))
    logp = sum(part[rows, ALL[:, k]] for k, part in enumerate(parts))
    assert np.abs(logp.exp().detach().numpy() - by_hand(made, z[0].numpy(), None)).max() > 1e-3


def test_entropy_and_divergence_are_right_on_average() -> None:
    made, other = network(), network(seed=1)
    z = torch.randn(1, heads.ENCODING, dtype=torch.float64)
    p = torch.from_numpy(by_hand(made, z[0].numpy(), MASK))
    q = torch.from_numpy(by_hand(other, z[0].numpy(), MASK))
    here, there = of_all(made, z, MASK), of_all(other, z, MASK)
    normals = [torch.distributions.Normal(d.mean, d.log_std.exp()) for d in (here, there)]
    possible = p > 0
    entropy = -(p * p.log())[possible].sum() + (p * normals[0].entropy().sum(1)).sum()
    torch.testing.assert_close((p * here.entropy()).sum(), entropy, **EXACT)
    reals = torch.distributions.kl_divergence(*normals).sum(1)
    divergence = (p * (p.log() - q.log()))[possible].sum() + (p * reals).sum()
    torch.testing.assert_close((p * here.kl(there)).sum(), divergence, **EXACT)


@pytest.mark.parametrize("free", [True, False])
def test_the_chooser_draws_what_the_learner_learns(free: bool) -> None:
    made = network(free)
    z = torch.randn(1, heads.ENCODING, dtype=torch.float64)
    wanted = by_hand(made, z[0].numpy(), MASK)
    made = made.float()
    chooser = AutoregressiveChooser(LAYOUT, made)
    n = 20_000
    rng = np.random.default_rng(0)
    head, mask = z.float().expand(n, -1).numpy(), np.repeat(MASK, n, 0)
    log_std = None if made.log_std is None else made.log_std.detach().numpy()
    uniform = rng.random((n, chooser.noise_width))
    choice = chooser.choose(head, log_std, mask, uniform, None, 0, np.arange(n))
    numbers = choice.categories @ [6, 2, 1]
    assert counts_fit(np.bincount(numbers, minlength=12), wanted)
    again = chooser.log_prob(head, log_std, mask, choice.categories, choice.reals)
    np.testing.assert_allclose(choice.logp, again, rtol=1e-5, atol=1e-5)
    reader = make_heads(made, LAYOUT, torch.device("cpu"))
    categories, reals = torch.from_numpy(choice.categories), torch.from_numpy(choice.reals)
    learned = reader.distribution(
        made, torch.from_numpy(head), torch.from_numpy(mask), categories
    ).log_prob(categories, reals)
    assert (learned.detach().numpy() - choice.logp).max() < 1e-5

    best = chooser.choose(head[:1], log_std, MASK, uniform[:1], np.array([True]), 0, np.arange(1))
    first = wanted.reshape(2, 6).sum(1).argmax()
    rest = wanted.reshape(2, 3, 2)[first]
    second = rest.sum(1).argmax()
    assert best.categories.tolist() == [[first, second, rest[second].argmax()]]
    mean = made.autoregressive.given(torch.from_numpy(head[:1]), torch.from_numpy(best.categories))
    np.testing.assert_allclose(best.reals[0], mean[0, 7:9].detach().numpy(), atol=1e-6)


def test_new_weights_count_for_later_parts_too() -> None:
    model = ModelConfig(hidden=(8,), autoregressive=True)
    served = ServedPolicy(
        "p", SPACES, lambda spaces: build_network(spaces, model), Stochastic(),
        PreprocessingConfig(), InferenceConfig(device="cpu"), 0,
    )  # fmt: skip
    newer = network().float()
    served.load(flatten_parameters(newer))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    categories, reals = ALL[:5], np.zeros((5, 2), np.float32)
    mask = np.ones((5, 7), np.uint8)
    reader = make_heads(newer, LAYOUT, torch.device("cpu"))
    learned = reader.distribution(
        newer, newer.policy((torch.from_numpy(obs),)), torch.from_numpy(mask),
        torch.from_numpy(categories),
    ).log_prob(torch.from_numpy(categories), torch.from_numpy(reals))  # fmt: skip
    acted = served.log_prob((obs,), mask, categories, reals, np.arange(5))
    np.testing.assert_allclose(acted, learned.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["DQN", "Rainbow", "SAC", "DDPG", "TD3", "TQC"])
def test_an_algorithm_that_has_no_use_for_them_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model.autoregressive = True with algorithm '{name}'"):
        Settings.from_mapping({"algorithm": name, "model": {"autoregressive": True}})
