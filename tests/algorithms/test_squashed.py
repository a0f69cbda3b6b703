"""Squashed policies and quantiles: against torch's own distributions, by hand and by differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from policy_server.algorithms.ops import quantiles as quantiles_page
from policy_server.algorithms.ops import squashed as page
from policy_server.algorithms.ops.quantiles import quantile_huber, truncated
from policy_server.algorithms.ops.squashed import Squashed, log_slope
from tests.broken import broken

N, W, D = 50, 3, 2


def head() -> torch.Tensor:
    return torch.randn(N, W + 2 * D, dtype=torch.float64, generator=torch.manual_seed(0))


NO_MASK = torch.zeros(N, 0, dtype=torch.uint8)


def test_the_density_is_torchs() -> None:
    policy = Squashed.of(head(), NO_MASK, W, -20, 2)
    reals, logp = policy.reals(torch.randn(N, D, dtype=torch.float64))
    base = Independent(Normal(policy.mean, policy.log_std.exp()), 1)
    wanted = TransformedDistribution(base, [TanhTransform()]).log_prob(reals)
    torch.testing.assert_close(logp, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(density - log_slope(free))", "(density + log_slope(free))"),
        ("-0.5 * noise.square()", "0.5 * noise.square()"),
        ("- self.log_std - _HALF", "+ self.log_std - _HALF"),
        ("(math.log(2.0) - free - softplus(-2.0 * free))", "(math.log(2.0) - free - softplus(2.0 * free))"),
    ],
)  # fmt: skip
def test_a_broken_density_shows(line: str, instead: str) -> None:
    policy = broken(page, line, instead)["Squashed"].of(head(), NO_MASK, W, -20, 2)
    reals, logp = policy.reals(torch.randn(N, D, dtype=torch.float64))
    base = Independent(Normal(policy.mean, policy.log_std.exp()), 1)
    wanted = TransformedDistribution(base, [TanhTransform()]).log_prob(
        reals.clamp(-1 + 1e-9, 1 - 1e-9)
    )
    assert not torch.allclose(logp, wanted)


def test_the_slope_stays_finite_where_actions_reach_their_bounds() -> None:
    free = torch.tensor([-1e4, -50.0, -9.0, 0.0, 9.0, 50.0, 1e4], requires_grad=True)
    slopes = log_slope(free)
    slopes.sum().backward()  # type: ignore[no-untyped-call]
    assert free.grad is not None
    assert torch.isfinite(slopes).all()
    assert torch.isfinite(free.grad).all()
    assert slopes[3].item() == pytest.approx(0.0, abs=1e-7)
    assert slopes[4].item() == pytest.approx(math.log(1 - math.tanh(9.0) ** 2), rel=1e-3)


def test_masked_choices_have_no_probability_and_finite_entropy() -> None:
    mask = torch.ones(N, W, dtype=torch.uint8)
    mask[:, 0] = 0
    policy = Squashed.of(head(), mask, W, -20, 2)
    assert not policy.choices[:, 0].any()
    logits = head()[:, 1:W]
    torch.testing.assert_close(policy.choice_entropy, Categorical(logits=logits).entropy())


def test_gradients_are_differences() -> None:
    noise = torch.randn(N, D, dtype=torch.float64)

    def total(numbers: torch.Tensor) -> torch.Tensor:
        policy = Squashed.of(numbers, NO_MASK, W, -20, 2)
        reals, logp = policy.reals(noise)
        return (reals.sum(1) + logp + policy.choice_entropy).sum()

    assert torch.autograd.gradcheck(total, [head().requires_grad_()], fast_mode=True)


def by_hand(quantiles: torch.Tensor, samples: torch.Tensor, weights: torch.Tensor) -> float:
    """Number by number, from the paper."""
    total = 0.0
    critics, n, m = quantiles.shape
    for c in range(critics):
        for row in range(n):
            each = 0.0
            for i in range(m):
                tau = (i + 0.5) / m
                for j in range(samples.shape[1]):
                    u = float(samples[row, j] - quantiles[c, row, i])
                    huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                    each += abs(tau - (1.0 if u < 0 else 0.0)) * huber
            total += float(weights[row]) * each / (m * samples.shape[1]) / n
    return total


def quantile_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.manual_seed(3)
    quantiles = 2 * torch.randn(2, 4, 5, dtype=torch.float64, generator=g)
    samples = 2 * torch.randn(4, 6, dtype=torch.float64, generator=g)
    return quantiles, samples, torch.rand(4, dtype=torch.float64, generator=g)


def test_quantile_regression_is_the_papers() -> None:
    case = quantile_case()
    assert float(quantile_huber(*case)) == pytest.approx(by_hand(*case), rel=1e-10)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("samples[None, :, None, :] - quantiles[:, :, :, None]", "quantiles[:, :, :, None] - samples[None, :, None, :]"),
        ("+ 0.5) / m", "+ 1.0) / m"),
        ("size - 0.5", "size"),
    ],
)  # fmt: skip
def test_broken_quantile_regression_shows(line: str, instead: str) -> None:
    wrong = broken(quantiles_page, line, instead)["quantile_huber"]
    assert float(wrong(*quantile_case())) != pytest.approx(by_hand(*quantile_case()), rel=1e-6)


def test_the_minimum_of_quantile_regression_are_the_quantiles() -> None:
    samples = torch.arange(1000.0, dtype=torch.float64)[None] / 10  # 0 to 100
    found = torch.full((1, 1, 4), 50.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=1.0)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 1.0 * 0.99**step
        optimizer.zero_grad()
        quantile_huber(found, samples, torch.ones(1, dtype=torch.float64)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(
        found.detach().flatten(), torch.tensor([12.5, 37.5, 62.5, 87.5]).double(), atol=1.0, rtol=0
    )


def test_the_largest_of_all_are_dropped() -> None:
    quantiles = torch.tensor([[[1.0, 9.0, 5.0]], [[2.0, 8.0, 7.0]]])
    assert truncated(quantiles, 1).tolist() == [[1.0, 2.0, 5.0, 7.0]]
    assert truncated(quantiles, 0).tolist() == [[1.0, 2.0, 5.0, 7.0, 8.0, 9.0]]
