"""The steps of a batch, each with what was seen before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from policy_server.algorithms.observations import ObservationRows
from policy_server.networks.snapshot import as_tensor
from policy_server.types import Batch

CHUNK = 4096
"""Steps that are looked at together where no gradient is kept."""


class Pairs(NamedTuple):
    """n steps.

    Attributes:
        obs, next_obs: leaves `[n, ...]`, before and behind them.
        categories, reals: int64 `[n, K]`, float32 `[n, D]`, what was done.
    """

    obs: tuple[torch.Tensor, ...]
    next_obs: tuple[torch.Tensor, ...]
    categories: torch.Tensor
    reals: torch.Tensor


class Successions:
    """The N valid steps of a batch, in the order of time, lane after lane.

    Behind a truncated step lies the true last observation of its episode, not the first of the
    next one. Behind a terminated step nothing is known: its last observation is in no batch.

    Attributes:
        obs: all observations, by row.
        rows: int64 `[N]`, of what was seen before each step.
        next_rows: int64 `[N]`, of what was seen behind it; -1: unknown.
        followed: int64 `[M]`, the steps of which it is known.
    """

    def __init__(self, batch: Batch, device: torch.device):
        steps, lanes = batch.rewards.shape
        self._valid, self._device = batch.valid, device
        leaves = tuple(leaf.reshape((-1, *leaf.shape[2:])) for leaf in batch.obs)
        behind = np.arange(lanes, (steps + 1) * lanes).reshape(steps, lanes)
        behind[batch.terminated] = -1
        finals = batch.final_index
        if len(finals):  # they come behind all others
            behind[finals[:, 0], finals[:, 1]] = (steps + 1) * lanes + np.arange(len(finals))
            both = zip(leaves, batch.final_obs, strict=True)
            leaves = tuple(np.concatenate(pair) for pair in both)
        self.obs = ObservationRows(leaves, device)
        valid = self._valid.reshape(-1)
        self.rows = as_tensor(np.flatnonzero(valid)).to(device)
        self.next_rows = as_tensor(behind.reshape(-1)[valid]).to(device)
        self.followed = (self.next_rows >= 0).nonzero().squeeze(1)
        self._categories = as_tensor(batch.categories[self._valid]).to(device)
        self._reals = as_tensor(batch.reals[self._valid]).to(device)

    def pairs(self, which: torch.Tensor) -> Pairs:
        """Steps among `followed`. int64 `[n]`"""
        rows, next_rows = self.rows[which], self.next_rows[which]
        categories, reals = self._categories[which], self._reals[which]
        return Pairs(self.obs[rows], self.obs[next_rows], categories, reals)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Pairs]:
        """All of `followed` once, in parts as equal as can be of at most `size`."""
        order = torch.randperm(len(self.followed), generator=generator).to(self._device)
        parts = -(-len(order) // size)
        for some in order.tensor_split(parts) if parts else ():
            yield self.pairs(self.followed[some])

    def evaluate(self, function: Callable[[Pairs], torch.Tensor]) -> torch.Tensor:
        """`function` of all of `followed`, without gradients, and 0 for all others: `[N]`."""
        found = torch.zeros(len(self.rows), device=self._device)
        with torch.no_grad():
            for some in torch.split(self.followed, CHUNK):
                found[some] = function(self.pairs(some))
        return found

    def by_time(self, column: torch.Tensor) -> np.ndarray:
        """`[N]` -> float32 `[T, B]`; 0 in padding."""
        placed = np.zeros(self._valid.shape, np.float32)
        placed[self._valid] = column.cpu().numpy()
        return placed
