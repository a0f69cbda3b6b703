"""Rows of one desk on their way through a tick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.gateway.columns import Columns
from policy_server.types import Leaves


@dataclass(slots=True)
class Work:
    """Rows on their way through a tick."""

    slots: np.ndarray
    columns: Columns | None  # None once settled
    obs: Leaves
    mask: np.ndarray | None
    acting: np.ndarray | None  # bool[n], rows that want an action; None: all
    finals: dict[int, Leaves] = field(default_factory=dict)  # slot -> true final observation
    choice: Any = None


def some_rows(work: Work, rows: Any) -> Work:
    """Some rows of settled (or untouched) work."""
    return Work(
        work.slots[rows],
        None,
        tuple(leaf[rows] for leaf in work.obs),
        None if work.mask is None else work.mask[rows],
        None if work.acting is None else work.acting[rows],
    )


def join_works(works: list[Work]) -> Work:
    """Settled work of several requests as one."""
    if len(works) == 1:
        return works[0]
    acting = None
    if any(work.acting is not None for work in works):
        acting = np.concatenate(
            [np.ones(len(w.slots), bool) if w.acting is None else w.acting for w in works]
        )
    masks = [work.mask for work in works]
    return Work(
        np.concatenate([work.slots for work in works]),
        None,
        tuple(np.concatenate(leaf) for leaf in zip(*[work.obs for work in works], strict=True)),
        None if masks[0] is None else np.concatenate(masks),  # type: ignore[arg-type]
        acting,
    )
