"""Returns of mirrored pairs: what came of a direction in parameter space, forwards and backwards.

`perturbation` says which episodes are a pair. Each is played with the parameters that acted when
it began; a pair counts when both of its episodes are over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from policy_server.perturbation import direction, pair_of
from policy_server.types import Batch

MOST_WAITING = 10_000
"""Pairs of which one episode is waited for; beyond them the oldest is given up."""


class Pairs(NamedTuple):
    """n pairs.

    Attributes:
        numbers: int64[n], of their directions.
        returns: float64 `[n, 2]`: forwards, backwards.
    """

    numbers: np.ndarray
    returns: np.ndarray


class _Open(NamedTuple):
    """An episode as far as it was played: the step that must come next, and the rewards so far."""

    episode: int
    next_t: int
    total: float


class MirroredReturns:
    """Takes batches as they come, and gives pairs.

    An episode of which anything is missing (a session died, steps were dropped, it was an
    evaluation) says nothing about its direction, and neither does its twin alone: the pair is
    given up.

    Attributes:
        given_up: pairs so far.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}  # by lane
        self._waiting: dict[int, tuple[int, float]] = {}  # direction -> which half, its return
        self._lost: dict[int, None] = {}  # directions, those given up last
        self._ready: list[tuple[int, float, float]] = []
        self.given_up = 0

    @property
    def waiting(self) -> int:
        """Pairs of which one episode is over."""
        return len(self._waiting)

    def add(self, batch: Batch, rewards: np.ndarray) -> None:
        """`rewards`: float32 `[T, B]`, as they are to be learned from."""
        for episode in batch.missed.tolist():
            self._miss(episode)
        ended = batch.terminated | batch.truncated
        for b, start, end in batch.stretches():
            lane, episode = int(batch.lanes[b]), int(batch.episodes[start, b])
            part = float(rewards[start:end, b].sum(dtype=np.float64))
            one = self._continued(lane, episode, 0 if start else int(batch.first_t[b]))
            if one is not None:
                one = _Open(one.episode, one.next_t + end - start, one.total + part)
                if ended[end - 1, b]:
                    self._over(one)
                else:
                    self._open[lane] = one

    def _continued(self, lane: int, episode: int, t: int) -> _Open | None:
        """What there is of the lane's episode, which goes on with step t; None: not all of it."""
        one = self._open.pop(lane, None)
        if one is not None and one[:2] == (episode, t):
            return one
        if one is not None:
            self._miss(one.episode)
        if t == 0:
            return _Open(episode, 0, 0.0)
        self._miss(episode)
        return None

    def _over(self, one: _Open) -> None:
        number, half = pair_of(one.episode)
        if number in self._lost:
            return
        if number not in self._waiting:
            self._waiting[number] = half, one.total
            if len(self._waiting) > MOST_WAITING:
                self._give_up(next(iter(self._waiting)))
            return
        other, total = self._waiting.pop(number)
        assert {half, other} == {0, 1}, f"episode {one.episode} ended twice"
        forwards, backwards = (total, one.total) if half else (one.total, total)
        self._ready.append((number, forwards, backwards))

    def _miss(self, episode: int) -> None:
        number, _ = pair_of(episode)
        if number not in self._lost:
            self._give_up(number)

    def _give_up(self, number: int) -> None:
        self._waiting.pop(number, None)
        self._lost[number] = None
        self.given_up += 1
        if len(self._lost) > MOST_WAITING:
            del self._lost[next(iter(self._lost))]

    def take(self, n: int) -> Pairs | None:
        """The n pairs that were complete first; None: there are not so many."""
        if len(self._ready) < n:
            return None
        taken, self._ready = self._ready[:n], self._ready[n:]
        numbers, *returns = zip(*taken, strict=True)
        return Pairs(np.array(numbers, np.int64), np.array(returns, np.float64).T)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "open": [[lane, *one] for lane, one in self._open.items()],
            "waiting": [[number, *half] for number, half in self._waiting.items()],
            "lost": list(self._lost),
            "ready": [list(pair) for pair in self._ready],
            "given_up": self.given_up,
        }

    def load(self, data: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._open = {int(lane): _Open(int(e), int(t), float(r)) for lane, e, t, r in data["open"]}
        self._waiting = {int(n): (int(half), float(r)) for n, half, r in data["waiting"]}
        self._lost = dict.fromkeys(int(number) for number in data["lost"])
        self._ready = [(int(n), float(f), float(b)) for n, f, b in data["ready"]]
        self.given_up = int(data["given_up"])


def weighted_sum(weights: np.ndarray, numbers: Iterable[int], seed: int, size: int) -> np.ndarray:
    """sum_k weights_k direction_k, of the directions with these numbers. `[n]` -> float32
    `[size]`."""
    total = np.zeros(size, np.float64)
    for weight, number in zip(weights.tolist(), numbers, strict=True):
        if weight:
            total += weight * direction(seed, int(number), size)
    return total.astype(np.float32)
