"""Drawing in proportion to weights that change all the time."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Weights of `size` places under a tree of sums: to change or to draw n of them takes
    n log2(size) additions.

    Source: Schaul et al., https://arxiv.org/abs/1511.05952, appendix B.2.1.
    """

    def __init__(self, size: int):
        self._size = size
        self._depth = max(0, (size - 1).bit_length())
        self._sums = np.zeros(2 << self._depth, np.float64)  # node i has children 2i and 2i+1
        self._leaves = 1 << self._depth

    @property
    def total(self) -> float:
        return float(self._sums[1])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Weights: float64, as `places`."""
        return self._sums[self._leaves + places]

    def set(self, places: np.ndarray, weights: np.ndarray | float) -> None:
        """New weights, >= 0. A place that is named twice gets one of its weights."""
        nodes = self._leaves + places
        self._sums[nodes] = weights
        nodes = np.unique(nodes)
        for _ in range(self._depth):
            nodes = np.unique(nodes >> 1)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, heights: np.ndarray) -> np.ndarray:
        """The places whose running sum first exceeds each of the heights, 0 <= height < total:
        never one of weight 0. float64 `[n]` -> int64 `[n]`."""
        nodes = np.ones(len(heights), np.int64)
        heights = heights.astype(np.float64)
        for _ in range(self._depth):
            left = 2 * nodes
            below = self._sums[left]
            # Rounding may leave a height that is not below the sum of both: stay where there is one.
            right = (heights >= below) & (self._sums[left + 1] > 0)
            heights = np.where(right, heights - below, heights)
            nodes = left + right
        return nodes - self._leaves

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n places, each by its weight, one from each nth of the total. int64 `[n]`."""
        heights = (np.arange(n) + rng.random(n)) * (self.total / n)
        return self.find(heights)
