"""Which steps are drawn: all alike, or those that surprised most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from policy_server.replay.sum_tree import SumTree

TRIES = 100
"""Rounds of drawing again what cannot be learned from yet."""


class NothingToDraw(Exception):
    """Of all that is there, nothing can be learned from yet."""


class Drawable(Protocol):
    """What places are drawn of.

    Attributes:
        capacity: places there are.
        inserted: rows ever written; number i lies in place i % capacity.
        items: places that can be drawn, all in all.
    """

    capacity: int
    inserted: int

    @property
    def items(self) -> int: ...
    def drawable(self, places: np.ndarray) -> np.ndarray: ...


class Draws(Protocol):
    """Draws places of a buffer."""

    def moved(self, gone: np.ndarray, new: np.ndarray) -> None:
        """`insert` of the buffer has just said so."""
        ...

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Places int64[n] and importance weights float32[n].

        Raises:
            NothingToDraw: none of them can be learned from yet.
        """
        ...

    def surprised(self, places: np.ndarray, errors: np.ndarray) -> None:
        """How wrong the learner was about them: |errors|[n]."""
        ...


class UniformDraws:
    """Everything alike, with replacement."""

    def __init__(self, buffer: Drawable, rng: np.random.Generator):
        self._buffer, self._rng = buffer, rng

    def moved(self, gone: np.ndarray, new: np.ndarray) -> None:
        """It looks at the buffer itself."""

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        buffer = self._buffer
        filled = min(buffer.inserted, buffer.capacity)
        found = _until_drawable(buffer, n, lambda k: self._rng.integers(0, filled, k), self._rng)
        return found, np.ones(n, np.float32)

    def surprised(self, places: np.ndarray, errors: np.ndarray) -> None:
        """All stay alike."""


class PrioritizedDraws:
    """Each with probability p_i^alpha / sum p^alpha, p_i = |error| + eps, or the largest p so
    far for what was never drawn; weights (N P(i))^-beta, divided by the largest of a draw.

    Source: Schaul et al., https://arxiv.org/abs/1511.05952, section 3.

    Attributes:
        beta: may be moved from draw to draw.
    """

    def __init__(
        self, buffer: Drawable, rng: np.random.Generator, alpha: float, beta: float, eps: float
    ):
        self._buffer, self._rng = buffer, rng
        self._alpha, self.beta, self._eps = alpha, beta, eps
        self._tree = SumTree(buffer.capacity)
        self._largest = 1.0

    def moved(self, gone: np.ndarray, new: np.ndarray) -> None:
        self._tree.set(gone, 0.0)
        self._tree.set(new, self._largest**self._alpha)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        places, masses = self.pick(n)
        share = masses / self.mass
        weights = (self._buffer.items * share) ** -self.beta
        return places, (weights / weights.max()).astype(np.float32)

    @property
    def mass(self) -> float:
        """Sum of all p^alpha."""
        return self._tree.total

    def pick(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Places int64[n], and p^alpha of each."""
        places = _until_drawable(
            self._buffer, n, lambda k: self._tree.draw(k, self._rng), self._rng
        )
        return places, self._tree[places]

    def surprised(self, places: np.ndarray, errors: np.ndarray) -> None:
        priorities = np.abs(errors).astype(np.float64) + self._eps
        self._largest = max(self._largest, float(priorities.max()))
        self._tree.set(places, priorities**self._alpha)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        filled = min(self._buffer.inserted, self._buffer.capacity)
        return {"priorities": self._tree[np.arange(filled)]}, {"largest": self._largest}

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None:
        priorities = tensors["priorities"]
        self._tree.set(np.arange(len(priorities)), priorities)
        self._largest = float(data["largest"])


def _until_drawable(
    buffer: Drawable, n: int, draw: Callable[[int], np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """n places that can be learned from; those that cannot are drawn again, in the end from among
    those that can, all alike.

    Raises:
        NothingToDraw: there are none.
    """
    places = draw(n)
    for _ in range(TRIES):
        wrong = np.flatnonzero(~buffer.drawable(places))
        if not len(wrong):
            return places
        places[wrong] = draw(len(wrong))
    wrong = np.flatnonzero(~buffer.drawable(places))
    filled = min(buffer.inserted, buffer.capacity)
    right = np.flatnonzero(buffer.drawable(np.arange(filled)))
    if not len(right):
        raise NothingToDraw
    places[wrong] = rng.choice(right, len(wrong))
    return places
