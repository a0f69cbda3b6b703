"""What can be wrong with the rows of a tick: with their lengths, and with their content."""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_server.compiled import compiled
from policy_server.gateway.columns import ColumnReader, Columns, Report
from policy_server.gateway.row_error import RowError
from policy_server.types import ActionLayout
from sim_clients.protocol import ErrorCode, Flag, ProtocolError
from sim_clients.protocol.limits import NUMBER_LIMIT, REWARD_LIMIT, bounded, executed_range
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


class ColumnChecks:
    """Checks reports one by one for lengths, and columns for content, a column at a time."""

    def __init__(self, reader: ColumnReader, layout: ActionLayout):
        self.observation = reader.observation
        self.action = reader.action
        self.mask_width = reader.mask_width
        # What has bounds is held against them alone.
        self._action_limits = [
            np.inf if isinstance(leaf, Box) and bounded(leaf).all() else NUMBER_LIMIT
            for _, leaf in self.action
        ]
        self._bounds = [
            executed_range(leaf) if isinstance(leaf, Box) else None for _, leaf in self.action
        ]
        ends = np.cumsum(layout.nvec)
        self._segments = (ends - layout.nvec).astype(np.intp)

    # -- checking one part ---------------------------------------------------------------------------

    def check_lengths(self, part: Report, leaf_bytes: list[int]) -> None:
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

    def _check_extras(self, part: Report) -> None:
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
    def _check_rows(part: Report, name: str, parts: list[tuple[str, Leaf]], code: str) -> None:
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

    def check(self, columns: Columns, opened: np.ndarray, busy: np.ndarray) -> None:
        """Values are in their spaces and fit the state of their lanes; says whether it is quiet.

        Shapes: `opened` and `busy` bool by slot: an episode is under way, a request waits.

        Raises:
            RowError: a wrong row.
        """
        verdict = _judge(
            columns.slots, columns.flags, columns.rewards, opened, busy, LEGAL_FLAGS, REWARD_LIMIT
        )
        columns.quiet = not verdict & FLAGGED
        if verdict & WRONG:
            self._name_wrong(columns, opened, busy)
        for column, (path, leaf) in zip(columns.observations, self.observation, strict=True):
            if not _all_finite(column):
                check_leaf(column, leaf, f"observation{path}", ErrorCode.BAD_OBSERVATION)
        if columns.mask is not None:
            self._check_mask(columns.mask)
        if not columns.quiet or columns.finals is not None:
            truncated = (columns.flags & (Flag.TRUNCATED | Flag.LEAVING)) == Flag.TRUNCATED
            if truncated.any() or columns.finals is not None:
                self._check_finals(columns, truncated)
        if columns.executed is not None:
            rows, leaves_ = columns.executed
            for column, (path, leaf), limit in zip(
                leaves_, self.action, self._action_limits, strict=True
            ):
                check_leaf(column, leaf, f"action{path}", ErrorCode.BAD_ACTION, rows, limit)
            # Others tell nothing: there was no action, or nobody knows which.
            flags = columns.flags[rows]
            told = opened[columns.slots[rows]] & ((flags & Flag.CONTINUED) == 0)
            told &= ((flags & Flag.FIRST) == 0) | ((flags & Flag.ENDED) != 0)
            self._check_bounds(rows[told], [column[told] for column in leaves_])

    def _check_bounds(self, rows: np.ndarray, action: list[np.ndarray]) -> None:
        """Actions that were executed are within their Box, up to rounding. Raises RowError."""
        for column, (path, leaf), bounds in zip(action, self.action, self._bounds, strict=True):
            if bounds is not None:
                good = (column >= bounds[0]) & (column <= bounds[1])
                if not good.all():
                    expected = f"an action of {leaf}, as declared"
                    raise _wrong_value(
                        column, good, f"action{path}", ErrorCode.BAD_ACTION, rows, expected
                    )

    @staticmethod
    def _name_wrong(columns: Columns, opened: np.ndarray, busy: np.ndarray) -> None:
        """Raises what `_judge` saw."""
        slots, flags, rewards = columns.slots, columns.flags, columns.rewards
        senseless = ~LEGAL_FLAGS[flags]
        if senseless.any():
            row = int(np.flatnonzero(senseless)[0])
            raise RowError(
                row, ErrorCode.BAD_FLAGS, f"flags {int(flags[row])} make no sense together"
            )
        absurd = ~(np.abs(rewards) <= REWARD_LIMIT)
        if absurd.any():
            row = int(np.flatnonzero(absurd)[0])
            raise RowError(
                row,
                ErrorCode.BAD_REWARD,
                f"expected a finite reward within +-{REWARD_LIMIT:.0e}, got {rewards[row]}",
            )
        waiting = busy[slots]
        if waiting.any():
            raise RowError(
                int(np.flatnonzero(waiting)[0]),
                ErrorCode.BAD_LANE,
                "expected no request while the lane's last one waits for its reply",
            )
        closed = ~opened[slots]
        idle = closed & ((flags & (Flag.FIRST | Flag.CONTINUED)) == 0)
        ended = closed & ((flags & Flag.ENDED) != 0)
        row = int(np.flatnonzero(idle | ended)[0])
        raise RowError(
            row,
            ErrorCode.BAD_FLAGS,
            "the lane has no open episode: expected the flag FIRST (or CONTINUED after a restart) "
            f"and no ending, got flags {int(flags[row])}",
        )

    def _check_mask(self, mask: np.ndarray) -> None:
        allowed = np.add.reduceat(mask != 0, self._segments, axis=1) > 0
        if not allowed.all():
            row = int(np.flatnonzero(~allowed.all(axis=1))[0])
            raise RowError(
                row,
                ErrorCode.BAD_MASK,
                "expected at least one allowed option per choice, got none",
            )

    def _check_finals(self, columns: Columns, truncated: np.ndarray) -> None:
        given = np.zeros(len(truncated), bool)
        if columns.finals is not None:
            rows, leaves_ = columns.finals
            given[rows] = True
            stray = given & ((columns.flags & Flag.ENDED) == 0)
            if stray.any():
                raise RowError(
                    int(np.flatnonzero(stray)[0]),
                    ErrorCode.BAD_OBSERVATION,
                    "expected extras.final_obs of episodes that end, got one of a row without an ending",
                )
            for column, (path, leaf) in zip(leaves_, self.observation, strict=True):
                check_leaf(column, leaf, f"final_obs{path}", ErrorCode.BAD_OBSERVATION, rows)
        missing = truncated & ~given
        if missing.any():
            raise RowError(
                int(np.flatnonzero(missing)[0]),
                ErrorCode.BAD_OBSERVATION,
                "truncated and begun again: expected its true final observation in extras.final_obs, got none",
            )


FLAGGED, WRONG = 1, 2
_OPENING = int(Flag.FIRST | Flag.CONTINUED)
_ENDED = int(Flag.ENDED)


@compiled("i8(i8[::1], u1[::1], f4[::1], b1[::1], b1[::1], b1[::1], f8)")
def _judge(
    slots: np.ndarray,
    flags: np.ndarray,
    rewards: np.ndarray,
    opened: np.ndarray,
    busy: np.ndarray,
    legal: np.ndarray,
    limit: float,
) -> int:
    """FLAGGED if any flag is set, plus WRONG if any row is wrong; `_name_wrong` says which."""
    verdict = 0
    for i in range(len(slots)):
        slot, flag = slots[i], flags[i]
        if flag:
            verdict |= FLAGGED
        fits = opened[slot] or (flag & _OPENING and not flag & _ENDED)
        if not (legal[flag] and abs(rewards[i]) <= limit and fits) or busy[slot]:
            verdict |= WRONG
    return verdict


def _all_finite(column: np.ndarray) -> bool:
    """Known to be good at a glance; `check_leaf` has the last word on everything else."""
    kind = column.dtype
    if kind == np.float32:
        return _within_f4(column.reshape(-1), NUMBER_LIMIT)
    if kind == np.float64:
        return _within_f8(column.reshape(-1), NUMBER_LIMIT)
    return False


@compiled("b1(f4[::1], f8)")
def _within_f4(values: np.ndarray, limit: float) -> bool:
    good = True
    for i in range(len(values)):
        good &= abs(values[i]) <= np.float32(limit)
    return good


@compiled("b1(f8[::1], f8)")
def _within_f8(values: np.ndarray, limit: float) -> bool:
    good = True
    for i in range(len(values)):
        good &= abs(values[i]) <= limit
    return good


def check_leaf(
    column: np.ndarray,
    leaf: Leaf,
    path: str,
    code: str,
    rows: np.ndarray | None = None,
    limit: float = NUMBER_LIMIT,
) -> None:
    """Numbers of a Box are finite and not absurd, discrete ones in range. Raises RowError."""
    if isinstance(leaf, Box):
        kind, size = leaf.dtype.kind, leaf.dtype.itemsize
        if kind == "f" and size == 2:
            good = np.isfinite(column)
        elif kind == "f" or size == 8:
            good = (column >= -limit) & (column <= limit)
        else:
            return  # cannot be beyond the limit
        expected = f"finite numbers within +-{limit:.0e}"
    else:
        start = getattr(leaf, "start", 0)
        nvec = choices(leaf).reshape(leaf.shape)
        good = (column >= start) & (column < start + nvec)
        expected = "a choice within the space"
    if not good.all():
        raise _wrong_value(column, good, path, code, rows, expected)


def _wrong_value(
    column: np.ndarray,
    good: np.ndarray,
    path: str,
    code: str,
    rows: np.ndarray | None,
    expected: str,
) -> RowError:
    """Names the first value that is not good; both arrays `[n, *leaf.shape]`."""
    wrong = ~good.reshape(len(column), -1).all(axis=1)
    row = int(np.flatnonzero(wrong)[0])
    value = column[row].reshape(-1)[~good[row].reshape(-1)][0]
    return RowError(
        row if rows is None else int(rows[row]), code, f"{path}: expected {expected}, got {value}"
    )


def _check_metrics(part: Report) -> None:
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


def _fail(part: Report, code: str, what: str, expected: str, came: Any) -> ProtocolError:
    value = repr(came)[:40] if isinstance(came, (int, float, type(None))) else type(came).__name__
    return ProtocolError(code, f"group '{part.group}', {what}: expected {expected}, got {value}.")


def _length(part: Report, what: str, size: int, came: Any, code: str) -> ProtocolError:
    value = f"{len(came)} bytes" if type(came) is bytes else type(came).__name__
    return ProtocolError(
        code,
        f"group '{part.group}', {what}: expected {size} bytes for {part.rows} rows, got {value}.",
    )
