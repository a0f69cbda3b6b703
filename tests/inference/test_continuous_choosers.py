"""Squashed and noisy actions, and what a policy does before it knows anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chi_square import counts_fit
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from policy_server.acting import NoisyActions, SquashedGaussian
from policy_server.inference import noisy_actions, squashed
from policy_server.inference.choosers import Chooser, make_chooser
from policy_server.inference.noise import draw, lane_keys
from policy_server.inference.sampling import Choice
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Box, Dict, Discrete
from tests.broken import broken

HYBRID = ActionLayout(Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}))
REALS = ActionLayout(Box(-1, 1, (2,)))
N = 4000
SLOTS = np.arange(N)


def uniforms(width: int, draws: int = 0) -> np.ndarray:
    keys = lane_keys("test", lanes=N)
    return draw(SLOTS, keys, np.full(N, draws, np.uint64), width)


def choose(
    chooser: Chooser,
    head: np.ndarray,
    mask: np.ndarray | None = None,
    greedy: np.ndarray | None = None,
    policy_steps: int = 1_000_000,
    draws: int = 0,
) -> Choice:
    uniform = uniforms(chooser.noise_width, draws)
    return chooser.choose(head, None, mask, uniform, greedy, policy_steps, SLOTS)


def head(layout: ActionLayout, scale: float = 1.0) -> np.ndarray:
    width = layout.mask_width + 2 * layout.reals
    made: np.ndarray = np.random.default_rng(1).normal(0, scale, (N, width)).astype(np.float32)
    return made


def reference(
    heads: np.ndarray, mask: np.ndarray | None, choice: Choice, low: float = -20, high: float = 2
) -> np.ndarray:
    """log-probabilities by torch's own distributions, in float64."""
    numbers = torch.from_numpy(heads).double()
    logits = numbers[:, :3]
    if mask is not None:
        logits = logits.masked_fill(torch.from_numpy(mask) == 0, -torch.inf)
    mean, log_std = numbers[:, 3:5], numbers[:, 5:].clamp(low, high)
    base = Independent(Normal(mean, log_std.exp()), 1)
    reals = TransformedDistribution(base, [TanhTransform()])
    logp = reals.log_prob(torch.from_numpy(choice.reals).double())
    chosen = torch.from_numpy(choice.categories[:, 0])
    total: np.ndarray = (logp + Categorical(logits=logits).log_prob(chosen)).numpy()
    return total


def test_squashed_log_probabilities_are_torchs() -> None:
    chooser, heads = make_chooser(HYBRID, SquashedGaussian()), head(HYBRID)
    mask = np.ones((N, 3), np.uint8)
    mask[:, 1] = 0
    choice = choose(chooser, heads, mask)
    assert (np.abs(choice.reals) < 1).all()
    inner = (np.abs(choice.reals) < 0.999).all(axis=1)  # float32 cannot invert what is nearer to 1
    wanted = reference(heads, mask, choice)
    assert inner.sum() > N / 2
    np.testing.assert_allclose(choice.logp[inner], wanted[inner], rtol=1e-4, atol=1e-3)
    again = chooser.log_prob(heads, None, mask, choice.categories, choice.reals)
    np.testing.assert_allclose(again[inner], wanted[inner], rtol=1e-4, atol=1e-3)
    assert np.isfinite(choice.logp).all()
    assert np.isfinite(again).all()


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("logp = choice.logp - _log_slope(choice.reals)", "logp = choice.logp"),
        ("(np.log(2.0) - free - np.logaddexp(0.0, -2.0 * free))", "(free - np.logaddexp(0.0, -2.0 * free))"),
        ("np.clip(part, a.log_std_min, a.log_std_max, out=part)", "pass"),
        ("layout.mask_width + layout.reals  #", "layout.mask_width  #"),
    ],
)  # fmt: skip
def test_a_broken_line_shows(line: str, instead: str) -> None:
    chooser = broken(squashed, line, instead)["SquashedChooser"](HYBRID, SquashedGaussian(0, -1, 0))
    heads = head(HYBRID)
    choice = choose(chooser, heads)
    inner = (np.abs(choice.reals) < 0.999).all(axis=1)
    wanted = reference(heads, None, choice, -1, 0)
    assert not np.allclose(choice.logp[inner], wanted[inner], rtol=1e-4, atol=1e-3)


def test_greedy_is_the_squashed_mean_and_the_likeliest_choice() -> None:
    chooser, heads = make_chooser(HYBRID, SquashedGaussian(random_steps=10)), head(HYBRID)
    for policy_steps in (0, 10):  # nor does it warm up
        choice = choose(chooser, heads, greedy=np.ones(N, bool), policy_steps=policy_steps)
        np.testing.assert_allclose(choice.reals, np.tanh(heads[:, 3:5]), rtol=1e-5, atol=1e-6)
        assert (choice.categories[:, 0] == heads[:, :3].argmax(axis=1)).all()


def test_huge_heads_stay_finite() -> None:
    chooser, heads = make_chooser(HYBRID, SquashedGaussian()), head(HYBRID, scale=1e4)
    choice = choose(chooser, heads)
    assert np.isfinite(choice.reals).all()
    assert np.isfinite(choice.logp).all()


@pytest.mark.parametrize("layout", [HYBRID, REALS], ids=["hybrid", "reals"])
def test_it_begins_with_uniform_actions(layout: ActionLayout) -> None:
    acting = (
        SquashedGaussian(random_steps=10) if layout is HYBRID else NoisyActions(random_steps=10)
    )
    chooser = make_chooser(layout, acting)
    heads = head(layout, scale=30.0)[:, : layout.mask_width + 2 * layout.reals]
    if layout is REALS:
        heads = heads[:, :2]
    mask = None
    if layout.mask_width:
        mask = np.ones((N, 3), np.uint8)
        mask[::2, 0] = 0
    choice = choose(chooser, heads, mask, policy_steps=9)
    bins = np.floor((choice.reals + 1) * 5).astype(int)
    for column in bins.T:
        assert counts_fit(np.bincount(column, minlength=10), np.full(10, 0.1))
    if mask is not None:
        masked, free = choice.categories[::2, 0], choice.categories[1::2, 0]
        assert counts_fit(np.bincount(masked, minlength=3), np.array([0, 0.5, 0.5]))
        assert counts_fit(np.bincount(free, minlength=3), np.full(3, 1 / 3))
        options = np.where(np.arange(N) % 2, 3, 2)
        np.testing.assert_allclose(choice.logp, -np.log(options) - 2 * np.log(2), rtol=1e-5)
    later = choose(chooser, heads, mask, policy_steps=10)
    assert (np.abs(later.reals) > 0.99).mean() > 0.5  # the heads are far outside


def test_who_is_greedy_does_not_warm_up_while_others_do() -> None:
    chooser, heads = make_chooser(HYBRID, SquashedGaussian(random_steps=10)), head(HYBRID)
    greedy = np.arange(N) % 3 == 0
    mixed = choose(chooser, heads, greedy=greedy, policy_steps=0)
    best = choose(chooser, heads, greedy=np.ones(N, bool), policy_steps=0)
    random = choose(chooser, heads, policy_steps=0)
    for column, ours, theirs in zip(mixed, best, random, strict=True):
        assert (column[greedy] == ours[greedy]).all()
        assert (column[~greedy] == theirs[~greedy]).all()


def test_noise_has_the_deviation_asked_for_and_none_where_greedy() -> None:
    chooser = make_chooser(REALS, NoisyActions(deviation=0.2))
    heads = np.full((N, 2), 0.1, np.float32)
    greedy = np.arange(N) < N // 2
    choice = choose(chooser, heads, greedy=greedy)
    assert (choice.reals[greedy] == heads[greedy]).all()
    noise = choice.reals[~greedy] - 0.1
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 0.2) < 0.01
    assert not choice.logp.any()
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1


def test_actions_stay_within_bounds() -> None:
    chooser = make_chooser(REALS, NoisyActions(deviation=3.0))
    choice = choose(chooser, np.zeros((N, 2), np.float32))
    assert np.abs(choice.reals).max() == 1.0


def processes(module_chooser: Chooser, steps: int) -> np.ndarray:
    """What the noise does on N lanes: `[steps, N, 2]`."""
    module_chooser.begin(SLOTS)
    heads = np.zeros((N, 2), np.float32)
    return np.stack([choose(module_chooser, heads, draws=t).reals for t in range(steps)])


def test_ornstein_uhlenbeck_noise_is_the_recursion() -> None:
    acting = NoisyActions(deviation=0.05, reversion=0.15)
    made = processes(make_chooser(REALS, acting), 6)
    x = np.zeros((N, 2))
    for t, reals in enumerate(made):
        u = uniforms(4, t)
        normals = np.sqrt(-2 * np.log1p(-u[:, :2])) * np.cos(2 * np.pi * u[:, 2:])
        x = x - 0.15 * x + 0.05 * normals
        np.testing.assert_allclose(reals, np.clip(x, -1, 1), atol=1e-6)


def test_episodes_begin_at_zero_and_lanes_do_not_mix() -> None:
    chooser = make_chooser(REALS, NoisyActions(deviation=0.05, reversion=0.15))
    before = processes(chooser, 3)
    some = SLOTS[::2]
    chooser.begin(some)
    after = choose(chooser, np.zeros((N, 2), np.float32), draws=0).reals
    np.testing.assert_allclose(after[::2], before[0][::2], atol=1e-6)
    assert (after[1::2] != before[0][1::2]).any(axis=1).mean() > 0.9
    few = np.array([5, 3])  # in whatever order they come
    uniform = uniforms(4)[few]
    one = chooser.choose(np.zeros((2, 2), np.float32), None, None, uniform, None, 10**6, few)
    assert one.reals.shape == (2, 2)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(1.0 - self._acting.reversion)", "(1.0 + self._acting.reversion)"),
        ("self._processes[slots] = now", "pass"),
        ("self._processes[slots] = 0.0", "pass"),
    ],
)
def test_a_broken_process_shows(line: str, instead: str) -> None:
    chooser = broken(noisy_actions, line, instead)["NoisyActionsChooser"](
        REALS, NoisyActions(deviation=0.05, reversion=0.15)
    )
    right = make_chooser(REALS, NoisyActions(deviation=0.05, reversion=0.15))
    wanted = [processes(right, 3), processes(right, 3)]
    made = [processes(chooser, 3), processes(chooser, 3)]
    assert not np.allclose(wanted, made, atol=1e-6)


def test_a_perturbed_policy_explores_by_one_half_and_is_greedy_by_the_other() -> None:
    chooser = make_chooser(REALS, NoisyActions(deviation=0.0, perturbed=True))
    heads = np.concatenate([np.full((N, 2), 0.3), np.full((N, 2), -0.4)], 1).astype(np.float32)
    greedy = np.arange(N) % 2 == 0
    choice = choose(chooser, heads, greedy=greedy)
    assert (choice.reals[greedy] == np.float32(-0.4)).all()
    assert (choice.reals[~greedy] == np.float32(0.3)).all()


def test_choices_beside_noisy_actions_are_drawn_from_their_logits() -> None:
    """Uniform at first; greedy is the likeliest of what is allowed."""
    layout = ActionLayout(Dict({"a": Discrete(3), "b": Discrete(2)}))
    chooser = make_chooser(layout, NoisyActions(random_steps=10))
    heads = np.tile(np.array([0.0, 1.0, 2.0, 3.0, 0.0], np.float32), (N, 1))
    mask = np.tile(np.array([1, 1, 0, 1, 1], np.uint8), (N, 1))
    drawn = choose(chooser, heads, mask)
    assert drawn.reals.shape == (N, 0)
    odds = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    assert counts_fit(np.bincount(drawn.categories[:, 0], minlength=3)[:2], odds)
    assert (drawn.categories[:, 0] < 2).all()
    first = choose(chooser, heads, mask, policy_steps=9)
    assert counts_fit(np.bincount(first.categories[:, 1], minlength=2), np.full(2, 0.5))
    greedy = choose(chooser, heads, mask, np.ones(N, bool))
    assert np.unique(greedy.categories, axis=0).tolist() == [[1, 0]]
