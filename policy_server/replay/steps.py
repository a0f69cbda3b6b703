"""Steps as they were collected, each once, in a ring of rows that overwrites the oldest.

A row is an observation, and the step that began there if there was one: what was done, what came
of it, and the row of what was seen next. So an observation is kept once and not twice, and n-step
returns and sequences follow the rows from one to the next, over the borders of unrolls, too: the
next unroll of a lane goes on in the row where its last one had stopped.

A row of its own have, beside the steps, the last observation of a lane that has not gone on yet,
and the true final observation of an episode that was truncated.

Observations and actions may lie on a GPU; what is needed to find a way through the rows is on the
CPU.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch

from policy_server.errors import CheckpointError, ConfigError
from policy_server.networks.snapshot import as_tensor
from policy_server.replay.remedy import WITHOUT, check_dtypes
from policy_server.types import Batch

log = logging.getLogger(__name__)


class Transitions(NamedTuple):
    """n steps and what they led to, on the buffer's device.

    Attributes:
        obs, next_obs: one tensor `[n, ...]` per leaf; next_obs is where the return bootstraps.
        mask, next_mask: uint8 `[n, W]`; W = 0 where there are no masks.
        categories, reals: int64 `[n, K]`, float32 `[n, D]`.
        rewards: `[n]`, discounted sum of the step's own and up to n_step - 1 further ones; `[n, R]`
            where each step came with R of them.
        discounts: `[n]`, of the value of next_obs: gamma to the number of rewards, or 0 where the
            last of them terminated the episode.
    """

    obs: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    categories: torch.Tensor
    reals: torch.Tensor
    rewards: torch.Tensor
    next_obs: tuple[torch.Tensor, ...]
    next_mask: torch.Tensor
    discounts: torch.Tensor

    def to(self, device: torch.device) -> Transitions:
        """The same there."""

        return Transitions(
            tuple(leaf.to(device) for leaf in self.obs),
            self.mask.to(device),
            self.categories.to(device),
            self.reals.to(device),
            self.rewards.to(device),
            tuple(leaf.to(device) for leaf in self.next_obs),
            self.next_mask.to(device),
            self.discounts.to(device),
        )


class StepBuffer:
    """The last `capacity` rows.

    Attributes:
        steps: how many steps there are.
        inserted: rows ever written; row number i lies in place i % capacity.
        is_step: bool[capacity], a complete step begins there.
    """

    def __init__(self, capacity: int, device: torch.device):
        self.capacity, self.device = capacity, device
        self._obs: list[torch.Tensor] = []
        self._allocate([], 0, 0, 0, ())
        self.is_step = np.zeros(capacity, bool)
        self._next = np.zeros(capacity, np.int64)
        self._terminated = np.zeros(capacity, bool)
        self._tails: dict[int, tuple[int, int, int]] = {}  # lane -> row number, episode, next t
        self.inserted = 0
        self.steps = 0
        self._small = False  # a batch had no room

    def _allocate(
        self,
        observations: list[np.ndarray],
        categories: int,
        reals: int,
        mask_width: int,
        rewards: tuple[int, ...],
    ) -> None:
        """Columns for rows like these: leaves `[any, ...]`, K, D, W and (R,), or () for one reward
        per step."""

        def column(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros((self.capacity, *shape), dtype=dtype, device=self.device)

        self._obs = [column(leaf.shape[1:], as_tensor(leaf[:0]).dtype) for leaf in observations]
        self._categories = column((categories,), torch.int32)
        self._reals = column((reals,), torch.float32)
        self._masks = column((mask_width,), torch.uint8)
        self._rewards = np.zeros((self.capacity, *rewards), np.float32)

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        tensors = [*self._obs, self._categories, self._reals, self._masks]
        arrays = [self.is_step, self._next, self._rewards, self._terminated]
        return sum(t.numel() * t.element_size() for t in tensors) + sum(a.nbytes for a in arrays)

    # -- writing ---------------------------------------------------------------------------------

    def insert(self, batch: Batch, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes a batch in, or its last unrolls if it has no room; `rewards`: float32 `[T, B]`, or
        `[T, B, R]` for R of them per step, as they are to be learned from.

        Returns: int64[m], places whose steps are gone; int64[n], places of the new steps, by time.
        """
        if not self._obs:
            width = 0 if batch.masks is None else batch.masks.shape[2]
            self._allocate(
                [*batch.final_obs], batch.categories.shape[2], batch.reals.shape[2], width,
                rewards.shape[2:],
            )  # fmt: skip
        check_dtypes(self._obs, batch.final_obs)
        rows = self._wanted(batch).sum(0) + np.bincount(
            batch.final_index[:, 1], minlength=len(batch.lanes)
        )
        if rows.sum() > self.capacity:
            batch, rewards, rows = self._newest(batch, rewards, rows)
        fresh = int(rows.sum())
        oldest = self.inserted + fresh - self.capacity  # row that will still be there
        turns = batch.turns()
        if len(turns) == 1:
            return self._insert(batch, rewards, oldest)
        gone, new = zip(
            *(self._insert(batch.columns(some), rewards[:, some], oldest) for some in turns),
            strict=True,
        )
        return np.concatenate(gone), np.concatenate(new)

    def _newest(
        self, batch: Batch, rewards: np.ndarray, rows: np.ndarray
    ) -> tuple[Batch, np.ndarray, np.ndarray]:
        """The last unrolls, as many as there is room for; `rows`: what each of them takes."""
        if not self._small:
            self._small = True
            log.warning(
                "training.buffer_size = %d holds less than a batch, which has %d rows here: what has "
                "no room is not learned from; raise it.", self.capacity, rows.sum(),
            )  # fmt: skip
        kept = np.flatnonzero(rows[::-1].cumsum()[::-1] <= self.capacity)
        if not len(kept):
            raise ConfigError(
                f"training.buffer_size: expected room for an unroll, {rows[-1]} rows here, got "
                f"{self.capacity}: raise it."
            )
        return batch.columns(kept), rewards[:, kept], rows[kept]

    @staticmethod
    def _wanted(batch: Batch) -> np.ndarray:
        """bool[T + 1, B]: observations to be kept; what is seen last only where nothing ended."""
        steps, lanes = batch.rewards.shape
        wanted = np.arange(steps + 1)[:, None] < batch.lengths[None, :]
        lasts = batch.lengths - 1, np.arange(lanes)
        wanted[batch.lengths, lasts[1]] = ~(batch.terminated | batch.truncated)[lasts]
        return wanted

    def _insert(
        self, batch: Batch, rewards: np.ndarray, oldest: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """No lane is in the batch twice, so that later observations lie in later rows."""
        steps, lanes = batch.rewards.shape
        lengths, columns = batch.lengths, np.arange(lanes)
        wanted, finals = self._wanted(batch), batch.final_index
        goes_on = wanted[lengths, columns]
        # Where a lane stopped, it goes on in the same row, if that will still be there.
        continued = self._continued(batch, oldest)
        wanted[0] &= continued < 0
        new = int(wanted.sum())
        numbers = np.full((steps + 1, lanes), -1, np.int64)
        numbers[wanted] = self.inserted + np.arange(new)
        numbers[0] = np.where(continued < 0, numbers[0], continued)
        final_numbers = self.inserted + new + np.arange(len(finals))

        places = (self.inserted + np.arange(new + len(finals))) % self.capacity
        gone = places[self.is_step[places]]
        self.is_step[gone] = False
        self.inserted += len(places)
        for column, leaf, final in zip(self._obs, batch.obs, batch.final_obs, strict=True):
            rows = as_tensor(np.concatenate([leaf[wanted], final]))
            column[torch.from_numpy(places)] = rows.to(self.device)

        valid = batch.valid
        behind = numbers[1:].copy()
        behind[finals[:, 0], finals[:, 1]] = final_numbers
        at = numbers[:-1][valid] % self.capacity
        self._next[at] = behind[valid] % self.capacity
        self._rewards[at] = rewards[valid]
        self._terminated[at] = batch.terminated[valid]
        self.is_step[at] = True
        rows = torch.from_numpy(at).to(self.device)
        self._categories[rows] = as_tensor(batch.categories[valid]).to(self.device, torch.int32)
        self._reals[rows] = as_tensor(batch.reals[valid]).to(self.device)
        if batch.masks is not None:
            self._masks[rows] = as_tensor(batch.masks[valid]).to(self.device)
        self._remember_tails(batch, numbers, goes_on)
        self.steps += len(at) - len(gone)
        return gone, at

    def _continued(self, batch: Batch, oldest: int) -> np.ndarray:
        """Row number that each unroll goes on in, or -1. int64[B]"""
        found = np.full(len(batch.lanes), -1, np.int64)
        for b, lane in enumerate(batch.lanes.tolist()):
            tail = self._tails.pop(lane, None)
            mine = (int(batch.episodes[0, b]), int(batch.first_t[b]))
            if tail is not None and tail[1:] == mine and tail[0] >= oldest:
                found[b] = tail[0]
        return found

    def _remember_tails(self, batch: Batch, numbers: np.ndarray, goes_on: np.ndarray) -> None:
        t = batch.t
        for b in np.flatnonzero(goes_on).tolist():
            length = int(batch.lengths[b])
            number, last = int(numbers[length, b]), (length - 1, b)
            tail = (number, int(batch.episodes[last]), int(t[last]) + 1)
            self._tails[int(batch.lanes[b])] = tail

    # -- reading ---------------------------------------------------------------------------------

    @property
    def items(self) -> int:
        """What can be drawn, all in all."""
        return self.steps

    def steps_of(self, places: np.ndarray) -> int:
        """How many steps lie in these places of steps."""
        return len(places)

    def drawable(self, places: np.ndarray) -> np.ndarray:
        """bool[n]: which of these can be learned from. Where actions are masked, a step that
        bootstraps from an observation whose mask nobody knows cannot."""
        found = self.is_step[places]
        if self._masks.shape[1]:
            found = found & (self._terminated[places] | self.is_step[self._next[places]])
        return found

    def transitions(self, places: np.ndarray, n_step: int, gamma: float) -> Transitions:
        """Steps with n-step returns: shorter where the episode ends sooner, or where it is not
        known any further. int64[n]"""
        masked = self._masks.shape[1] > 0
        returns = self._rewards[places].T.astype(np.float64)  # [n] or [R, n]
        discounts = np.where(self._terminated[places], 0.0, gamma)
        reached = self._next[places]
        going = np.ones(len(places), bool)
        for _ in range(n_step - 1):  # behind a termination goes on what counts nothing
            going = going & self.is_step[reached]
            behind, over = self._next[reached], self._terminated[reached]
            if masked:
                going = going & (over | self.is_step[behind])
            if not going.any():
                break
            returns += np.where(going, discounts * self._rewards[reached].T, 0.0)
            discounts = np.where(going, np.where(over, 0.0, gamma * discounts), discounts)
            reached = np.where(going, behind, reached)
        rows = torch.from_numpy(places).to(self.device)
        next_rows = torch.from_numpy(np.where(discounts > 0, reached, places)).to(self.device)
        return Transitions(
            tuple(column.index_select(0, rows) for column in self._obs),
            self._masks.index_select(0, rows),
            self._categories.index_select(0, rows).long(),
            self._reals.index_select(0, rows),
            torch.from_numpy(returns.T.astype(np.float32)).to(self.device),
            tuple(column.index_select(0, next_rows) for column in self._obs),
            self._masks.index_select(0, next_rows),
            torch.from_numpy(discounts.astype(np.float32)).to(self.device),
        )

    # -- saving ----------------------------------------------------------------------------------

    def _named(self) -> dict[str, Any]:
        columns: dict[str, Any] = {f"obs.{i}": leaf for i, leaf in enumerate(self._obs)}
        columns |= {"categories": self._categories, "reals": self._reals, "masks": self._masks}
        columns |= {"is_step": self.is_step, "next": self._next, "rewards": self._rewards}
        return columns | {"terminated": self._terminated}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Columns as far as they were written, and the rest as JSON."""
        filled = min(self.inserted, self.capacity)
        tensors = {
            name: column[:filled].cpu().numpy().copy()
            if isinstance(column, torch.Tensor)
            else column[:filled].copy()
            for name, column in self._named().items()
        }
        tails = [[lane, *tail] for lane, tail in self._tails.items()]
        return tensors, {
            "inserted": self.inserted, "capacity": self.capacity, "tails": tails,
            "leaves": len(self._obs),
        }  # fmt: skip

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it is of another size, or of other spaces.
        """
        if "parts" in data:
            raise CheckpointError(
                f"the stored replay buffer has {len(data['parts'])} parts and training.replay_shards "
                f"= 0: set the same, or {WITHOUT}."
            )
        if data["capacity"] != self.capacity:
            raise CheckpointError(
                f"the stored replay buffer holds {data['capacity']} rows and training.buffer_size "
                f"= {self.capacity}: set the same size, or {WITHOUT}."
            )
        filled = min(int(data["inserted"]), self.capacity)
        leaves = [tensors[f"obs.{i}"] for i in range(int(data["leaves"]))]
        k, d, w = (tensors[name].shape[1] for name in ("categories", "reals", "masks"))
        self._allocate(leaves, k, d, w, tensors["rewards"].shape[1:])
        for name, column in self._named().items():
            stored = tensors.get(name)
            if stored is None or stored.shape != (filled, *column.shape[1:]):
                came = "nothing" if stored is None else f"shape {list(stored.shape)}"
                raise CheckpointError(
                    f"replay buffer, {name}: expected shape {[filled, *column.shape[1:]]}, got {came}: "
                    f"{WITHOUT}."
                )
            column[:filled] = (
                torch.from_numpy(stored) if isinstance(column, torch.Tensor) else stored
            )
        self.inserted = int(data["inserted"])
        self.steps = int(self.is_step.sum())
        self._tails = {int(lane): (int(n), int(e), int(t)) for lane, n, e, t in data["tails"]}
