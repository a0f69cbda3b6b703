"""The rows of one tick for one policy, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Leaf


@dataclass(slots=True)
class Part:
    """One group of one STEP: n rows that go to one desk."""

    group: str
    rows: int
    lanes: bytes | None


@dataclass(slots=True)
class Report(Part):
    """A part with what it reports, as it was unpacked.

    Attributes:
        slots: int64[n], the desk's numbers of the lanes.
    """

    slots: np.ndarray
    flags: bytes
    rewards: bytes
    observations: list[bytes]
    extras: dict[str, Any] | None


@dataclass(slots=True)
class Columns:
    """Rows of many parts, joined; row i belongs to the part whose span holds it.

    Shapes: slots int64[n], flags uint8[n], rewards float32[n], each observation leaf
    `[n, *shape]`, mask uint8 `[n, W]`; finals and executed: (row numbers, leaf columns).
    """

    slots: np.ndarray
    flags: np.ndarray
    rewards: np.ndarray
    observations: list[np.ndarray]
    mask: np.ndarray | None
    quiet: bool = False  # known to have no flag set: everybody just goes on
    finals: tuple[np.ndarray, list[np.ndarray]] | None = None
    executed: tuple[np.ndarray, list[np.ndarray]] | None = None
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @classmethod
    def of_quiet(cls, slots: np.ndarray, rewards: np.ndarray, obs: np.ndarray) -> Columns:
        """Of rows whose flags are all zero, with one leaf."""
        return cls(slots, np.zeros(len(slots), np.uint8), rewards, [obs], None, True)


class ColumnReader:
    """Joins reports into columns."""

    def __init__(self, observation: list[tuple[str, Leaf]], layout: ActionLayout, mask: bool):
        self.observation = observation
        self.action = layout.leaves
        self.mask_width = layout.mask_width if mask else 0
        self.formats: list[tuple[tuple[int, ...], np.dtype[Any]]] = [
            ((), np.dtype(np.uint8)),
            ((), np.dtype("<f4")),
            *((leaf.shape, leaf.dtype) for _, leaf in observation),
        ]
        """Shape and dtype of a row: flags, rewards, the leaves, and the mask if there is one."""
        if self.mask_width:
            self.formats.append(((self.mask_width,), np.dtype(np.uint8)))
        self.widths = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.formats]
        """Bytes of each."""

    # -- joining ---------------------------------------------------------------------------------

    def join(self, parts: list[Report]) -> Columns:
        """Lengths of all columns are right already (`check_lengths`)."""
        rows = sum(part.rows for part in parts)
        pieces = [
            [part.flags for part in parts],
            [part.rewards for part in parts],
            *([part.observations[i] for part in parts] for i in range(len(self.observation))),
        ]
        if self.mask_width:
            pieces.append([part.extras["mask"] for part in parts])  # type: ignore[index]
        flags, rewards, *rest = (
            np.frombuffer(bytearray().join(each), dtype).reshape((rows, *shape))
            for each, (shape, dtype) in zip(pieces, self.formats, strict=True)
        )
        columns = Columns(
            np.concatenate([part.slots for part in parts]),
            flags,
            rewards,
            rest[: len(self.observation)],
            rest[-1] if self.mask_width else None,
        )
        if any(part.extras for part in parts):
            self._join_extras(parts, columns)
        return columns

    def _join_extras(self, parts: list[Report], columns: Columns) -> None:
        at, finals, executed = 0, [], []
        for part in parts:
            extras = part.extras or {}
            if "final_obs" in extras:
                finals.append((at, *extras["final_obs"]))
            if "action" in extras:
                executed.append((at, *extras["action"]))
            for row, metrics in extras.get("metrics", ()):
                columns.metrics.append((at + row, metrics))
            at += part.rows
        columns.finals = _join_rows(finals, self.observation)
        columns.executed = _join_rows(executed, self.action)


def join_columns(several: list[Columns]) -> Columns:
    """Rows of one desk that were read in different ways, one behind the other."""
    if len(several) == 1:
        return several[0]
    joined = Columns(
        np.concatenate([c.slots for c in several]),
        np.concatenate([c.flags for c in several]),
        np.concatenate([c.rewards for c in several]),
        [np.concatenate(leaf) for leaf in zip(*(c.observations for c in several), strict=True)],
        None if several[0].mask is None else np.concatenate([c.mask for c in several]),
    )
    at, finals, executed = 0, [], []
    for columns in several:
        if columns.finals is not None:
            finals.append((columns.finals[0] + at, columns.finals[1]))
        if columns.executed is not None:
            executed.append((columns.executed[0] + at, columns.executed[1]))
        joined.metrics += [(row + at, metrics) for row, metrics in columns.metrics]
        at += len(columns.slots)
    joined.finals = _stack_rows(finals)
    joined.executed = _stack_rows(executed)
    return joined


def _stack_rows(
    pieces: list[tuple[np.ndarray, list[np.ndarray]]],
) -> tuple[np.ndarray, list[np.ndarray]] | None:
    if not pieces:
        return None
    return (
        np.concatenate([rows for rows, _ in pieces]),
        [np.concatenate(leaf) for leaf in zip(*(leaves_ for _, leaves_ in pieces), strict=True)],
    )


def _join_rows(
    pieces: list[tuple[int, bytes, list[bytes]]], parts: list[tuple[str, Leaf]]
) -> tuple[np.ndarray, list[np.ndarray]] | None:
    if not pieces:
        return None
    rows = np.concatenate(
        [np.frombuffer(rows, "<u4").astype(np.int64) + at for at, rows, _ in pieces]
    )
    columns = [
        np.frombuffer(b"".join([piece[2][i] for piece in pieces]), leaf.dtype).reshape(
            (len(rows), *leaf.shape)
        )
        for i, (_, leaf) in enumerate(parts)
    ]
    return rows, columns
