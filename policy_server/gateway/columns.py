"""The rows of one tick for one policy, column by column, and what can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.types import ActionLayout
from sim_clients.protocol import ErrorCode, Flag, ProtocolError
from sim_clients.protocol.spaces import Box, Leaf, choices

LEGAL_FLAGS = np.zeros(256, bool)
"""Which flag bytes make sense at all; `docs/PROTOCOL.md` has the table."""
LEGAL_FLAGS[
    [
        0,
        Flag.FIRST,
        Flag.TERMINATED | Flag.FIRST,
        Flag.TRUNCATED | Flag.FIRST,
        Flag.TERMINATED | Flag.LEAVING,
        Flag.TRUNCATED | Flag.LEAVING,
        Flag.LEAVING,
        Flag.FIRST | Flag.LEAVING,
        Flag.CONTINUED,
        Flag.CONTINUED | Flag.LEAVING,
    ]
] = True

REWARD_LIMIT = 1e9
NUMBER_LIMIT = 1e12
"""Larger rewards, and larger numbers in a Box, are a simulator's mistake; squared, they would
overflow where networks compute, and spoil the training of everybody else."""


@dataclass(slots=True)
class Part:
    """One group of one STEP: n rows that go to one desk.

    Attributes:
        slots: int64[n] as bytes, the desk's numbers of the lanes.
    """

    group: str
    rows: int
    lanes: bytes | None
    slots: bytes
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
    quiet: bool  # no flag is set: everybody just goes on
    finals: tuple[np.ndarray, list[np.ndarray]] | None = None
    executed: tuple[np.ndarray, list[np.ndarray]] | None = None
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class RowError(Exception):
    """Row `row` of the columns is wrong in itself."""

    def __init__(self, row: int, code: str, text: str):
        super().__init__(text)
        self.row, self.code, self.text = row, code, text


class ColumnReader:
    """Joins parts into columns and checks their content, a column at a time."""

    def __init__(self, observation: list[tuple[str, Leaf]], layout: ActionLayout, mask: bool):
        self.observation = observation
        self.action = layout.leaves
        self.mask_width = layout.mask_width if mask else 0
        ends = np.cumsum(layout.nvec)
        self._segments = (ends - layout.nvec).astype(np.intp)

    # -- joining ---------------------------------------------------------------------------------

    def join(self, parts: list[Part]) -> Columns:
        """Lengths of all columns are right already (`check_lengths`)."""
        if len(parts) == 1:
            part = parts[0]
            slots, flags, rewards = part.slots, part.flags, part.rewards
            observed = part.observations
        else:
            slots = b"".join([part.slots for part in parts])
            flags = b"".join([part.flags for part in parts])
            rewards = b"".join([part.rewards for part in parts])
            observed = [
                b"".join(column) for column in zip(*[p.observations for p in parts], strict=True)
            ]
        columns = Columns(
            np.frombuffer(slots, np.int64),
            np.frombuffer(flags, np.uint8),
            np.frombuffer(rewards, "<f4"),
            [
                np.frombuffer(data, leaf.dtype).reshape((len(flags), *leaf.shape))
                for data, (_, leaf) in zip(observed, self.observation, strict=True)
            ],
            None,
            flags.count(0) == len(flags),
        )
        if self.mask_width:
            masks = b"".join([part.extras["mask"] for part in parts])  # type: ignore[index]
            columns.mask = np.frombuffer(masks, np.uint8).reshape(-1, self.mask_width)
        if any(part.extras for part in parts):
            self._join_extras(parts, columns)
        return columns

    def _join_extras(self, parts: list[Part], columns: Columns) -> None:
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

    # -- checking one part ---------------------------------------------------------------------------

    def check_lengths(self, part: Part, leaf_bytes: list[int]) -> None:
        """Every column of the part has the length its rows and spaces demand.

        Raises:
            ProtocolError: naming group and leaf.
        """
        n = part.rows
        if type(part.flags) is not bytes or len(part.flags) != n:
            raise _length(part, "flags", n, part.flags, ErrorCode.BAD_FLAGS)
        if type(part.rewards) is not bytes or len(part.rewards) != 4 * n:
            raise _length(part, "rewards", 4 * n, part.rewards, ErrorCode.BAD_REWARD)
        observed = part.observations
        if type(observed) is not list or len(observed) != len(leaf_bytes):
            came = len(observed) if type(observed) is list else type(observed).__name__
            raise ProtocolError(
                ErrorCode.BAD_OBSERVATION,
                f"group '{part.group}': expected {len(leaf_bytes)} observation columns, one per "
                f"leaf, got {came}.",
            )
        for i, (column, size) in enumerate(zip(observed, leaf_bytes, strict=True)):
            if type(column) is not bytes or len(column) != n * size:
                path = self.observation[i][0]
                raise _length(
                    part, f"observation{path}", n * size, column, ErrorCode.BAD_OBSERVATION
                )
        if part.extras is not None or self.mask_width:
            self._check_extras(part)

    def _check_extras(self, part: Part) -> None:
        extras = part.extras
        if extras is not None and type(extras) is not dict:
            raise _fail(part, ErrorCode.MALFORMED, "extras", "a map or nil", extras)
        extras = extras or {}
        unknown = extras.keys() - {"mask", "final_obs", "action", "metrics"}
        if unknown:
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"group '{part.group}': expected extras among mask, final_obs, action, metrics, "
                f"got {str(sorted(map(str, unknown)))[:60]}.",
            )
        if self.mask_width:
            if (
                type(extras.get("mask")) is not bytes
                or len(extras["mask"]) != part.rows * self.mask_width
            ):
                raise _length(
                    part,
                    "mask",
                    part.rows * self.mask_width,
                    extras.get("mask"),
                    ErrorCode.BAD_MASK,
                )
        elif "mask" in extras:
            raise ProtocolError(
                ErrorCode.BAD_MASK,
                f"group '{part.group}': a mask came, but the group was not declared with "
                '{"mask": true} in HELLO.',
            )
        if "final_obs" in extras:
            self._check_rows(part, "final_obs", self.observation, ErrorCode.BAD_OBSERVATION)
        if "action" in extras:
            self._check_rows(part, "action", self.action, ErrorCode.BAD_ACTION)
        if "metrics" in extras:
            _check_metrics(part)

    @staticmethod
    def _check_rows(part: Part, name: str, parts: list[tuple[str, Leaf]], code: str) -> None:
        value = part.extras[name]  # type: ignore[index]
        if (
            type(value) is not list
            or len(value) != 2
            or type(value[0]) is not bytes
            or type(value[1]) is not list
        ):
            raise _fail(part, code, name, "[rows, columns]", value)
        rows, columns = value
        count = len(rows) // 4
        numbers = np.frombuffer(rows[: 4 * count], "<u4")
        if (
            len(rows) % 4
            or (count and numbers.max() >= part.rows)
            or len(np.unique(numbers)) != count
        ):
            raise _fail(part, code, f"{name} rows", f"distinct uint32 below {part.rows}", rows)
        if len(columns) != len(parts):
            raise _fail(part, code, name, f"{len(parts)} columns", len(columns))
        for column, (path, leaf) in zip(columns, parts, strict=True):
            if type(column) is not bytes or len(column) != count * leaf.nbytes:
                raise _length(part, f"{name}{path}", count * leaf.nbytes, column, code)

    # -- checking content ------------------------------------------------------------------------------

    def check(self, columns: Columns) -> None:
        """Values are in their spaces. One vectorised test per column.

        Raises:
            RowError: the first wrong row of the first wrong column.
        """
        if not columns.quiet and not LEGAL_FLAGS[columns.flags].all():
            row = int(np.flatnonzero(~LEGAL_FLAGS[columns.flags])[0])
            raise RowError(
                row, ErrorCode.BAD_FLAGS, f"flags {int(columns.flags[row])} make no sense together"
            )
        good = np.abs(columns.rewards) <= REWARD_LIMIT
        if np.count_nonzero(good) != len(good):
            row = int(np.flatnonzero(~good)[0])
            raise RowError(
                row,
                ErrorCode.BAD_REWARD,
                f"expected a finite reward within +-{REWARD_LIMIT:.0e}, got {columns.rewards[row]}",
            )
        for column, (path, leaf) in zip(columns.observations, self.observation, strict=True):
            check_leaf(column, leaf, f"observation{path}", ErrorCode.BAD_OBSERVATION)
        if columns.mask is not None:
            allowed = np.add.reduceat(columns.mask != 0, self._segments, axis=1) > 0
            if not allowed.all():
                row = int(np.flatnonzero(~allowed.all(axis=1))[0])
                raise RowError(
                    row,
                    ErrorCode.BAD_MASK,
                    "expected at least one allowed option per choice, got none",
                )
        if not columns.quiet or columns.finals is not None:
            truncated = (columns.flags & (Flag.TRUNCATED | Flag.LEAVING)) == Flag.TRUNCATED
            if truncated.any() or columns.finals is not None:
                self._check_finals(columns, truncated)
        if columns.executed is not None:
            rows, leaves_ = columns.executed
            for column, (path, leaf) in zip(leaves_, self.action, strict=True):
                check_leaf(column, leaf, f"action{path}", ErrorCode.BAD_ACTION, rows)

    def _check_finals(self, columns: Columns, truncated: np.ndarray) -> None:
        given = np.zeros(len(truncated), bool)
        if columns.finals is not None:
            rows, leaves_ = columns.finals
            given[rows] = True
            for column, (path, leaf) in zip(leaves_, self.observation, strict=True):
                check_leaf(column, leaf, f"final_obs{path}", ErrorCode.BAD_OBSERVATION, rows)
        missing = truncated & ~given
        if missing.any():
            raise RowError(
                int(np.flatnonzero(missing)[0]),
                ErrorCode.BAD_OBSERVATION,
                "truncated and begun again: expected its true final observation in extras.final_obs, got none",
            )


def check_leaf(
    column: np.ndarray, leaf: Leaf, path: str, code: str, rows: np.ndarray | None = None
) -> None:
    """Float leaves are finite, discrete ones in range. Raises RowError."""
    if isinstance(leaf, Box):
        if leaf.dtype.kind != "f":
            return
        good = np.isfinite(column) if leaf.dtype.itemsize == 2 else np.abs(column) <= NUMBER_LIMIT
        if np.count_nonzero(good) == column.size:
            return
        expected = f"finite numbers within +-{NUMBER_LIMIT:.0e}"
    else:
        start = getattr(leaf, "start", 0)
        nvec = choices(leaf).reshape(leaf.shape)
        good = (column >= start) & (column < start + nvec)
        expected = "a choice within the space"
    if good.all():
        return
    wrong = ~good.reshape(len(column), -1).all(axis=1)
    row = int(np.flatnonzero(wrong)[0])
    flat = column[row].reshape(-1)
    value = flat[~good[row].reshape(-1)][0]
    raise RowError(
        row if rows is None else int(rows[row]), code, f"{path}: expected {expected}, got {value}"
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


def _check_metrics(part: Part) -> None:
    value = part.extras["metrics"]  # type: ignore[index]
    if type(value) is not list or len(value) > part.rows:
        raise _fail(part, ErrorCode.BAD_METRIC, "metrics", "[[row, {name: number}], ...]", value)
    for entry in value:
        good = (
            type(entry) is list
            and len(entry) == 2
            and type(entry[0]) is int
            and 0 <= entry[0] < part.rows
            and type(entry[1]) is dict
            and len(entry[1]) <= 64
        )
        if not good:
            raise _fail(
                part,
                ErrorCode.BAD_METRIC,
                "metrics",
                "[row, {name: number}] with at most 64 names",
                entry,
            )
        for name, number in entry[1].items():
            if (
                type(name) is not str
                or len(name) > 128
                or type(number) not in (int, float)
                or not np.isfinite(number)
            ):
                raise _fail(
                    part, ErrorCode.BAD_METRIC, "metrics", "a finite number per name", number
                )


def _fail(part: Part, code: str, what: str, expected: str, came: Any) -> ProtocolError:
    value = repr(came)[:40] if isinstance(came, (int, float, type(None))) else type(came).__name__
    return ProtocolError(code, f"group '{part.group}', {what}: expected {expected}, got {value}.")


def _length(part: Part, what: str, size: int, came: Any, code: str) -> ProtocolError:
    value = f"{len(came)} bytes" if type(came) is bytes else type(came).__name__
    return ProtocolError(
        code,
        f"group '{part.group}', {what}: expected {size} bytes for {part.rows} rows, got {value}.",
    )
