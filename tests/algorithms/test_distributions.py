"""The action distribution against torch.distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from policy_server.algorithms.ops.distributions import ActionDistribution, HeadLayout
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
)

SPACES: dict[str, Space] = {
    "discrete": Discrete(5),
    "one choice": Discrete(1),
    "equal": MultiDiscrete([3, 3, 3]),
    "unequal": MultiDiscrete([2, 7, 1, 4]),
    "bits": MultiBinary(4),
    "real": Box(-1, 1, (1,)),
    "reals": Box(-1, 1, (2, 3)),
    "hybrid": Dict({"a": Discrete(3), "b": Box(-1, 1, (2,)), "c": MultiBinary(2)}),
    "mixed order": Tuple([Box(-1, 1, (2,)), Discrete(4)]),
}
N = 7
TOLERANCE = {"rtol": 1e-12, "atol": 1e-10}


class Reference:
    """The same distribution put together from torch's own."""

    def __init__(self, layout: ActionLayout, head, log_std, mask):
        w, d = layout.mask_width, layout.reals
        logits = head[:, :w] if mask is None else head[:, :w].masked_fill(mask == 0, -torch.inf)
        ends = np.cumsum(layout.nvec)
        self.parts = [
            Categorical(logits=logits[:, e - n : e]) for e, n in zip(ends, layout.nvec, strict=True)
        ]
        log_std = head[:, w + d :] if log_std is None else log_std.expand(N, d)
        self.normal = Normal(head[:, w : w + d], log_std.exp()) if d else None

    def log_prob(self, categories, reals):
        total = torch.zeros(N, dtype=torch.float64)
        for k, part in enumerate(self.parts):
            total = total + part.log_prob(categories[:, k])
        return total + self.normal.log_prob(reals).sum(1) if self.normal else total

    def entropy(self):
        total = torch.zeros(N, dtype=torch.float64)
        for part in self.parts:
            p = part.probs
            total = total - torch.where(p > 0, p * p.log(), 0.0).sum(1)
        return total + self.normal.entropy().sum(1) if self.normal else total

    def kl(self, other: Reference):
        total = torch.zeros(N, dtype=torch.float64)
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            ratio = torch.where(mine.probs > 0, mine.probs.log() - theirs.probs.log(), 0.0)
            total = total + (mine.probs * ratio).sum(1)
        return total + kl_divergence(self.normal, other.normal).sum(1) if self.normal else total


def make(space: Space, free: bool, masked: bool, seed: int):
    """(layout, head, log_std, mask), float64."""
    torch.manual_seed(seed)
    layout = ActionLayout(space)
    w, d = layout.mask_width, layout.reals
    head = torch.randn(N, w + d * (1 if free else 2), dtype=torch.float64) * 2
    log_std = torch.randn(d, dtype=torch.float64) * 0.5 if free and d else None
    mask = None
    if masked and w:
        mask = torch.randint(0, 2, (N, w), dtype=torch.uint8)
        mask[:, np.cumsum(layout.nvec) - layout.nvec] = 1
    return layout, head, log_std, mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_agrees_with_torch_distributions(name: str, free: bool, masked: bool) -> None:
    layout, head, log_std, mask = make(SPACES[name], free, masked, 0)
    columns = HeadLayout(layout)
    mine, reference = (
        columns.distribution(head, log_std, mask),
        Reference(layout, head, log_std, mask),
    )
    categories, reals = mine.sample(torch.Generator().manual_seed(1))
    assert categories.shape == (N, layout.categories)
    assert reals.shape == (N, layout.reals)
    torch.testing.assert_close(
        mine.log_prob(categories, reals), reference.log_prob(categories, reals), **TOLERANCE
    )
    torch.testing.assert_close(mine.entropy(), reference.entropy(), **TOLERANCE)
    _, head2, log_std2, _ = make(SPACES[name], free, masked, 1)
    other = columns.distribution(head2, log_std2, mask)
    expected = reference.kl(Reference(layout, head2, log_std2, mask))
    torch.testing.assert_close(mine.kl(other), expected, **TOLERANCE)
    if name != "one choice":
        assert expected.max() > 0.01
    torch.testing.assert_close(mine.kl(mine), torch.zeros(N, dtype=torch.float64), **TOLERANCE)
    again = columns.unpack(columns.pack(mine))
    torch.testing.assert_close(again.kl(other), expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["discrete", "equal", "unequal", "hybrid"])
def test_masked_options_have_probability_zero_and_no_gradient(name: str) -> None:
    layout, head, log_std, mask = make(SPACES[name], True, True, 2)
    head = (head.float() * 30).requires_grad_()
    log_std = None if log_std is None else log_std.float()
    policy = HeadLayout(layout).distribution(head, log_std, mask)
    assert policy.log_probs is not None
    assert mask is not None
    forbidden = mask == 0
    assert forbidden.any()
    assert (policy.log_probs.exp()[forbidden] == 0).all()
    categories, reals = policy.sample(torch.Generator().manual_seed(0))
    (policy.log_prob(categories, reals) + policy.entropy() + policy.kl(policy)).sum().backward()
    assert head.grad is not None
    assert torch.isfinite(head.grad).all()
    assert (head.grad[:, : layout.mask_width][forbidden] == 0).all()


def test_log_probs_of_all_joint_choices_sum_to_one() -> None:
    layout, head, _, mask = make(SPACES["unequal"], True, True, 3)
    policy = HeadLayout(layout).distribution(head, None, mask)
    total = torch.zeros(N, dtype=torch.float64)
    for joint in itertools.product(*(range(n) for n in layout.nvec)):
        categories = torch.tensor(joint).expand(N, -1)
        total += policy.log_prob(categories, torch.zeros(N, 0)).exp()
    torch.testing.assert_close(total, torch.ones(N, dtype=torch.float64), **TOLERANCE)


@pytest.mark.parametrize("name", ["discrete", "unequal"])
def test_samples_have_the_probabilities_of_the_head(name: str) -> None:
    """Chi-square of 40,000 draws, bound at about five deviations."""
    layout, head, _, mask = make(SPACES[name], True, True, 4)
    draws = 40_000
    assert mask is not None
    policy = HeadLayout(layout).distribution(
        head[:1].expand(draws, -1), None, mask[:1].expand(draws, -1)
    )
    categories, _ = policy.sample(torch.Generator().manual_seed(0))
    assert policy.log_probs is not None
    start = 0
    for k, n in enumerate(layout.nvec.tolist()):
        expected = policy.log_probs[0, start : start + n].exp() * draws
        counts = torch.bincount(categories[:, k], minlength=n)
        assert (counts[expected == 0] == 0).all()
        some = expected > 0
        chi_square = ((counts - expected).square()[some] / expected[some]).sum().item()
        freedom = max(int(some.sum()) - 1, 0)
        assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5 + 1e-9
        start += n


def test_real_samples_have_mean_and_deviation_of_the_head() -> None:
    draws = 40_000
    head = torch.tensor([[1.0, -2.0]]).expand(draws, -1)
    log_std = torch.tensor([0.5, -1.0])
    policy = HeadLayout(ActionLayout(Box(-1, 1, (2,)))).distribution(head, log_std, None)
    _, reals = policy.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(reals.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(reals.std(0), log_std.exp(), rtol=0.03, atol=0)


def test_shapes_are_asserted() -> None:
    columns = HeadLayout(ActionLayout(SPACES["hybrid"]))
    with pytest.raises(AssertionError):
        columns.distribution(torch.zeros(2, 9), torch.zeros(3), None)
    policy: ActionDistribution = columns.distribution(torch.zeros(2, 9), torch.zeros(2), None)
    with pytest.raises(AssertionError):
        policy.log_prob(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2))
    with pytest.raises(AssertionError):
        columns.distribution(torch.zeros(2, 9), torch.zeros(2), torch.ones(2, 6))
