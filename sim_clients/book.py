"""All lanes of a simulator, the steps under way for them, and what is done without an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgpack
import numpy as np

from sim_clients.columns import Columns, Group, Lanes
from sim_clients.errors import ClientError, InvalidStep
from sim_clients.lanes import GroupLanes
from sim_clients.protocol import GroupSpec, MessageType, spaces

_STEP = int(MessageType.STEP)
Fallback = Callable[[str, Any, int], Any]
"""(group name, observations, number of rows) -> batched actions, where none came in time."""


class StepRequest:
    """One STEP under way: its columns by group, and in the end its actions or its error.

    Attributes:
        done: answered or refused.
        late: its deadline passed.
        abandoned: and the simulator went on without its actions.
    """

    __slots__ = ("abandoned", "actions", "columns", "done", "error", "late", "open_before", "pack")

    def __init__(
        self,
        pack: Callable[[Any], bytes],
        columns: list[Columns | None],
        open_before: list[np.ndarray | None],
    ):
        self.pack = pack
        self.columns = columns
        self.open_before = open_before
        self.actions: list[list[np.ndarray] | None] = []
        self.error: ClientError | None = None
        self.done = False
        self.late = False
        self.abandoned = False

    def encode(self, seq: int) -> bytes:
        return self.pack([_STEP, seq, [c if c is None else c.to_wire() for c in self.columns]])

    def reintroduce(self) -> None:
        for columns in self.columns:
            if columns is not None:
                columns.reintroduce()


class LaneBook:
    """The lanes of every group, in the order of HELLO.

    Args:
        groups: one `Group` (values go in and out bare), or {name: Group} (in and out as dicts).
        name: of a single group.
        on_timeout: "raise", "repeat" or a `Fallback`.
    """

    def __init__(self, groups: Mapping[str, Group] | Group, name: str, on_timeout: str | Fallback):
        if not callable(on_timeout) and on_timeout not in ("raise", "repeat"):
            raise ValueError(
                f"on_timeout: expected 'raise', 'repeat' or a function, got {on_timeout!r}."
            )
        self.single = isinstance(groups, Group)
        named = {name: groups} if isinstance(groups, Group) else dict(groups)
        if not named:
            raise ValueError("groups: expected at least one group, got none.")
        self.lanes = [GroupLanes(key, group) for key, group in named.items()]
        self._index = {lanes.name: i for i, lanes in enumerate(self.lanes)}
        self._on_timeout = on_timeout
        self._pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack
        self._last: list[list[np.ndarray]] | None = None
        if on_timeout == "repeat":
            self._last = [lanes.zero_actions() for lanes in self.lanes]

    @property
    def specs(self) -> tuple[GroupSpec, ...]:
        return tuple(lanes.spec for lanes in self.lanes)

    # -- simulator -> wire -------------------------------------------------------------------

    def prepare(self, obs: Any, *rest: Any) -> list[Columns | None]:
        """Columns by group, checked; changes no state. Arguments as of `Client.step`.

        Raises:
            InvalidStep: naming group and argument.
        """
        if self.single:
            return [self.lanes[0].prepare(obs, *rest)]
        if any(part is not None for part in rest):
            raise InvalidStep("expected only {group: Lanes}, as the groups have names.")
        if not isinstance(obs, Mapping) or not obs:
            raise InvalidStep(f"expected {{group: Lanes}}, got {type(obs).__name__}.")
        columns: list[Columns | None] = [None] * len(self.lanes)
        for name, part in obs.items():
            index = self._index.get(name)
            if index is None or not isinstance(part, Lanes):
                raise InvalidStep(
                    f"expected Lanes of groups among {list(self._index)}, got "
                    f"{type(part).__name__} of '{name}'."
                )
            columns[index] = self.lanes[index].prepare(
                part.obs, part.rewards, part.terminated, part.truncated, part.final_obs,
                part.first, part.leaving, part.lanes, part.mask, part.executed, part.metrics,
            )  # fmt: skip
        return columns

    def check_disjoint(
        self, columns: list[Columns | None], under_way: Iterable[StepRequest]
    ) -> None:
        """Raises InvalidStep where a lane still waits for its action."""
        for request in under_way:
            for lanes, new, old in zip(self.lanes, columns, request.columns, strict=True):
                if new is None or old is None:
                    continue
                if new.ids is None or old.ids is None or np.isin(new.ids, old.ids).any():
                    raise InvalidStep(
                        f"group '{lanes.name}': expected lanes that wait for no action, got some "
                        "of a step under way: call receive_actions() first."
                    )

    def request(self, columns: list[Columns | None]) -> StepRequest:
        """The STEP of these columns; `commit` once it is on its way."""
        before = [
            None if part is None or part.open_after is None else lanes.open.copy()
            for part, lanes in zip(columns, self.lanes, strict=True)
        ]
        return StepRequest(self._pack, columns, before)

    def commit(self, columns: list[Columns | None]) -> None:
        """The lanes are as the columns say."""
        for part, lanes in zip(columns, self.lanes, strict=True):
            if part is not None and part.open_after is not None:
                lanes.commit(part)

    # -- what goes wrong ------------------------------------------------------------------------

    def take_back(self, request: StepRequest) -> None:
        """The server refused it."""
        for lanes, part, before in zip(
            self.lanes, request.columns, request.open_before, strict=True
        ):
            if part is not None:
                lanes.take_back(part, lanes.open if before is None else before)

    def abandon(self, request: StepRequest) -> None:
        """The simulator goes on without its actions."""
        request.abandoned = True
        for lanes, part in zip(self.lanes, request.columns, strict=True):
            if part is not None:
                lanes.lose(part, said=True)

    def lose(self, columns: list[Columns | None]) -> None:
        """The server will never see them."""
        for lanes, part in zip(self.lanes, columns, strict=True):
            if part is not None:
                lanes.lose(part, said=False)

    def introduce_again(self, requests: Iterable[StepRequest]) -> None:
        """The server is new; these STEPs have been rewritten for it already."""
        waiting = [r for r in requests if not r.done and not r.abandoned]
        for i, lanes in enumerate(self.lanes):
            lanes.introduce_again([c for r in waiting if (c := r.columns[i]) is not None])

    def substitute(self, obs: Any, columns: list[Columns | None]) -> Any:
        """Actions without the server: each lane's last ones, or the fallback's."""
        actions: dict[str, Any] = {}
        for i, (lanes, part) in enumerate(zip(self.lanes, columns, strict=True)):
            if part is None:
                continue
            if self._last is not None:
                rows = slice(None) if part.ids is None else part.ids
                actions[lanes.name] = spaces.unflatten(
                    lanes.action_space, [column[rows].copy() for column in self._last[i]]
                )
            else:
                assert callable(self._on_timeout)
                seen = obs if self.single else obs[lanes.name].obs
                actions[lanes.name] = self._on_timeout(lanes.name, seen, part.n)
        return actions[self.lanes[0].name] if self.single else actions

    # -- wire -> simulator -----------------------------------------------------------------------

    def answer(self, request: StepRequest, groups: list[Any]) -> list[tuple[str, int]]:
        """Takes the ACTIONS of a request. -> (group, policy version) of each group in it.

        Raises:
            ValueError, TypeError: they do not fit the request.
        """
        versions = []
        for lanes, part, group in zip(self.lanes, request.columns, groups, strict=True):
            if part is None:
                request.actions.append(None)
                continue
            number, columns = group
            request.actions.append(lanes.read_actions(columns, part.n))
            versions.append((lanes.name, int(number)))
        request.done = True
        if self._last is not None and not request.abandoned:
            self._remember(request, self._last)
        return versions

    def nested(self, request: StepRequest) -> Any:
        """A request's actions as the simulator wants them."""
        if self.single:
            actions = request.actions[0]
            assert actions is not None
            return spaces.unflatten(self.lanes[0].action_space, actions)
        return {
            lanes.name: spaces.unflatten(lanes.action_space, part)
            for lanes, part in zip(self.lanes, request.actions, strict=True)
            if part is not None
        }

    def _remember(self, request: StepRequest, last: list[list[np.ndarray]]) -> None:
        for mine, part, actions in zip(last, request.columns, request.actions, strict=True):
            if part is not None and actions is not None:
                for column, new in zip(mine, actions, strict=True):
                    column[slice(None) if part.ids is None else part.ids] = new
