"""Heads become actions: against torch.distributions, by formula and by count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from chi_square import counts_fit
from torch.distributions import Categorical, Normal

from policy_server.acting import LOG_STD_LIMIT
from policy_server.algorithms.ops.distributions import HeadLayout
from policy_server.inference.noise import draw, lane_keys
from policy_server.inference.sampling import Choice, RealScale, Sampler
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

SPACES: dict[str, Space] = {
    "discrete": Discrete(5, start=3),
    "one choice": Discrete(1),
    "choices": MultiDiscrete([2, 7, 1, 4]),
    "bits": MultiBinary(3),
    "reals": Box(-1, 1, (2, 2)),
    "hybrid": Dict({"a": Discrete(3), "b": Box(-1, 1, (2,)), "c": MultiBinary(2)}),
}
N = 64


class Rig:
    """A sampler, heads for it, and the same distribution put together from torch's own."""

    def __init__(
        self, space: Space, free: bool = True, masked: bool = False, n: int = N, same: bool = False
    ):
        rng = np.random.default_rng(5)
        self.n = n
        self.layout = layout = ActionLayout(space)
        self.sampler = Sampler(layout)
        w, d = layout.mask_width, layout.reals
        rows = 1 if same else n
        head = rng.normal(0, 1.5, (rows, w + d * (1 if free else 2))).astype(np.float32)
        self.head = np.repeat(head, n // rows, axis=0)
        self.log_std = rng.normal(-0.5, 0.5, d).astype(np.float32) if free and d else None
        self.mask = None
        bounds = np.cumsum(layout.nvec)
        self.segments = [(e - k, e) for e, k in zip(bounds, layout.nvec, strict=True)]
        if masked and w:
            mask = (rng.random((rows, w)) < 0.5).astype(np.uint8)
            for start, end in self.segments:  # every categorical keeps an option
                mask[np.arange(rows), rng.integers(start, end, rows)] = 1
            self.mask = np.repeat(mask, n // rows, axis=0)
        logits = torch.from_numpy(self.head[:, :w]).double()
        if self.mask is not None:
            logits = logits.masked_fill(torch.from_numpy(self.mask) == 0, -torch.inf)
        self.categoricals = [Categorical(logits=logits[:, s:e]) for s, e in self.segments]
        self.normal = None
        if d:
            mean = torch.from_numpy(self.head[:, w : w + d]).double()
            log_std = self.head[:, w + d :] if self.log_std is None else self.log_std
            self.normal = Normal(mean, torch.from_numpy(np.exp(log_std)).double())

    def choose(self, greedy: np.ndarray | None = None, place: object = "test") -> Choice:
        keys = lane_keys(place, lanes=self.n)
        draws = np.zeros(self.n, np.uint64)
        uniform = draw(np.arange(self.n), keys, draws, self.sampler.noise_width)
        return self.sampler.choose(self.head, self.log_std, self.mask, uniform, greedy)

    def log_prob(self, choice: Choice) -> np.ndarray:
        """By torch."""
        total = torch.zeros(self.n, dtype=torch.float64)
        for i, part in enumerate(self.categoricals):
            total = total + part.log_prob(torch.from_numpy(choice.categories[:, i]))
        if self.normal is not None:
            total = total + self.normal.log_prob(torch.from_numpy(choice.reals).double()).sum(1)
        return total.numpy()


CASES = list(itertools.product(SPACES, (True, False), (False, True)))


@pytest.mark.parametrize(("name", "free", "masked"), CASES)
def test_log_probabilities_are_those_of_torch(name, free, masked):
    rig = Rig(SPACES[name], free, masked)
    for greedy in (None, np.ones(N, bool), np.arange(N) % 2 == 0):
        choice = rig.choose(greedy)
        assert choice.categories.shape == (N, rig.layout.categories)
        assert choice.reals.shape == (N, rig.layout.reals)
        assert (choice.categories.dtype, choice.reals.dtype) == (np.int64, np.float32)
        assert choice.logp.dtype == np.float32
        np.testing.assert_allclose(choice.logp, rig.log_prob(choice), rtol=1e-5, atol=1e-5)
        again = rig.sampler.log_prob(
            rig.head, rig.log_std, rig.mask, choice.categories, choice.reals
        )
        np.testing.assert_allclose(again, choice.logp, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_choices_come_as_often_as_they_are_likely(masked):
    rig = Rig(MultiDiscrete([2, 6, 4]), masked=masked, n=50_000, same=True)
    categories = rig.choose().categories
    for i, part in enumerate(rig.categoricals):
        probabilities = part.probs[0].numpy()
        counts = np.bincount(categories[:, i], minlength=len(probabilities))
        assert counts_fit(counts, probabilities)
    # Elements of an action are drawn apart from each other.
    joint = np.histogram2d(categories[:, 0], categories[:, 1], [range(3), range(7)])[0]
    both = np.outer(rig.categoricals[0].probs[0], rig.categoricals[1].probs[0])
    assert counts_fit(joint, both)


def test_the_count_notices_wrong_probabilities():
    rig = Rig(Discrete(6), n=50_000, same=True)
    counts = np.bincount(rig.choose().categories[:, 0], minlength=6)
    right = rig.categoricals[0].probs[0].numpy()
    wrong = right * np.linspace(0.9, 1.1, 6)
    assert counts_fit(counts, right)
    assert not counts_fit(counts, wrong / wrong.sum())


def test_options_of_the_mask_are_never_chosen_however_likely():
    rig = Rig(MultiDiscrete([4, 5]), masked=True, n=20_000)
    rig.head[:, : rig.layout.mask_width] += np.where(rig.mask == 0, np.float32(80), np.float32(0))
    for greedy in (None, np.ones(rig.n, bool)):
        choice = rig.choose(greedy)
        for i, (start, _) in enumerate(rig.segments):
            assert rig.mask[np.arange(rig.n), start + choice.categories[:, i]].all()
        assert np.isfinite(choice.logp).all()


@pytest.mark.parametrize("end", [0.0, 1 - 2.0**-32])
def test_the_ends_of_the_noise_hit_no_masked_option(end):
    sampler = Sampler(ActionLayout(Discrete(4)))
    mask = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.uint8)
    head = np.array([[9, -9, 1, 9], [0, 5, 5, 5], [5, 5, 5, 0]], np.float32)
    choice = sampler.choose(head, None, mask, np.full((3, 1), end), None)
    assert choice.categories[:, 0].tolist() == [1 if end == 0.0 else 2, 0, 3]
    np.testing.assert_allclose(choice.logp[1:], 0.0, atol=1e-6)


@pytest.mark.parametrize(("name", "free", "masked"), CASES)
def test_greedy_is_the_mode_and_touches_nobody_else(name, free, masked):
    rig = Rig(SPACES[name], free, masked)
    greedy = np.arange(N) % 3 == 0
    choice, sampled = rig.choose(greedy), rig.choose()
    for i, part in enumerate(rig.categoricals):
        np.testing.assert_array_equal(choice.categories[greedy, i], part.probs.argmax(1)[greedy])
    if rig.normal is not None:
        np.testing.assert_array_equal(
            choice.reals[greedy], rig.normal.mean.numpy()[greedy].astype(np.float32)
        )
        assert (choice.reals[~greedy] != rig.normal.mean.numpy()[~greedy]).all()
    for mine, theirs in zip(choice, sampled, strict=True):
        np.testing.assert_array_equal(mine[~greedy], theirs[~greedy])


@pytest.mark.parametrize("free", [True, False])
def test_gaussian_noise_has_the_mean_and_deviation_of_the_head(free):
    n = 50_000
    rig = Rig(SPACES["hybrid"], free, n=n, same=True)
    reals = rig.choose().reals.astype(np.float64)
    z = (reals - rig.normal.mean.numpy()) / rig.normal.stddev.numpy()
    error = 4 / np.sqrt(n)
    assert abs(z.mean(0)).max() < error
    assert abs((z**2).mean(0) - 1).max() < error * np.sqrt(2)
    assert abs((z[:, 0] * z[:, 1]).mean()) < error
    inside = np.array([(abs(z) < k).mean() for k in (1, 2)])
    np.testing.assert_allclose(inside, [0.6827, 0.9545], atol=error)


def test_reals_fill_bounded_boxes_and_pass_through_others():
    low = np.array([-2, 0, -np.inf, 1, -np.inf], np.float32)
    high = np.array([2, 10, np.inf, np.inf, 3], np.float32)
    scale = RealScale(ActionLayout(Box(low, high, (5,))))
    z = np.array([[0.5, -1, 7, 0.5, 4], [-3, 0, -7, 2, -4]], np.float32)
    expected = [[1, 0, 7, 1, 3], [-2, 5, -7, 2, -4]]
    np.testing.assert_allclose(scale.to_simulator(z), expected)
    inside = np.array([[0.5, -0.25, 7, 2, -4]], np.float32)
    np.testing.assert_allclose(scale.from_simulator(scale.to_simulator(inside)), inside, rtol=1e-6)


def test_choices_and_reals_of_one_action_know_nothing_of_each_other():
    n = 50_000
    rig = Rig(SPACES["hybrid"], n=n, same=True)
    choice = rig.choose()
    z = (choice.reals.astype(np.float64) - rig.normal.mean.numpy()) / rig.normal.stddev.numpy()
    for column in choice.categories.T:
        for option in range(column.max() + 1):
            of_option = z[column == option]
            error = 4.5 / np.sqrt(len(of_option))
            assert abs(of_option.mean(0)).max() < error
            assert abs((of_option**2).mean(0) - 1).max() < error * np.sqrt(2)


def test_deviations_that_are_seen_are_held_within_limits() -> None:
    """exp of a head could be infinite; here and where the learner looks the same limit holds."""
    rig = Rig(SPACES["reals"], free=False)
    w, d = rig.layout.mask_width, rig.layout.reals
    rig.head[:, w + d :] = np.random.default_rng(1).uniform(-200, 200, rig.head[:, w + d :].shape)
    for greedy in (None, np.ones(N, bool)):
        choice = rig.choose(greedy)
        assert np.isfinite(choice.reals).all()
        assert np.isfinite(choice.logp).all()
        head = torch.from_numpy(rig.head)
        theirs = HeadLayout(rig.layout).distribution(head, None, None)
        assert theirs.log_std is not None
        assert float(theirs.log_std.abs().max()) == LOG_STD_LIMIT
        logp = theirs.log_prob(torch.from_numpy(choice.categories), torch.from_numpy(choice.reals))
        np.testing.assert_allclose(choice.logp, logp.numpy(), rtol=1e-4, atol=1e-3)
        again = rig.sampler.log_prob(rig.head, None, None, choice.categories, choice.reals)
        np.testing.assert_allclose(choice.logp, again, rtol=1e-4, atol=1e-3)
