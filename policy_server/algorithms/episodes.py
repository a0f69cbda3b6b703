"""Steps whose whole future is known: unrolls of a lane put together until their episode ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policy_server.types import Batch, Leaves

LONGEST = 100_000
"""Steps of one episode that are kept while its end is waited for."""


class Futures(NamedTuple):
    """N steps of which all that came behind them in their episodes is known.

    Attributes:
        obs: leaves `[N, ...]`.
        categories, reals, masks: `[N, K]`, `[N, D]`, `[N, W]`; W = 0 where there are no masks.
        returns: float32 `[N]`, discounted, the step's own reward included.
        lengths: int64 `[E]`, steps of each episode (of what was seen of it), one after another.
        state: float32 `[E, S]`, of the memory before the first of them; S = 0: there is none.
    """

    obs: Leaves
    categories: np.ndarray
    reals: np.ndarray
    masks: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    state: np.ndarray


class _Open:
    """What there is of an episode whose end has not come yet.

    Attributes:
        next_t: number of the step that must come next.
        state: of the memory before its first step.
        pieces: columns in the order of `Futures`, with rewards for returns.
    """

    def __init__(self, episode: int, next_t: int, state: np.ndarray):
        self.episode, self.next_t, self.steps, self.state = episode, next_t, 0, state
        self.pieces: list[list[np.ndarray]] = []

    def add(self, piece: list[np.ndarray]) -> None:
        self.pieces.append(piece)
        self.steps += len(piece[-1])
        self.next_t += len(piece[-1])


class EpisodeAssembler:
    """Takes batches as they come, and gives the steps whose episode is over.

    Where steps are missing in between (dropped as too old, or unseen), nobody knows what those
    before them led to: they are given up.

    Attributes:
        given_up: steps so far.
    """

    def __init__(self, gamma: float):
        self._gamma = gamma
        self._open: dict[int, _Open] = {}  # by lane
        self.given_up = 0

    @property
    def waiting(self) -> int:
        """Steps whose episode is not over yet."""
        return sum(one.steps for one in self._open.values())

    def add(self, batch: Batch, rewards: np.ndarray) -> Futures | None:
        """The steps whose episode this batch ends, those of earlier batches included; None if
        there are none. `rewards`: float32 `[T, B]`, as they are to be learned from."""
        masks = (
            np.zeros((*batch.rewards.shape, 0), np.uint8) if batch.masks is None else batch.masks
        )
        columns = [
            *(leaf[:-1] for leaf in batch.obs),
            batch.categories,
            batch.reals,
            masks,
            rewards,
        ]
        ended = batch.terminated | batch.truncated
        states = np.zeros((len(batch.lengths), 0)) if batch.state is None else batch.state
        over: list[list[np.ndarray]] = []
        begun: list[np.ndarray] = []
        for b, start, end in batch.stretches():
            lane, episode = int(batch.lanes[b]), int(batch.episodes[start, b])
            t, state = (0, states[b] * 0) if start else (int(batch.first_t[b]), states[b])
            one = self._continued(lane, episode, t, state)
            one.add([column[start:end, b].copy() for column in columns])
            if ended[end - 1, b]:
                begun.append(one.state)
                over.append(self._close(lane))
            elif one.steps > LONGEST:
                self._give_up(lane)
        if not over:
            return None
        joined = [np.concatenate(column) for column in zip(*over, strict=True)]
        lengths = np.array([len(columns[-1]) for columns in over], np.int64)
        categories, reals, masks, returns = joined[-4:]
        obs = tuple(joined[:-4])
        return Futures(obs, categories, reals, masks, returns, lengths, np.stack(begun))

    def _continued(self, lane: int, episode: int, t: int, state: np.ndarray) -> _Open:
        """The lane's open episode, which goes on with step t; a new one if it does not."""
        one = self._open.get(lane)
        if one is not None and (one.episode, one.next_t) != (episode, t):
            self._give_up(lane)
            one = None
        if one is None:
            one = self._open[lane] = _Open(episode, t, state.copy())
        return one

    def _give_up(self, lane: int) -> None:
        self.given_up += self._open.pop(lane).steps

    def _close(self, lane: int) -> list[np.ndarray]:
        """The lane's episode, in one piece, with returns instead of rewards."""
        pieces = self._open.pop(lane).pieces
        *columns, rewards = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return [*columns, returns_to_go(rewards, self._gamma)]


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """R_t = r_t + gamma R_t+1 of one whole episode. float32 `[T]` -> float32 `[T]`."""
    returns = np.empty(len(rewards), np.float32)
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = returns[t] = float(rewards[t]) + gamma * following
    return returns
