"""The nouns that cross rooms, and the law of their shapes. numpy only.

Shape law: time first, then batch, then features: `[T, B, ...]`.

For t in 0..T-1: `obs[t] -> action[t] -> reward[t], terminated[t], truncated[t]`.
`obs` has T+1 rows; row T (or row `length`, where an unroll was cut short) only bootstraps.
The reward for `action[t]` arrives with the lane's next message; `rollouts.unrolls` pairs them.

Endings have three spellings. *terminated*: value 0 behind it. *truncated*: bootstrap from the
true final observation, which is not `obs[t+1]` (that one begins the next episode) but the row
of `final_obs` that `final_index` points to. *interrupted* (the simulator vanished, or went on
without us): never learned as an ending; the unroll is cut before the step whose outcome nobody
saw, so no row of a batch carries it.

Rewards are stored as sent; scaling and clipping are the learner's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim_clients.protocol.limits import ROUNDING, rounding
from sim_clients.protocol.spaces import Box, Leaf, Space, choices, leaves

Leaves = tuple[np.ndarray, ...]
"""One array per leaf of a space, in the protocol's order."""


@dataclass(frozen=True)
class PolicySpaces:
    """What a policy sees and does."""

    observation: Space
    action: Space
    mask: bool = False  # every observation comes with an action mask


@dataclass(frozen=True, slots=True)
class _LeafPlan:
    """What `ActionLayout.to_leaves` must know of a leaf, found out once."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int
    real: bool
    start: np.ndarray | None  # None where options are counted from 0
    limits: tuple[np.ndarray, np.ndarray] | None  # float64[size] each, of whole numbers

    @classmethod
    def of(cls, leaf: Leaf) -> _LeafPlan:
        if isinstance(leaf, Box):
            limits = None
            if leaf.dtype.kind in "ui":
                limits = (
                    _inside(leaf.low.reshape(-1), np.inf),
                    _inside(leaf.high.reshape(-1), -np.inf),
                )
            return cls(leaf.shape, leaf.dtype, leaf.low.size, True, None, limits)
        start = np.reshape(getattr(leaf, "start", 0), -1)
        return cls(
            leaf.shape, leaf.dtype, choices(leaf).size, False, start if start.any() else None, None
        )


def _inside(bound: np.ndarray, towards: float) -> np.ndarray:
    """Whole numbers as float64, moved to the next one in a direction where the nearest is on the
    other side: of 2**63 - 1 it is 2**63."""
    near = bound.astype(np.float64)
    sides = [int(one) - int(b) for one, b in zip(near.tolist(), bound.tolist(), strict=True)]
    across = np.array(sides, np.float64) * np.sign(towards) < 0
    return np.where(across, np.nextafter(near, towards), near)


class ActionLayout:
    """An action space as K categoricals and D real numbers, whatever its nesting.

    Discrete, MultiDiscrete and MultiBinary elements become `categories`: int64 `[..., K]`, each
    counted from 0. Box elements become `reals`: float32 `[..., D]`, as the simulator gets them.

    Attributes:
        nvec: int64[K], options of each categorical.
        mask_width: sum of nvec; a mask is uint8 `[..., mask_width]`, 1 = allowed.
        low, high: float32[D], bounds of the reals (infinite where there is none).
    """

    def __init__(self, space: Space):
        self.space = space
        self.leaves: list[tuple[str, Leaf]] = leaves(space)
        self._plan = [_LeafPlan.of(leaf) for _, leaf in self.leaves]
        none = np.zeros(0, np.int64)
        self.nvec = np.concatenate([choices(leaf) for _, leaf in self.leaves] or [none])
        boxes = [leaf for _, leaf in self.leaves if isinstance(leaf, Box)]
        self._slack = np.concatenate([rounding(b).reshape(-1) for b in boxes] or [none])
        flat = [(b.low.reshape(-1), b.high.reshape(-1)) for b in boxes]
        with np.errstate(over="ignore"):  # what float32 cannot hold is no bound
            self.low = np.concatenate([low for low, _ in flat] or [none]).astype(np.float32)
            self.high = np.concatenate([high for _, high in flat] or [none]).astype(np.float32)

    @property
    def categories(self) -> int:
        """K."""
        return len(self.nvec)

    @property
    def reals(self) -> int:
        """D."""
        return len(self.low)

    @property
    def mask_width(self) -> int:
        return int(self.nvec.sum())

    def same(self, reals: np.ndarray, others: np.ndarray) -> np.ndarray:
        """bool `[n]`: these `[n, D]` differ by rounding alone."""
        whole = np.isfinite(self.low) & np.isfinite(self.high)
        slack = np.where(whole, self._slack, ROUNDING * np.maximum(1.0, np.abs(others)))
        close: np.ndarray = (np.abs(reals - others) <= slack).all(axis=1)
        return close

    def to_leaves(self, categories: np.ndarray, reals: np.ndarray) -> list[np.ndarray]:
        """`[n, K]`, `[n, D]` -> one contiguous column per leaf, `[n, *shape]`, wire dtype."""
        columns, k, d, n = [], 0, 0, len(categories)
        for leaf in self._plan:
            if leaf.real:
                column = reals[:, d : d + leaf.size]
                if leaf.limits is not None:
                    column = np.clip(np.rint(column.astype(np.float64)), *leaf.limits)
                d += leaf.size
            else:
                column = categories[:, k : k + leaf.size]
                if leaf.start is not None:
                    column = column + leaf.start
                k += leaf.size
            columns.append(np.ascontiguousarray(column.reshape((n, *leaf.shape)), leaf.dtype))
        return columns

    def from_leaves(self, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The inverse: columns -> (categories int64 `[n, K]`, reals float32 `[n, D]`).

        Values are taken as they come; `violation` says whether they are in the space.
        """
        n = len(columns[0])
        cats: list[np.ndarray] = [np.zeros((n, 0), np.int64)]
        reals: list[np.ndarray] = [np.zeros((n, 0), np.float32)]
        for (_, leaf), column in zip(self.leaves, columns, strict=True):
            flat = column.reshape(n, -1)
            if isinstance(leaf, Box):
                reals.append(flat.astype(np.float32))
            else:
                cats.append(flat.astype(np.int64) - np.reshape(getattr(leaf, "start", 0), -1))
        return np.concatenate(cats, axis=1), np.concatenate(reals, axis=1)


@dataclass
class Batch:
    """What a learner gets: B unrolls of up to T steps, time first.

    Rows t >= lengths[b] of column b are padding (poisoned: NaN, -1, 0xAB), except that
    `obs[lengths[b], b]` is the bootstrap observation. Inside a column the only episode
    boundaries are terminated or truncated steps.
    """

    obs: Leaves  # each [T+1, B, ...], as the policy saw it (preprocessed)
    categories: np.ndarray  # int64 [T, B, K]
    reals: np.ndarray  # float32 [T, B, D]
    logp: np.ndarray  # float32 [T, B], of the behaviour policy
    rewards: np.ndarray  # float32 [T, B]
    terminated: np.ndarray  # bool [T, B]
    truncated: np.ndarray  # bool [T, B]
    lengths: np.ndarray  # int64 [B], 1..T
    versions: np.ndarray  # int64 [T, B], policy version behind each action
    lanes: np.ndarray  # int64 [B]
    episodes: np.ndarray  # int64 [T, B], running number of the episode
    first_t: np.ndarray  # int64 [B], number of row 0 within its episode, from 0 (or from joining)
    masks: np.ndarray | None  # uint8 [T, B, W]; None where the policy has none
    final_obs: Leaves  # each [F, ...]: true final observations of truncated steps
    final_index: np.ndarray  # int64 [F, 2]: (t, b) of each of them
    state: np.ndarray | None = None  # float32 [B, S], of the memory before row 0; None: no memory
    # int64 [n]: episodes that are over and that no learner will ever have whole (`Episode.whole`)
    missed: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def steps(self) -> int:
        """Valid steps."""
        return int(self.lengths.sum())

    @property
    def t(self) -> np.ndarray:
        """int64 [T, B]: the number of each step within its episode; -1 in padding."""
        t = self.first_t.copy()
        numbers = np.full(self.rewards.shape, -1, np.int64)
        ended = self.terminated | self.truncated
        for row, valid in enumerate(self.valid):
            numbers[row, valid] = t[valid]
            t = np.where(ended[row], 0, t + 1)
        return numbers

    @property
    def valid(self) -> np.ndarray:
        """bool [T, B]: which rows are steps rather than padding."""
        return np.arange(self.rewards.shape[0])[:, None] < self.lengths[None, :]

    def turns(self) -> list[np.ndarray]:
        """Columns, int64 each: the first unroll of every lane, then the second of those that have
        several, and so on."""
        turn = np.zeros(len(self.lanes), np.int64)
        seen: dict[int, int] = {}
        for b, lane in enumerate(self.lanes.tolist()):
            turn[b] = seen[lane] = seen.get(lane, -1) + 1
        return [np.flatnonzero(turn == i) for i in range(int(turn.max(initial=0)) + 1)]

    def stretches(self) -> Iterator[tuple[int, int, int]]:
        """Every part of an unroll that lies within one episode: its column, its first step, and the
        one behind its last. Column by column, in the order of time."""
        ended = self.terminated | self.truncated
        for b, length in enumerate(self.lengths.tolist()):
            ends = [*(np.flatnonzero(ended[:length, b]) + 1).tolist(), length]
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                if end > start:
                    yield b, start, end

    def columns(self, which: np.ndarray) -> Batch:
        """Some of the unrolls, int64 `[b]`, without `missed`."""
        number = np.full(len(self.lanes), -1, np.int64)
        number[which] = np.arange(len(which))
        t, b = self.final_index.T
        mine = number[b] >= 0

        def part(column: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(column[:, which])

        return Batch(
            obs=tuple(part(leaf) for leaf in self.obs),
            categories=part(self.categories),
            reals=part(self.reals),
            logp=part(self.logp),
            rewards=part(self.rewards),
            terminated=part(self.terminated),
            truncated=part(self.truncated),
            lengths=self.lengths[which],
            versions=part(self.versions),
            lanes=self.lanes[which],
            episodes=part(self.episodes),
            first_t=self.first_t[which],
            masks=None if self.masks is None else part(self.masks),
            final_obs=tuple(leaf[mine] for leaf in self.final_obs),
            final_index=np.stack([t[mine], number[b[mine]]], axis=1),
            state=None if self.state is None else self.state[which],
        )


@dataclass(frozen=True)
class UpdateResult:
    """What comes back from one learner call.

    Attributes:
        policy: name.
        updates: how many updates this learner has made, this one included.
        weights: the whole inference network, flat, float32 `[P]`, read-only.
        metrics: losses and the like, all finite numbers unless learning broke.
        steps: steps trained on.
    """

    policy: str
    updates: int
    weights: np.ndarray
    metrics: dict[str, float]
    steps: int


@dataclass(frozen=True)
class Episode:
    """A finished (or abandoned) episode, as the gateway saw it.

    Attributes:
        ending: "terminated", "truncated" or "interrupted".
        complete: False where the beginning was not seen (the server came back in between).
        evaluation: played greedily and not trained on.
    """

    policy: str
    group: str
    session: str
    lane: int
    number: int
    length: int
    return_: float
    ending: str
    complete: bool
    evaluation: bool
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """It was played from its beginning to its end, to learn from."""
        return self.complete and not self.evaluation and self.ending != "interrupted"


@dataclass(frozen=True)
class PolicyState:
    """Everything a policy needs to go on elsewhere: what a checkpoint stores per policy.

    Attributes:
        tensors: name -> array (weights, optimiser moments, normalisation).
        data: JSON-able rest (counters, schedules, coefficients, generator states as hex).
    """

    tensors: dict[str, np.ndarray]
    data: dict[str, Any]
