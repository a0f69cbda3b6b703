"""The limiter keeps to its formula, whatever comes in at a time."""

from __future__ import annotations

import numpy as np
import pytest

from policy_server.replay import rate_limiter as page
from policy_server.replay.rate_limiter import RateLimiter
from tests.broken import broken


def play(kind: type[RateLimiter], ratio: float, starts: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limiter, inserted, sampled = kind(ratio, starts, batch), 0, 0
    for _ in range(200):
        steps = int(rng.integers(1, 60))
        inserted += steps
        made = limiter.insert(steps)
        sampled += made * batch
        due = ratio * (inserted - starts)
        assert made == 0 or inserted >= starts
        if inserted >= starts:
            assert -1e-6 <= due - sampled < batch + 1e-6
        assert limiter.sampled == sampled
    assert sampled > 0


@pytest.mark.parametrize(
    ("ratio", "starts", "batch"), [(8.0, 100, 32), (0.25, 0, 32), (1.0, 500, 7), (3.7, 1, 1)]
)
def test_debt_stays_below_one_batch(ratio: float, starts: int, batch: int) -> None:
    for seed in range(3):
        play(RateLimiter, ratio, starts, batch, seed)


def test_what_a_slow_learner_cannot_pay_is_forgiven_and_counted() -> None:
    limiter = RateLimiter(8.0, 0, 32, most_steps=5)
    assert limiter.insert(32) == 5
    assert limiter.forgiven == 3 * 32
    assert limiter.debt == 0
    assert limiter.insert(4) == 1
    assert limiter.metrics == {
        "samples_per_insert": pytest.approx(6 * 32 / 36), "samples_owed": 0.0, "samples_forgiven": 96.0,
    }  # fmt: skip


def test_it_goes_on_where_it_was() -> None:
    one, other = RateLimiter(2.5, 10, 16), RateLimiter(2.5, 10, 16)
    one.insert(37)
    other.load(one.state())
    assert [one.insert(7) for _ in range(9)] == [other.insert(7) for _ in range(9)]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("max(0, self.inserted - self._starts)", "max(0, self.inserted)"),
        ("self.inserted >= self._starts", "self.inserted > 2 * self._starts"),
        ("due - self.sampled - self.forgiven", "due - self.forgiven"),
        ("self.sampled += steps_now * self._batch", "self.sampled += steps_now"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    kind = broken(page, line, instead)["RateLimiter"]
    with pytest.raises(AssertionError):
        play(kind, 3.0, 100, 32, 0)
