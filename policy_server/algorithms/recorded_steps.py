"""Gradient steps that are recorded once and replayed for every minibatch, on a GPU.

Minibatches differ in their number of steps and in the step sizes of their update; a recording
differs in nothing. So each minibatch is written to the same rows, of which there are as many as
the largest can have, and every row has a weight: 1 / n for the n steps of the minibatch, 0 for
the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from policy_server.algorithms.observations import ObservationRows
from policy_server.captured import Captured

Number = float | torch.Tensor
"""A float, or a scalar tensor whose value may change between replays."""


class Rates(NamedTuple):
    """What schedules and adaptation move from update to update."""

    lr: Number
    entropy_coeff: Number
    kl_coeff: Number


Learn = Callable[
    [tuple[torch.Tensor, ...], Sequence[torch.Tensor], torch.Tensor | None, Rates, bool],
    torch.Tensor,
]
"""One gradient step: (observations, columns, weights of the rows `[N]` that add up to 1 or None
for the same of each, rates, whether to report) -> report, or any other tensor."""


class RecordedSteps:
    """Args:
    learn: the step to record.
    size: rows of the largest minibatch.
    changes: tensors that a step changes.
    used: which of the rates are ever other than 0.
    obs, rows, columns: of any update: they show shapes and dtypes.
    """

    def __init__(
        self,
        learn: Learn,
        size: int,
        changes: Sequence[torch.Tensor],
        used: Sequence[bool],
        obs: ObservationRows,
        rows: torch.Tensor,
        columns: Sequence[torch.Tensor],
    ):
        device = rows.device
        self._obs = obs[rows[:1].expand(size)]
        self._columns = [column[:1].expand(size, *column.shape[1:]).clone() for column in columns]
        self._weight = torch.full((size,), 1.0 / size, device=device)
        self._rates = torch.zeros(len(used), device=device)
        rates = Rates(*(self._rates[i] if use else 0.0 for i, use in enumerate(used)))
        places = (tuple(self._obs), self._columns, self._weight, rates)
        self._steps: dict[bool, Captured] = {}
        pool = None
        for report in (False, True):
            work = functools.partial(learn, *places, report)
            self._steps[report] = Captured(work, device, changes, pool)
            pool = self._steps[report].pool
        self._filled = size  # rows of the newest minibatch

    def begin(
        self,
        obs: ObservationRows,
        rows: torch.Tensor,
        columns: Sequence[torch.Tensor],
        rates: Rates,
    ) -> None:
        """An update of steps that are `rows` of `obs` and what belongs to them."""
        self._rates.copy_(torch.tensor(rates))
        # Rows without weight must still be ones whose loss is finite: 0 times infinity is not 0.
        for mine, column in zip(self._columns, columns, strict=True):
            mine.copy_(column[:1].expand_as(mine))
        for leaf, first in zip(self._obs, obs[rows[:1]], strict=True):
            leaf.copy_(first.expand_as(leaf))

    def __call__(
        self,
        obs: ObservationRows,
        rows: torch.Tensor,
        columns: Sequence[torch.Tensor],
        report: bool,
    ) -> torch.Tensor:
        """One step on `rows` of the observations and what belongs to them."""
        n = len(rows)
        obs.write(rows, [leaf[:n] for leaf in self._obs])
        for mine, column in zip(self._columns, columns, strict=True):
            mine[:n].copy_(column)
        if n != self._filled:
            self._weight[:n].fill_(1.0 / n)
            self._weight[n:].zero_()
            self._filled = n
        return self._steps[report]()
