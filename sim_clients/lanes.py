"""Lanes: who has an episode, what the server knows of it, and the columns that say so.

A lane is *open* while its episode runs. It has a *gap* where the server did not see everything
that happened in that episode (a step was lost, the server is a new one): its next row then says
CONTINUED, or FIRST where another episode has begun meanwhile, and never an ending.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim_clients.columns import Columns, Group, Rows
from sim_clients.errors import InvalidStep
from sim_clients.layout import GROUP, NIL, Layout, bin_head, pack
from sim_clients.protocol import Flag, GroupSpec, spaces
from sim_clients.protocol.spaces import Leaf
from sim_clients.space_conversion import as_space

_U32 = np.dtype("<u4")
_F32 = np.dtype("<f4")
_DIED = np.uint8(Flag.TERMINATED | Flag.FIRST)
_CUT = np.uint8(Flag.TRUNCATED | Flag.FIRST)


class GroupLanes:
    """The lanes of one group: checks what the simulator says of them and writes it down.

    Attributes:
        open: bool[lanes], an episode runs.
        gap: bool[lanes], the server missed something of it.
        policy: that plays them; None before the first WELCOME.
        version: of the policy, when it chose the newest actions.
    """

    def __init__(self, name: str, group: Group):
        if type(group.lanes) is not int or group.lanes < 1:
            raise ValueError(f"group '{name}': expected lanes of at least 1, got {group.lanes!r}.")
        self.name = name
        self.count = group.lanes
        self.mask = group.mask
        self.observation_space = as_space(group.observation_space)
        self.action_space = as_space(group.action_space)
        self.mask_width = spaces.mask_width(self.action_space)
        self.open = np.zeros(group.lanes, bool)
        self.gap = np.zeros(group.lanes, bool)
        self._all_open = False  # every lane is open and none has a gap: nothing to say in flags
        self._leaves = [leaf for _, leaf in spaces.leaves(self.observation_space)]
        self._action_leaves = [leaf for _, leaf in spaces.leaves(self.action_space)]
        bare = self.observation_space
        self._bare = bare if isinstance(bare, Leaf) else None
        self.bare_action = isinstance(self.action_space, Leaf)
        self._layout = Layout(group.lanes, self._leaves, self._action_leaves)
        self.policy: str | None = None
        self.version = 0

    @property
    def spec(self) -> GroupSpec:
        """As HELLO declares it."""
        return GroupSpec(
            self.name, self.observation_space, self.action_space, self.count, self.mask
        )

    # -- simulator -> wire -------------------------------------------------------------------

    def prepare(
        self,
        obs: Any,
        rewards: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        final_obs: Any = None,
        first: Any = None,
        leaving: Any = None,
        lanes: Any = None,
        mask: Any = None,
        executed: Any = None,
        metrics: Any = None,
    ) -> Columns:
        """The columns of one step; arguments as in `Lanes`. Changes no state: see `commit`.

        Raises:
            InvalidStep: naming the group and the argument.
        """
        ids = None if lanes is None else self._lane_ids(lanes)
        n = self.count if ids is None else len(ids)
        layout = self._layout
        if layout.n != n:
            layout = self._layout = Layout(n, self._leaves, self._action_leaves)
        observations = self._observations(obs, n)
        ended = None if terminated is None else self._flags_given(terminated, "terminated", n)
        cut = None if truncated is None else self._flags_given(truncated, "truncated", n)
        flags = plain = hushed = open_after = None
        if self._all_open and first is None and leaving is None:
            # The common cases, kept apart for speed: all just go on, or some end and begin again.
            # Bytes, because any() of a small array costs ten times as much.
            if ended is not None and ended.tobytes() == layout.nobody:
                ended = None
            if cut is not None and cut.tobytes() == layout.nobody:
                cut = None
            if ended is not None or cut is not None:
                flags = self._auto_reset(ids, ended, cut)
        else:
            flags, plain, hushed, open_after = self._flags(ids, n, ended, cut, first, leaving)
        if rewards is not None:
            column = np.ascontiguousarray(rewards, _F32)
            if column.shape != (n,):
                raise self._wrong("rewards", f"shape [{n}]", list(column.shape))
        elif plain is None or plain.any():
            raise self._wrong("rewards", "a reward for each lane's previous action", None)
        else:
            column = np.zeros(n, _F32)
        extras = None
        if self.mask or mask is not None or executed is not None or metrics or flags is not None:
            extras = self._extras(n, flags, plain, hushed, final_obs, mask, executed, metrics)
        pieces: list[Any]
        if ids is None and flags is None:
            pieces = [layout.quiet, column]
        else:
            said = NIL if ids is None else bin_head(4 * n) + ids.tobytes()
            flag_bytes = layout.nobody if flags is None else flags
            pieces = [GROUP, said, layout.flags, flag_bytes, layout.rewards, column]
        for head, leaf in zip(layout.observations, observations, strict=True):
            pieces += (head, leaf)
        pieces.append(NIL if extras is None else pack(extras))
        return Columns(ids, layout, pieces, open_after)

    def commit(self, columns: Columns) -> None:
        """The step is on its way: the lanes are as it says."""
        if columns.open_after is None:
            return
        where = slice(None) if columns.ids is None else columns.ids
        self.open[where] = columns.open_after
        self.gap[where] = False
        self._refresh()

    def lose(self, columns: Columns, *, said: bool) -> None:
        """The server will not know what came of these rows.

        Args:
            said: it did get the rows, or may have; only what followed them is lost.
        """
        where = slice(None) if columns.ids is None else columns.ids
        if not said and columns.open_after is not None:
            self.open[where] = columns.open_after
        self.gap[where] = True
        self._refresh()

    def take_back(self, columns: Columns, open_before: np.ndarray) -> None:
        """The server refused these rows: their episodes are where they were, with a gap."""
        where = slice(None) if columns.ids is None else columns.ids
        self.open[where] = open_before[where]
        self.gap[where] = True
        self._refresh()

    def introduce_again(self, under_way: Sequence[Columns]) -> None:
        """The server is new to all lanes; those under way have been rewritten already."""
        gap = self.open.copy()
        for columns in under_way:
            gap[slice(None) if columns.ids is None else columns.ids] = False
        self.gap |= gap
        self._refresh()

    def _refresh(self) -> None:
        self._all_open = bool(self.open.all()) and not self.gap.any()

    # -- wire -> simulator ---------------------------------------------------------------------

    def read_actions(self, columns: Any, layout: Layout) -> list[np.ndarray]:
        """One writable array per action leaf, `[n, *shape]`.

        Raises:
            ValueError: the server sent something else.
        """
        if type(columns) is not list or len(columns) != len(layout.actions):
            raise ValueError(f"group '{self.name}': expected {len(layout.actions)} columns")
        arrays = []
        for column, (_, shape, dtype, size) in zip(columns, layout.actions, strict=True):
            if type(column) is not bytes or len(column) != size:
                raise ValueError(f"group '{self.name}': expected a column of {size} bytes")
            arrays.append(np.frombuffer(column, dtype).reshape(shape).copy())
        return arrays

    def nested(self, arrays: list[np.ndarray]) -> Any:
        """Actions in the nesting of their space."""
        return arrays[0] if self.bare_action else spaces.unflatten(self.action_space, arrays)

    def zero_actions(self) -> list[np.ndarray]:
        """Zeros for all lanes, in the layout of `read_actions`."""
        return [np.zeros((self.count, *leaf.shape), leaf.dtype) for leaf in self._action_leaves]

    # -- pieces ----------------------------------------------------------------------------------

    def _wrong(self, argument: str, expected: str, came: Any) -> InvalidStep:
        return InvalidStep(f"group '{self.name}', {argument}: expected {expected}, got {came}.")

    def _lane_ids(self, lanes: Any) -> np.ndarray:
        ids = np.asarray(lanes)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise self._wrong("lanes", "a list of lane numbers", lanes)
        if ids.min() < 0 or ids.max() >= self.count:
            raise self._wrong("lanes", f"numbers in 0..{self.count - 1}", ids.tolist())
        rising = len(ids) == 1 or bool((ids[1:] > ids[:-1]).all())
        if not rising and len(np.unique(ids)) != len(ids):
            raise self._wrong("lanes", "each lane once", ids.tolist())
        return ids.astype(_U32)  # always a copy: the caller may reuse its array

    def _observations(self, obs: Any, n: int) -> list[np.ndarray]:
        leaf = self._bare
        if leaf is not None:
            column = np.ascontiguousarray(obs, leaf.dtype)
            if column.shape != (n, *leaf.shape):
                raise self._wrong("obs", f"shape {[n, *leaf.shape]}", list(column.shape))
            return [column]
        return self._columns(self.observation_space, obs, n, "obs")

    def _columns(self, space: spaces.Space, value: Any, n: int, argument: str) -> list[np.ndarray]:
        try:
            columns = spaces.flatten(space, value)
        except (ValueError, TypeError) as error:
            raise InvalidStep(f"group '{self.name}', {argument}: {error}.") from None
        for column in columns:
            if len(column) != n:
                raise self._wrong(argument, f"{n} rows", len(column))
        return columns

    def _flags_given(self, value: Any, argument: str, n: int) -> np.ndarray:
        array = np.asarray(value, bool)
        if array.shape != (n,):
            raise self._wrong(argument, f"shape [{n}]", list(array.shape))
        return array

    def _auto_reset(
        self, ids: np.ndarray | None, terminated: np.ndarray | None, truncated: np.ndarray | None
    ) -> np.ndarray:
        """Flags where every lane has an episode and stays, uint8[n]; at least one is given."""
        if truncated is None:
            assert terminated is not None
            return terminated * _DIED
        if terminated is None:
            return truncated * _CUT
        self._refuse_rows("truncated", truncated & terminated, ids, "one ending, not both")
        return terminated * _DIED + truncated * _CUT

    def _flags(
        self,
        ids: np.ndarray | None,
        n: int,
        terminated: np.ndarray | None,
        truncated: np.ndarray | None,
        first: Any,
        leaving: Any,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """-> flags uint8[n]; which rows speak of a previous action; whose ending is not said
        (it is behind a gap); which lanes are open after.
        """
        where = slice(None) if ids is None else ids
        was_open, gap = self.open[where], self.gap[where]
        none = np.zeros(n, bool)
        terminated = none if terminated is None else terminated
        truncated = none if truncated is None else truncated
        leaves = none if leaving is None else self._flags_given(leaving, "leaving", n)
        ended = terminated | truncated
        self._refuse_rows("truncated", terminated & truncated, ids, "one ending, not both")
        self._refuse_rows("terminated", ended & ~was_open, ids, "a running episode to end")
        if first is None:
            begins = ~was_open | (ended & ~leaves)
        else:
            begins = self._flags_given(first, "first", n)
        self._refuse_rows("first", ~begins & ~was_open, ids, "first where no episode runs")
        self._refuse_rows("first", ended & leaves & begins, ids, "first or leaving, not both")
        self._refuse_rows("first", ended & ~leaves & ~begins, ids, "first or leaving at an ending")
        known = ~gap  # endings of episodes the server only partly saw are not said
        flags = (
            begins * Flag.FIRST
            + (terminated & known) * Flag.TERMINATED
            + (truncated & known) * Flag.TRUNCATED
            + leaves * Flag.LEAVING
            + (gap & ~begins) * Flag.CONTINUED
        ).astype(np.uint8)
        return flags, known & (ended | ~begins), gap & ended, ~leaves

    def _refuse_rows(
        self, argument: str, wrong: np.ndarray, ids: np.ndarray | None, expected: str
    ) -> None:
        if wrong.any():
            rows = np.flatnonzero(wrong)
            lanes = (rows if ids is None else ids[rows])[:8].tolist()
            raise self._wrong(argument, expected, f"the contrary in lanes {lanes}")

    def _extras(
        self,
        n: int,
        flags: np.ndarray | None,
        plain: np.ndarray | None,
        hushed: np.ndarray | None,
        final_obs: Any,
        mask: Any,
        executed: Any,
        metrics: Any,
    ) -> dict[str, Any] | None:
        extras: dict[str, Any] = {}
        if self.mask:
            column = None if mask is None else np.asarray(mask)
            if column is None or column.shape != (n, self.mask_width):
                came = None if column is None else list(column.shape)
                raise self._wrong("mask", f"shape {[n, self.mask_width]} in every step", came)
            extras["mask"] = np.ascontiguousarray(column != 0).tobytes()
        elif mask is not None:
            raise self._wrong("mask", "none, for the group was declared without mask=True", "one")
        if flags is not None:
            cut = (flags & (Flag.FIRST | Flag.TRUNCATED)) == Flag.FIRST | Flag.TRUNCATED
            if cut.any():
                if final_obs is None:
                    raise self._wrong(
                        "final_obs", "the true last observation of truncated rows", None
                    )
                extras["final_obs"] = self._some(
                    "final_obs", self.observation_space, final_obs, cut, n, exact=True
                )
        if executed is not None:
            # Rows that begin, or follow a gap, have no previous action to speak of.
            speaks = np.ones(n, bool) if plain is None else plain
            part = self._some("executed", self.action_space, executed, speaks, n, exact=False)
            if part is not None:
                extras["action"] = part
        if metrics:
            said = self._metrics(metrics, n)
            if hushed is not None:
                said = [entry for entry in said if not hushed[entry[0]]]
            if said:
                extras["metrics"] = said
        return extras or None

    def _some(
        self,
        argument: str,
        space: spaces.Space,
        value: Any,
        wanted: np.ndarray,
        n: int,
        *,
        exact: bool,
    ) -> list[Any] | None:
        """[row numbers, columns] of the wanted rows. `exact`: all of them must be there."""
        if isinstance(value, Rows):
            rows = np.asarray(value.rows)
            if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(np.unique(rows)) != len(rows):
                raise self._wrong(argument, "row numbers, each once", value.rows)
            if len(rows) and not (rows.min() >= 0 and rows.max() < n):
                raise self._wrong(argument, f"rows in 0..{n - 1}", rows.tolist())
            if exact and not np.isin(np.flatnonzero(wanted), rows).all():
                raise self._wrong(
                    argument, f"rows {np.flatnonzero(wanted).tolist()}", rows.tolist()
                )
            keep = np.flatnonzero(wanted[rows]) if len(rows) else np.zeros(0, np.int64)
            rows, length = rows[keep], len(rows)
        else:
            rows = keep = np.flatnonzero(wanted)
            length = n
        columns = self._columns(
            space, value.values if isinstance(value, Rows) else value, length, argument
        )
        if not len(rows):
            return None
        picked = [column[keep].tobytes() for column in columns]
        return [rows.astype(_U32).tobytes(), picked]

    def _metrics(self, metrics: Any, n: int) -> list[list[Any]]:
        if not isinstance(metrics, Mapping):
            raise self._wrong("metrics", "{row: {name: number}}", type(metrics).__name__)
        said = []
        for row, values in metrics.items():
            if not 0 <= int(row) < n or not isinstance(values, Mapping):
                raise self._wrong("metrics", f"rows in 0..{n - 1} with {{name: number}}", row)
            numbers = {}
            for name, value in values.items():
                if not isinstance(value, (int, float, np.number, np.bool_)):
                    raise self._wrong(f"metrics '{name}'", "a number", type(value).__name__)
                numbers[str(name)] = float(value)
                if not math.isfinite(numbers[str(name)]):
                    raise self._wrong(f"metrics '{name}'", "a finite number", value)
            said.append([int(row), numbers])
        return said
