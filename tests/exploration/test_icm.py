"""Curiosity's losses and reward by hand, and what its features care for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pages import CPU, MODEL, SPACES, make, some_batch

from policy_server.exploration import icm
from policy_server.exploration.icm import ICM, Guesses
from policy_server.exploration.options import ICMOptions
from policy_server.exploration.successions import Successions
from policy_server.stepwise import at_once
from tests.broken import broken

NVEC = [3, 2]
N, FEATURES = 7, 5


def guesses() -> tuple[Guesses, torch.Tensor, torch.Tensor]:
    """Random ones in float64, and what was done."""
    torch.manual_seed(0)
    columns = [torch.randn(N, width, dtype=torch.float64) for width in (FEATURES, FEATURES, 5, 2)]
    categories = torch.stack([torch.randint(n, (N,)) for n in NVEC], dim=1)
    return Guesses(*columns), categories, torch.randn(N, 2, dtype=torch.float64)


def losses_agree(module: Any) -> None:
    g, categories, reals = guesses()
    forward = module.forward_loss(g)
    inverse = module.inverse_loss(g, categories, reals, NVEC)
    for i in range(N):
        squares = [(a - b) ** 2 for a, b in zip(g.features[i], g.foreseen[i], strict=True)]
        assert math.isclose(forward[i], sum(squares) / 2, rel_tol=1e-12)
        expected = sum((a - b) ** 2 for a, b in zip(g.reals[i], reals[i], strict=True)) / 2
        for logits, chosen in zip((g.choices[i, :3], g.choices[i, 3:]), categories[i], strict=True):
            powers = [math.exp(x) for x in logits.tolist()]
            expected -= math.log(powers[int(chosen)] / sum(powers))
        assert math.isclose(inverse[i], expected, rel_tol=1e-12)


def test_losses_are_those_of_the_paper() -> None:
    losses_agree(icm)


def by_hand(explorer: ICM, batch: Any) -> np.ndarray:
    """Rewards step by step, from the networks' layers, without `Successions`. `[T, B]`"""
    models, found = explorer.models, np.zeros(batch.rewards.shape, np.float32)

    def features(leaves: list[np.ndarray]) -> torch.Tensor:
        return models.features([torch.from_numpy(leaf[None]) for leaf in leaves])

    for t, b in np.argwhere(batch.valid & ~batch.terminated):
        behind = [leaf[t + 1, b] for leaf in batch.obs]
        if batch.truncated[t, b]:
            at = batch.final_index.tolist().index([t, b])
            behind = [leaf[at] for leaf in batch.final_obs]
        done = np.zeros(7, np.float32)
        done[batch.categories[t, b, 0]] = done[3 + batch.categories[t, b, 1]] = 1.0
        done[5:] = batch.reals[t, b]
        now = features([leaf[t, b] for leaf in batch.obs])
        asked = torch.cat([now, torch.from_numpy(done[None])], dim=1)
        foreseen = models.forward_head(models.forward_body(asked))
        apart = (foreseen - features(behind)).detach().numpy()
        found[t, b] = (apart**2).sum() / 2
    return found


def rewards_agree(module: Any) -> None:
    batch = some_batch(1)
    explorer = module.ICM(SPACES, MODEL, ICMOptions(features=FEATURES), seed=0, device=CPU)
    steps = Successions(batch, CPU)
    found = steps.by_time(explorer.reward(steps))
    np.testing.assert_allclose(found, by_hand(explorer, batch), rtol=1e-5, atol=1e-7)


def test_the_reward_is_the_forward_models_error() -> None:
    rewards_agree(icm)


def gradient_agrees(module: Any) -> None:
    """What one gradient step goes against: (1 - beta) L_I + beta L_F, means over the steps."""
    options = ICMOptions(features=FEATURES, minibatch_size=1000, forward_share=0.3)
    explorer = module.ICM(SPACES, MODEL, options, seed=0, device=CPU)
    twin = ICM(SPACES, MODEL, options, seed=0, device=CPU)
    steps = Successions(some_batch(1), CPU)
    pairs = steps.pairs(steps.followed)
    guessed = twin.models(pairs)
    inverse = icm.inverse_loss(guessed, pairs.categories, pairs.reals, NVEC)
    loss = 0.7 * inverse.mean() + 0.3 * icm.forward_loss(guessed).mean()
    wanted = torch.autograd.grad(loss, list(twin.models.parameters()))
    at_once(explorer.learn(steps))
    found = [p.grad for p in explorer.models.parameters()]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_features_and_both_models_learn_together() -> None:
    gradient_agrees(icm)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("0.5 * (guesses.foreseen - guesses.features)", "0.5 * (guesses.foreseen + guesses.features)"),
        ("0.5 * (guesses.reals - reals)", "(guesses.reals - reals)"),
        ("loss = loss + cross", "loss = loss - cross"),
        ("cross_entropy(logits, categories[:, k]", "cross_entropy(logits, categories[:, 0] % 2"),
    ],
)  # fmt: skip
def test_a_broken_loss_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        losses_agree(SimpleNamespace(**broken(icm, line, instead)))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("self.features(pairs.next_obs)", "self.features(pairs.obs)"),
        ("torch.cat([now, *hot, pairs.reals], dim=1)", "torch.cat([behind, *hot, pairs.reals], dim=1)"),
        ("torch.cat([now, *hot, pairs.reals]", "torch.cat([now, *hot[::-1], pairs.reals]"),
    ],
)  # fmt: skip
def test_a_broken_model_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        rewards_agree(SimpleNamespace(**broken(icm, line, instead)))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(1 - beta) * inverse + beta * forward", "(1 - beta) * inverse - beta * forward"),
        ("(1 - beta) * inverse + beta * forward", "beta * inverse + (1 - beta) * forward"),
    ],
)
def test_a_broken_objective_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        gradient_agrees(SimpleNamespace(**broken(icm, line, instead)))


def test_what_it_has_seen_often_is_less_new() -> None:
    explorer, steps = make("ICM", lr=1e-2), Successions(some_batch(1), CPU)
    first = explorer.reward(steps).mean()
    for _ in range(200):
        metrics = at_once(explorer.learn(steps))
    assert explorer.reward(steps).mean() < first / 10
    assert set(metrics) == {"icm_forward_loss", "icm_inverse_loss"}
