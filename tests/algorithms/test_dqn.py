"""DQN's loss by hand, each of its parts, and what makes it go on elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server.algorithms import dqn as page
from policy_server.algorithms.dqn import DQN, dqn_loss
from policy_server.algorithms.dqn_options import DQNTraining, RainbowTraining
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.networks.q_network import NoisyLinear, QNetwork, QOptions
from policy_server.replay.steps import Transitions
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete
from tests.broken import broken

SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))
MODEL = ModelConfig(hidden=(8,))
N = 24


def network(seed: int, **options: Any) -> QNetwork:
    torch.manual_seed(seed)
    made = QNetwork(SPACES, MODEL, QOptions(**options))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return made


def transitions(masked: bool) -> Transitions:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (N, 4)).astype(np.uint8)
    mask[np.arange(N), rng.integers(0, 4, N)] = 1
    discounts = np.where(rng.random(N) < 0.3, 0.0, 0.9)
    wide = mask if masked else np.zeros((N, 0), np.uint8)
    columns = (
        rng.normal(size=(N, 3)), wide, rng.integers(0, 4, (N, 1)), np.zeros((N, 0)),
        3 * rng.normal(size=N), rng.normal(size=(N, 3)), wide, discounts,
    )  # fmt: skip
    tensors = [torch.from_numpy(column) for column in columns]
    floats = [t.float() if t.is_floating_point() else t for t in tensors]
    obs, m, categories, reals, rewards, next_obs, next_m, d = floats
    return Transitions((obs,), m, categories, reals, rewards, (next_obs,), next_m, d)


def by_hand(online: QNetwork, target: QNetwork, steps: Transitions, double: bool) -> float:
    """One step after the other, in plain numbers."""
    total = 0.0
    q, q_next, t_next = (
        net.values(obs).detach().numpy()
        for net, obs in ((online, steps.obs), (online, steps.next_obs), (target, steps.next_obs))
    )
    for n in range(N):
        options = range(4)
        if steps.next_mask.shape[1]:
            options = [a for a in range(4) if steps.next_mask[n, a]]
        judge = q_next if double else t_next
        best = max(options, key=lambda a: judge[n, a])
        y = float(steps.rewards[n]) + float(steps.discounts[n]) * t_next[n, best]
        error = abs(q[n, int(steps.categories[n, 0])] - y)
        total += (n + 1) / N * (0.5 * error**2 if error < 1 else error - 0.5)
    return total / N


def loss_of(function: Any, masked: bool, double: bool, dueling: bool) -> tuple[float, float]:
    online, target = network(1, dueling=dueling), network(2, dueling=dueling)
    steps, weights = transitions(masked), torch.arange(1, N + 1) / N
    loss, _ = function(online, target, steps, weights, DQNTraining(double=double))
    return loss.item(), by_hand(online, target, steps, double)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_loss_is_what_it_is_by_hand(masked: bool, double: bool, dueling: bool) -> None:
    mine, expected = loss_of(dqn_loss, masked, double, dueling)
    assert mine == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("steps.rewards + steps.discounts * best", "steps.rewards - steps.discounts * best"),
        ("online.values(steps.next_obs) if config.double", "target.means(behind) if config.double"),
        ("masked(means, steps.next_mask)", "means"),
        ("target.logits(steps.next_obs)", "online.logits(steps.next_obs)"),
        ("steps.categories[:, 0]]  #", "steps.categories[:, 0] - 1]  #"),
        ("(weights * each).mean()", "each.mean()"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    function = broken(page, line, instead)["dqn_loss"]
    off = 0.0
    for double in (False, True):
        mine, expected = loss_of(function, True, double, True)
        off = max(off, abs(mine - expected))
    assert off > 1e-3


def test_dueling_advantages_have_mean_zero() -> None:
    net = network(3, dueling=True)
    obs = (torch.randn(5, 3),)
    value = net.value(net.body(net.encoder(obs)))
    torch.testing.assert_close(net.values(obs).mean(1, keepdim=True), value)


def test_a_distributions_loss_is_cross_entropy_and_its_priority_the_divergence() -> None:
    online, target = network(1, atoms=11), network(2, atoms=11)
    steps = transitions(False)
    loss, terms = dqn_loss(
        online, target, steps, torch.ones(N), DQNTraining(double=False, num_atoms=11)
    )
    chosen = online.logits(steps.obs)[torch.arange(N), steps.categories[:, 0]].log_softmax(1)
    with torch.no_grad():
        probabilities = target.logits(steps.next_obs).softmax(2)
        best = (probabilities * target.support).sum(2).argmax(1)
        wanted = page.projected(
            probabilities[torch.arange(N), best], steps.rewards, steps.discounts, target.support
        )
    expected = -(wanted * chosen).sum(1)
    torch.testing.assert_close(loss, expected.mean())
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(wanted), torch.distributions.Categorical(logits=chosen)
    )
    torch.testing.assert_close(terms["errors"], divergence.detach(), rtol=1e-4, atol=1e-5)


def test_noise_is_factorised_and_drawn_anew() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(6, 4, 1.0, 0.5)
    x, generator = torch.randn(3, 6), torch.Generator().manual_seed(0)
    torch.testing.assert_close(layer(x), layer.mean(x))
    seen = []
    for _ in range(2):
        layer.redraw(generator)
        weight = layer.mean.weight + layer.weight_deviation * torch.outer(
            layer.noise_out, layer.noise_in
        )
        bias = layer.mean.bias + layer.bias_deviation * layer.noise_out
        seen.append(layer(x))
        torch.testing.assert_close(seen[-1], torch.nn.functional.linear(x, weight, bias))
    assert not torch.equal(*seen)
    many = torch.cat(
        [layer.noise_in.clone() for _ in range(2000) if layer.redraw(generator) is None]
    )
    # E f(x)^2 = E |x| = sqrt(2 / pi).
    assert float(many.square().mean()) == pytest.approx(0.798, abs=0.03)


def learner(seed: int = 0, **options: Any) -> DQN:
    given = {
        "train_batch_size": 8, "steps_per_update": 20, "learning_starts": 30, "buffer_size": 500,
        "samples_per_insert": 4.0, "target_update_steps": 50, **options,
    }  # fmt: skip
    training = DQNTraining(**given)
    return DQN(SPACES, MODEL, training, seed=seed, device=torch.device("cpu"))


def batch(seed: int) -> Batch:
    from policy_server.networks import build_network

    return random_batch(build_network(SPACES, MODEL), SPACES, 5, 4, seed)


@pytest.mark.parametrize("options", [{}, {"prioritized": False}, {"noisy": 0.5, "num_atoms": 5}])
def test_it_goes_on_elsewhere_replay_included(options: dict[str, Any]) -> None:
    one, other = learner(save_replay=True, **options), learner(1, save_replay=True, **options)
    for i in range(4):
        one.update(batch(i), i * 20)
    other.load(one.state())
    for i in range(4, 8):
        assert one.update(batch(i), i * 20) == other.update(batch(i), i * 20)
    assert torch.equal(one.optimizer.weights, other.optimizer.weights)


def test_without_its_replay_it_fills_that_first() -> None:
    one, other = learner(), learner(1)
    for i in range(4):
        one.update(batch(i), i * 20)
    state = one.state()
    assert not any(name.startswith("replay.") for name in state.tensors)
    other.load(state)
    before = other.optimizer.weights.clone()
    assert "total_loss" not in other.update(batch(5), 100)
    assert torch.equal(before, other.optimizer.weights)
    assert "total_loss" in other.update(batch(6), 120)


def test_nothing_is_learned_before_it_starts_and_then_as_often_as_asked() -> None:
    dqn = learner()
    assert "total_loss" not in dqn.update(batch(0), 0)
    for i in range(1, 10):
        metrics = dqn.update(batch(i), 20 * i)
    assert metrics["replay_size"] == 200
    assert metrics["samples_per_insert"] == pytest.approx(4.0, rel=0.02)


def test_options_that_contradict_are_refused() -> None:
    for options in (
        {"v_min": 3, "v_max": 3, "num_atoms": 9},
        {"buffer_size": 100},
        {"learning_starts": 60_000},
    ):
        with pytest.raises(ConfigError, match="with training"):
            DQNTraining(**options)
    with pytest.raises(ConfigError, match=r"training\.epsilon: expected pairs .* <= 1"):
        DQNTraining(epsilon=((0, 1.5),))
    assert RainbowTraining().acting.noisy
