"""Where steps wait to become batches: unrolls in one pool of preallocated rows.

A lane that records owns a *block* of `length + 1` rows. Row `base + t` holds observation and
action of its step t, and later the reward and ending that came with the lane's next message.
The one extra row is for the observation that only bootstraps. A whole tick is one scatter per
column, whatever the number of lanes; a batch is one gather per column.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from policy_server.rollouts.recycled import Recycled
from policy_server.rollouts.rows import (
    NONE,
    begin_steps,
    complete_steps,
    count_wanting,
    go_on,
)
from policy_server.types import Batch, Leaves


@dataclass
class Unroll:
    """A finished block that waits for its batch.

    Attributes:
        first_version: of the policy that chose its first action.
        first_t: number of its first step within its episode.
        finals: (t, true final observation) of those that were truncated.
        state: of the memory before the first step.
        last_version: of the policies that may learn from it; the collector says.
    """

    base: int
    length: int
    lane: int
    first_version: int
    first_t: int
    finals: list[tuple[int, Leaves]] = field(default_factory=list)
    state: np.ndarray | None = None
    last_version: int = -1


@dataclass(frozen=True)
class RowLayout:
    """What one row holds: shapes and dtypes of each observation leaf, K, D and mask width; and S,
    numbers of the memory that each unroll begins with."""

    observations: tuple[tuple[tuple[int, ...], np.dtype], ...]
    categories: int
    reals: int
    mask_width: int
    state_size: int = 0


def poison(array: np.ndarray) -> None:
    """Fills with what nobody can take for data: NaN, -1, 0xAB, True."""
    if array.dtype.kind == "f":
        array[...] = np.nan
    elif array.dtype.kind == "i":
        array[...] = -1
    elif array.dtype.kind == "b":
        array[...] = True
    else:
        array[...] = 0xAB


class UnrollStore:
    """Open and finished unrolls of one policy.

    Attributes:
        length: steps of a full unroll, T.
        base: int64[lanes], first row of the lane's block, or NONE.
        t: int64[lanes], complete steps in the lane's block.
        first_t: int64[lanes], number of the block's first step within its episode.
        first_state: float32[lanes, S], of the memory before that step.
        pending: bool[lanes], the lane was sent an action whose outcome has not come yet. The
            step stands in row base + t if the lane records.
        finished: unrolls ready for a batch, oldest first.
        ever_finished: how many there have been.
    """

    def __init__(self, layout: RowLayout, length: int, lanes: int = 16):
        self.layout = layout
        self.length = length
        self.base = np.full(lanes, NONE, np.int64)
        self.t = np.zeros(lanes, np.int64)
        self.first_t = np.zeros(lanes, np.int64)
        self.first_state = np.zeros((lanes, layout.state_size), np.float32)
        self.pending = np.zeros(lanes, bool)
        self.finished: deque[Unroll] = deque()
        self.finished_steps = 0
        self.ever_finished = 0
        self._finals: dict[int, list[tuple[int, Leaves]]] = {}
        self._rooms = [Recycled() for _ in layout.observations]  # for the batch's observations
        self._allocate(0)

    # -- room ---------------------------------------------------------------------------------

    def _allocate(self, rows: int) -> None:
        def column(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
            array = np.empty((rows, *shape), dtype)
            poison(array)
            return array

        lay = self.layout
        self.obs = [column(shape, dtype) for shape, dtype in lay.observations]
        self.categories = column((lay.categories,), np.int64)
        self.reals = column((lay.reals,), np.float32)
        self.logp = column((), np.float32)
        self.rewards = column((), np.float32)
        self.terminated = column((), np.bool_)
        self.truncated = column((), np.bool_)
        self.versions = column((), np.int64)
        self.episodes = column((), np.int64)
        self.masks = column((lay.mask_width,), np.uint8)
        size = self.length + 1
        self._free = list(range(rows - size, -1, -size))

    def _columns(self) -> list[np.ndarray]:
        return [
            *self.obs, self.categories, self.reals, self.logp, self.rewards, self.terminated,
            self.truncated, self.versions, self.episodes, self.masks,
        ]  # fmt: skip

    def _grow(self, blocks: int) -> None:
        """Room for at least `blocks` free blocks more; what is stored keeps its rows."""
        size = self.length + 1
        old_rows, free = len(self.logp), self._free
        old = self._columns()
        rows = max(2 * old_rows, old_rows + blocks * size, 4 * size)
        rows -= rows % size
        self._allocate(rows)
        for new, column in zip(self._columns(), old, strict=True):
            new[:old_rows] = column
        self._free = [base for base in self._free if base >= old_rows] + free

    def set_length(self, length: int) -> None:
        """Another T. Only while nothing is stored."""
        if length == self.length:
            return
        assert not self.finished, "unrolls wait for their batch"
        assert (self.base == NONE).all(), "unrolls are open"
        self.length = length
        self._allocate(0)

    def add_lanes(self, lanes: int) -> None:
        """Room for lane numbers below `lanes`."""
        extra = lanes - len(self.base)
        if extra > 0:
            self.base = np.concatenate([self.base, np.full(extra, NONE, np.int64)])
            self.t = np.concatenate([self.t, np.zeros(extra, np.int64)])
            self.first_t = np.concatenate([self.first_t, np.zeros(extra, np.int64)])
            more = np.zeros((extra, self.layout.state_size), np.float32)
            self.first_state = np.concatenate([self.first_state, more])
            self.pending = np.concatenate([self.pending, np.zeros(extra, bool)])

    # -- recording ------------------------------------------------------------------------------

    def begin(
        self,
        lanes: np.ndarray,
        obs: Leaves,
        categories: np.ndarray,
        reals: np.ndarray,
        logp: np.ndarray,
        masks: np.ndarray | None,
        version: int,
        episodes: np.ndarray,
        lengths: np.ndarray,
        states: np.ndarray | None = None,
    ) -> None:
        """Steps whose action was just sent. Lanes without a block get one.

        Shapes: `lanes` int64[n], each lane once; `episodes` int64 by lane, and `lengths`, how many
        steps of it came before; `states`, float32 `[lanes, S]`, of the memory before the step, if
        there is one; the other columns `[n, ...]`.
        """
        rows = np.empty(len(lanes), np.int64)
        while begin_steps(
            lanes, categories, reals, logp, version, episodes, self.base, self.t, self.pending,
            self.categories, self.reals, self.logp, self.versions, self.episodes, rows,
        ):  # fmt: skip
            without = lanes[self.base[lanes] == NONE]
            self.first_t[without] = lengths[without]
            if states is not None:
                self.first_state[without] = states[without]
            self._give_blocks(without)
        for column, leaf in zip(self.obs, obs, strict=True):
            column[rows] = leaf
        if masks is not None:
            self.masks[rows] = masks

    def go_on(
        self,
        lanes: np.ndarray,
        rewards: np.ndarray,
        obs: Leaves,
        categories: np.ndarray,
        reals: np.ndarray,
        logp: np.ndarray,
        version: int,
        episodes: np.ndarray,
    ) -> bool:
        """`complete` without any ending and `begin` without masks, in one: what nearly every tick
        consists of. False: it is not so simple, and nothing has happened."""
        rows = np.empty(len(lanes), np.int64)
        if not go_on(
            lanes, rewards, categories, reals, logp, version, episodes, self.base, self.t,
            self.pending, self.rewards, self.terminated, self.truncated, self.categories,
            self.reals, self.logp, self.versions, self.episodes, self.length, rows,
        ):  # fmt: skip
            return False
        for column, leaf in zip(self.obs, obs, strict=True):
            column[rows] = leaf
        return True

    def _give_blocks(self, lanes: np.ndarray) -> None:
        if len(self._free) < len(lanes):
            self._grow(len(lanes))
        self.base[lanes] = [self._free.pop() for _ in range(len(lanes))]
        self.t[lanes] = 0

    def replace_action(
        self, lanes: np.ndarray, categories: np.ndarray, reals: np.ndarray, logp: np.ndarray
    ) -> None:
        """The simulator did something else: the pending steps of `lanes` carry that instead."""
        rows = self.base[lanes] + self.t[lanes]
        self.categories[rows] = categories
        self.reals[rows] = reals
        self.logp[rows] = logp

    def pending_action(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Categories and reals of the pending steps of `lanes` (which all record)."""
        rows = self.base[lanes] + self.t[lanes]
        return self.categories[rows], self.reals[rows]

    def pending_inputs(self, lanes: np.ndarray) -> tuple[Leaves, np.ndarray | None]:
        """Observations and masks behind the pending steps of `lanes` (which all record)."""
        rows = self.base[lanes] + self.t[lanes]
        masks = self.masks[rows] if self.layout.mask_width else None
        return tuple(column[rows] for column in self.obs), masks

    def complete(
        self,
        lanes: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_obs: Leaves,
    ) -> None:
        """Outcomes of the pending steps of `lanes`; unrolls that are full now are finished.

        `next_obs` is what the lane sees now: the bootstrap observation of a full unroll.
        """
        full = complete_steps(
            lanes, rewards, terminated, truncated, self.base, self.t, self.pending, self.rewards,
            self.terminated, self.truncated, self.length,
        )  # fmt: skip
        if full:
            ended = (self.t[lanes] == self.length) & (self.base[lanes] != NONE)
            self.finish(lanes[ended], tuple(leaf[ended] for leaf in next_obs))

    def wanting(self, lanes: np.ndarray) -> np.ndarray:
        """bool[n]: which of these (recording) lanes need a new unroll for their next step."""
        return (self.base[lanes] == NONE) | (self.t[lanes] + self.pending[lanes] >= self.length)

    def any_wanting(self, lanes: np.ndarray) -> bool:
        """Whether there are any."""
        return bool(count_wanting(lanes, self.base, self.t, self.pending, self.length))

    def add_final(self, lane: int, final_obs: Leaves) -> None:
        """True final observation of the lane's pending step, which is about to be truncated."""
        if self.base[lane] != NONE:
            final = (int(self.t[lane]), final_obs)
            self._finals.setdefault(int(self.base[lane]), []).append(final)

    def see(self, lanes: np.ndarray, obs: Leaves) -> None:
        """What the lanes (which all record) see behind their last complete step."""
        rows = self.base[lanes] + self.t[lanes]
        for column, leaf in zip(self.obs, obs, strict=True):
            column[rows] = leaf

    def finish(self, lanes: np.ndarray, bootstrap_obs: Leaves | None = None) -> None:
        """Ends the unrolls of `lanes` behind their last complete step.

        `bootstrap_obs`: the observation there; None: it is that of the pending step, which is
        given up (the caller counts it). Unrolls without a complete step vanish.
        """
        if bootstrap_obs is not None:
            recording = self.base[lanes] != NONE
            self.see(lanes[recording], tuple(leaf[recording] for leaf in bootstrap_obs))
        for lane, base, length in zip(
            lanes.tolist(), self.base[lanes].tolist(), self.t[lanes].tolist(), strict=True
        ):
            finals = self._finals.pop(base, [])
            if base == NONE:
                continue
            if length == 0:
                self._free.append(base)
                continue
            finals = [final for final in finals if final[0] < length]
            version = int(self.versions[base])
            first_t = int(self.first_t[lane])
            state = self.first_state[lane].copy() if self.layout.state_size else None
            self.finished.append(Unroll(base, length, lane, version, first_t, finals, state))
            self.finished_steps += length
            self.ever_finished += 1
        self.base[lanes] = NONE
        self.t[lanes] = 0

    def abandon(self, lanes: np.ndarray) -> int:
        """What the pending steps of `lanes` led to will never be known: ends their unrolls
        before them. Returns how many recorded steps are lost."""
        lost = int((self.pending[lanes] & (self.base[lanes] != NONE)).sum())
        self.finish(lanes)
        self.pending[lanes] = False
        return lost

    # -- towards a batch ------------------------------------------------------------------------

    @property
    def open_unrolls(self) -> int:
        return int((self.base != NONE).sum())

    @property
    def open_steps(self) -> int:
        """Complete steps in open unrolls."""
        return int(self.t[self.base != NONE].sum())

    @property
    def steps(self) -> int:
        """Steps held here: open (pending ones included) and finished. Counted, not derived."""
        recording = self.base != NONE
        return (
            self.finished_steps + int(self.t[recording].sum()) + int(self.pending[recording].sum())
        )

    def pop(self) -> Unroll:
        """Takes the oldest finished unroll out; its rows stay until `release`."""
        unroll = self.finished.popleft()
        self.finished_steps -= unroll.length
        return unroll

    def release(self, unrolls: list[Unroll]) -> None:
        """Their rows are free again."""
        self._free.extend(unroll.base for unroll in unrolls)

    def gather(self, unrolls: list[Unroll]) -> Batch:
        """Copies unrolls into one batch, time first, and releases them."""
        bases = np.array([unroll.base for unroll in unrolls], np.int64)
        lengths = np.array([unroll.length for unroll in unrolls], np.int64)
        steps = int(lengths.max())
        rows = bases[None, :] + np.arange(steps + 1)[:, None]  # [T+1, B]
        obs = tuple(
            np.take(
                column, rows, 0, room.empty((*rows.shape, *column.shape[1:]), column.dtype), "clip"
            )
            for column, room in zip(self.obs, self._rooms, strict=True)
        )
        at = rows[:-1]
        batch = Batch(
            obs=obs,
            categories=self.categories[at],
            reals=self.reals[at],
            logp=self.logp[at],
            rewards=self.rewards[at],
            terminated=self.terminated[at],
            truncated=self.truncated[at],
            lengths=lengths,
            versions=self.versions[at],
            lanes=np.array([unroll.lane for unroll in unrolls], np.int64),
            episodes=self.episodes[at],
            first_t=np.array([unroll.first_t for unroll in unrolls], np.int64),
            masks=self.masks[at] if self.layout.mask_width else None,
            final_obs=self._final_columns(unrolls),
            final_index=np.array(
                [(t, b) for b, unroll in enumerate(unrolls) for t, _ in unroll.finals], np.int64
            ).reshape(-1, 2),
            state=np.stack([unroll.state for unroll in unrolls])  # type: ignore[misc]
            if self.layout.state_size
            else None,
        )
        if (lengths < steps).any():
            self._poison_padding(batch, steps)
        self.release(unrolls)
        return batch

    def _final_columns(self, unrolls: list[Unroll]) -> Leaves:
        finals = [obs for unroll in unrolls for _, obs in unroll.finals]
        return tuple(
            np.stack([obs[i] for obs in finals]).astype(dtype, copy=False)
            if finals
            else np.empty((0, *shape), dtype)
            for i, (shape, dtype) in enumerate(self.layout.observations)
        )

    @staticmethod
    def _poison_padding(batch: Batch, steps: int) -> None:
        t = np.arange(steps + 1)[:, None]
        past_obs = t > batch.lengths[None, :]
        for leaf in batch.obs:
            _poison_where(leaf, past_obs)
        past = (t >= batch.lengths[None, :])[:-1]
        for column in (batch.categories, batch.reals, batch.logp, batch.rewards, batch.versions,
                       batch.episodes, batch.terminated, batch.truncated):  # fmt: skip
            _poison_where(column, past)
        if batch.masks is not None:
            _poison_where(batch.masks, past)


def _poison_where(array: np.ndarray, where: np.ndarray) -> None:
    chosen = array[where]
    poison(chosen)
    array[where] = chosen
