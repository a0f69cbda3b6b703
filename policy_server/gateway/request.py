"""One STEP on its way through the gateway, from frame to reply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.gateway.columns import Part, Report
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.session import WINDOW, Session
from policy_server.gateway.work import Work
from sim_clients.protocol import ErrorCode, GroupSpec, ProtocolError


@dataclass(slots=True, eq=False)
class Request:
    """One STEP on its way.

    Attributes:
        parts: (index of the group, its desk, its rows).
        spans: per part, first row in its desk's columns of this tick.
        work: per part, once it was held: its settled rows.
    """

    session: Session
    seq: int
    frame: bytes
    parts: list[tuple[int, PolicyDesk, Part]]
    spans: list[int] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    entry: list[Any] = field(default_factory=list)  # of its session's replies
    told: float = 0.0  # when it will be told (again) that it waits

    @property
    def groups(self) -> int:
        """That its session declared, and its reply answers."""
        return len(self.session.groups)

    @property
    def steps(self) -> int:
        """Environments that step, where every part reports on all of them."""
        return max([part.rows for _, _, part in self.parts], default=0)

    @property
    def uneven(self) -> bool:
        """Its groups may report on different environments."""
        return len(self.parts) > 1 and any(part.lanes for _, _, part in self.parts)

    @property
    def starting(self) -> bool:
        """A desk it speaks to is not ready for steps yet."""
        return any(desk.starting for _, desk, _ in self.parts)


def read_request(session: Session, seq: int, groups: Any, frame: bytes) -> Request:
    """The groups of a STEP, all lengths checked; contents are checked per desk, in columns.

    Raises:
        ProtocolError: naming the group.
    """
    if type(groups) is not list or len(groups) != len(session.groups):
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"expected STEP with {len(session.groups)} groups, in the order of HELLO.",
        )
    if session.unanswered >= WINDOW:
        raise ProtocolError(
            ErrorCode.LIMIT_EXCEEDED,
            f"expected at most {WINDOW} unanswered STEPs, got one more: wait for a reply first.",
        )
    parts: list[tuple[int, PolicyDesk, Part]] = []
    for i, (group, seat) in enumerate(zip(groups, session.groups, strict=True)):
        if group is None:
            continue
        if type(group) is not list or len(group) != 5:
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"group '{seat.spec.name}': expected [lanes, flags, rewards, observations, extras].",
            )
        lanes, flags, rewards, observations, extras = group
        if lanes is None:
            rows, slots = seat.spec.lanes, seat.slots
        else:
            rows, slots = _lane_slots(lanes, seat.slots, seat.spec)
        part = Report(seat.spec.name, rows, lanes, slots, flags, rewards, observations, extras)
        seat.desk.reader.check_lengths(part, seat.leaf_bytes)
        if rows:
            parts.append((i, seat.desk, part))
    return Request(session, seq, frame, parts)


def _lane_slots(lanes: Any, slots: np.ndarray, spec: GroupSpec) -> tuple[int, np.ndarray]:
    if type(lanes) is not bytes or len(lanes) % 4:
        raise ProtocolError(
            ErrorCode.BAD_LANE, f"group '{spec.name}': expected lanes as uint32 bin or nil."
        )
    numbers = np.frombuffer(lanes, "<u4")
    if len(numbers) and numbers.max() >= spec.lanes:
        raise ProtocolError(
            ErrorCode.BAD_LANE,
            f"group '{spec.name}': expected lanes below {spec.lanes}, got {numbers.max()}.",
        )
    if len(numbers) > 1 and len(np.unique(numbers)) != len(numbers):
        raise ProtocolError(ErrorCode.BAD_LANE, f"group '{spec.name}': expected each lane once.")
    return len(numbers), slots[numbers]


def place(requests: list[Request]) -> None:
    """Says of each part where its rows stand in its desk's columns."""
    offsets: dict[PolicyDesk, int] = {}
    for request in requests:
        request.spans = spans = []
        for _, desk, part in request.parts:
            at = offsets.get(desk, 0)
            spans.append(at)
            offsets[desk] = at + part.rows


def environments(request: Request, works: dict[PolicyDesk, Work]) -> int:
    """How many step: lane i of all groups of a session is one environment."""
    acting_lanes: set[int] = set()
    for (_, desk, part), at in zip(request.parts, request.spans, strict=True):
        lanes = np.arange(part.rows) if part.lanes is None else np.frombuffer(part.lanes, "<u4")
        acting = works[desk].acting
        if acting is not None:
            lanes = lanes[acting[at : at + part.rows]]
        acting_lanes.update(lanes.tolist())
    return len(acting_lanes)
