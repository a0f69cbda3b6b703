"""The sum tree against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from policy_server.replay import sum_tree as page
from policy_server.replay.sum_tree import SumTree
from tests.broken import broken


def plain(weights: np.ndarray, heights: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(weights), heights, side="right")


def play(kind: type[SumTree], size: int, operations: int, seed: int) -> None:
    """Random changes and draws; whole numbers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    tree, weights = kind(size), np.zeros(size)
    for _ in range(operations):
        places = rng.choice(size, rng.integers(1, min(size, 8) + 1), replace=False)
        new = rng.integers(0, 5, len(places)).astype(float)
        tree.set(places, new)
        weights[places] = new
        assert tree.total == weights.sum()
        if weights.any():
            heights = rng.uniform(0, weights.sum(), 4)
            heights[0] = np.floor(heights[0])
            np.testing.assert_array_equal(tree.find(heights), plain(weights, heights))
    np.testing.assert_array_equal(tree[np.arange(size)], weights)


@pytest.mark.parametrize(
    ("size", "operations"), [(1, 200), (2, 500), (7, 2000), (64, 3000), (1000, 20_000)]
)
def test_it_does_as_numpy_does(size: int, operations: int) -> None:
    play(SumTree, size, operations, size)


def test_weights_of_any_size_stay_consistent() -> None:
    rng = np.random.default_rng(0)
    tree, weights = SumTree(300), np.zeros(300)
    for _ in range(5000):
        places = rng.choice(300, 16, replace=False)
        weights[places] = rng.random(16) ** 8 * 10.0 ** rng.integers(-9, 9)
        tree.set(places, weights[places])
    assert tree.total == pytest.approx(weights.sum(), rel=1e-12)
    weights[::2] = 0.0
    tree.set(np.arange(0, 300, 2), 0.0)
    drawn = tree.draw(10_000, rng)
    assert (weights[drawn] > 0).all()
    assert tree.find(np.array([tree.total]))[0] < 300


def test_draws_follow_the_weights() -> None:
    """Chi-square of a million draws, 99.9 % quantile of 49 degrees of freedom."""
    rng = np.random.default_rng(1)
    weights = rng.random(50) + 0.05
    tree = SumTree(50)
    tree.set(np.arange(50), weights)
    drawn = np.concatenate(
        [tree.draw(1, rng) for _ in range(2000)] + [tree.find(rng.random(998_000) * tree.total)]
    )
    expected = weights / weights.sum() * len(drawn)
    counts = np.bincount(drawn, minlength=50)
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


def test_a_draw_takes_one_from_each_part() -> None:
    tree = SumTree(4)
    tree.set(np.arange(4), 1.0)
    for seed in range(20):
        assert tree.draw(4, np.random.default_rng(seed)).tolist() == [0, 1, 2, 3]


def play_all(kind: type[SumTree]) -> None:
    for size in (1, 2, 7, 64):
        play(kind, size, 500, size)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("self._sums[2 * nodes] + self._sums[2 * nodes + 1]", "self._sums[2 * nodes] - self._sums[2 * nodes + 1]"),
        ("heights >= below", "heights > below"),
        ("heights - below, heights", "heights, heights"),
        ("(size - 1).bit_length()", "size.bit_length() - 1"),
        ("return nodes - self._leaves", "return nodes - self._leaves - 1"),
        ("nodes = np.unique(nodes >> 1)", "nodes = np.unique(nodes >> 1) | 1"),
    ],
)  # fmt: skip
def test_a_broken_line_shows(line: str, instead: str) -> None:
    kind = broken(page, line, instead)["SumTree"]
    with pytest.raises((AssertionError, IndexError)):
        play_all(kind)
