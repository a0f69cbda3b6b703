"""All lanes of a simulator, the steps under way for them, and what is done without an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sim_clients.columns import Columns, Group, Lanes, reintroduced
from sim_clients.errors import ClientError, InvalidStep
from sim_clients.lanes import GroupLanes
from sim_clients.layout import NIL, STEP, AnswerLayout, array_head, pack
from sim_clients.protocol import GroupSpec, unpack

Fallback = Callable[[str, Any, int], Any]
"""(group name, observations, number of rows) -> batched actions, where none came in time."""


class StepRequest:
    """One STEP under way: its columns by group, and in the end its actions or its error.

    Attributes:
        frame: as it was sent; empty before.
        actions: by group, in the nesting of their spaces; None where a group said nothing.
        done: answered or refused.
        late: its deadline passed.
        abandoned: and the simulator went on without its actions.
    """

    __slots__ = (
        "abandoned", "actions", "book", "columns", "done", "error", "frame", "late", "open_before",
        "start",
    )  # fmt: skip

    def __init__(
        self,
        book: LaneBook,
        columns: list[Columns | None],
        open_before: list[np.ndarray | None] | None,
    ):
        self.book = book
        self.columns = columns
        self.open_before = open_before
        self.frame = b""
        self.start = 0  # of the groups, behind the number
        self.actions: list[Any] = []
        self.error: ClientError | None = None
        self.done = False
        self.late = False
        self.abandoned = False

    def encode(self, seq: int) -> bytes:
        """The frame under this number. The first call takes over the simulator's arrays."""
        head = STEP + pack(seq)
        if self.frame:
            self.frame = head + self.frame[self.start :]
        else:
            pieces = [head, self.book.groups_head]
            for part in self.columns:
                if part is None:
                    pieces.append(NIL)
                else:
                    pieces += part.pieces
                    part.pieces = []  # theirs again
            self.frame = b"".join(pieces)
        self.start = len(head)
        return self.frame

    def reintroduce(self) -> None:
        """Rewrites the rows for a server that saw nothing of what came before."""
        _, seq, groups = unpack(self.frame)
        head = STEP + pack(seq)
        self.frame = head + pack([None if g is None else reintroduced(g) for g in groups])
        self.start = len(head)

    def read(self, frame: bytes, at: int) -> bool:
        """Takes the actions from an ACTIONS frame whose groups begin at `at`, if they are laid
        out as was to be expected. False: nothing was taken, and the frame wants a proper look."""
        columns = self.book.answer_layout(self.columns).cut(frame, at)
        if columns is None:
            return False
        self.book.answered(self, columns)
        return True


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
        self.groups_head = array_head(len(self.lanes))
        self._answer_layout: AnswerLayout | None = None  # of the newest answer
        self._all_bare = all(lanes.bare_action for lanes in self.lanes)
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
        before = None
        if any(part is not None and part.open_after is not None for part in columns):
            before = [
                None if part is None or part.open_after is None else lanes.open.copy()
                for part, lanes in zip(columns, self.lanes, strict=True)
            ]
        return StepRequest(self, columns, before)

    def commit(self, columns: list[Columns | None]) -> None:
        """The lanes are as the columns say."""
        for part, lanes in zip(columns, self.lanes, strict=True):
            if part is not None:
                lanes.commit(part)

    # -- what goes wrong ------------------------------------------------------------------------

    def take_back(self, request: StepRequest) -> None:
        """The server refused it."""
        for i, (lanes, part) in enumerate(zip(self.lanes, request.columns, strict=True)):
            if part is not None:
                before = None if request.open_before is None else request.open_before[i]
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
                actions[lanes.name] = lanes.nested(
                    [column[rows].copy() for column in self._last[i]]
                )
            else:
                assert callable(self._on_timeout)
                seen = obs if self.single else obs[lanes.name].obs
                actions[lanes.name] = self._on_timeout(lanes.name, seen, part.n)
        return actions[self.lanes[0].name] if self.single else actions

    # -- wire -> simulator -----------------------------------------------------------------------

    def played_by(self, policies: Iterable[tuple[str, int]]) -> None:
        """The server said which policy plays which group, and its version."""
        for lanes, (policy, version) in zip(self.lanes, policies, strict=True):
            lanes.policy, lanes.version = policy, version
        self._answer_layout = None

    def answer_layout(self, columns: list[Columns | None]) -> AnswerLayout:
        """How the answer to these columns will look."""
        layouts = [None if part is None else part.layout for part in columns]
        known = self._answer_layout
        if known is None or known.layouts != layouts:
            known = AnswerLayout(layouts, [lanes.version for lanes in self.lanes])
            self._answer_layout = known
        return known

    def answer(self, request: StepRequest, groups: list[Any]) -> None:
        """Takes the ACTIONS of a request, however they are laid out.

        Raises:
            ValueError, TypeError: they do not fit the request.
        """
        found: list[np.ndarray] = []
        for lanes, part, group in zip(self.lanes, request.columns, groups, strict=True):
            if part is not None:
                version, columns = group
                found += lanes.read_actions(columns, part.layout)
                lanes.version = int(version)
        self._answer_layout = None
        self.answered(request, found)

    def answered(self, request: StepRequest, found: list[np.ndarray]) -> None:
        """A request has its actions: a column for each leaf of each group in it."""
        request.done = True
        if self._last is not None and not request.abandoned:
            self._remember(request, found, self._last)
        if self._all_bare and len(found) == len(self.lanes):
            request.actions = found
            return
        columns = iter(found)
        request.actions = [
            None if part is None else lanes.nested([next(columns) for _ in part.layout.actions])
            for lanes, part in zip(self.lanes, request.columns, strict=True)
        ]

    def nested(self, request: StepRequest) -> Any:
        """A request's actions as the simulator wants them."""
        if self.single:
            return request.actions[0]
        return {
            lanes.name: actions
            for lanes, actions in zip(self.lanes, request.actions, strict=True)
            if actions is not None
        }

    def _remember(
        self, request: StepRequest, found: list[np.ndarray], last: list[list[np.ndarray]]
    ) -> None:
        columns = iter(found)
        for mine, part in zip(last, request.columns, strict=True):
            if part is not None:
                for column in mine:
                    column[slice(None) if part.ids is None else part.ids] = next(columns)
