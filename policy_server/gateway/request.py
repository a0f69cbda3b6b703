"""One STEP on its way through the gateway, from frame to reply."""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_server.gateway.columns import Part, Report
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.session import WINDOW, Session
from policy_server.gateway.work import Work
from sim_clients.protocol import ErrorCode, GroupSpec, ProtocolError


class Request:
    """One STEP on its way. Its session keeps it as long as it may be repeated.

    Attributes:
        parts: (index of the group, its desk, its rows).
        steps: environments that it steps; None where that must be counted (`environments`).
        reply: its answer, once there is one.
        spans: per part, first row in its desk's columns of this tick.
        work: per part, once it was held: its settled rows.
        told: when it will be told (again) that it waits.
    """

    __slots__ = ("frame", "parts", "reply", "seq", "session", "spans", "steps", "told", "work")

    def __init__(
        self,
        session: Session,
        seq: int,
        frame: bytes,
        parts: list[tuple[int, PolicyDesk, Part]],
        steps: int | None,
    ):
        self.session = session
        self.seq = seq
        self.frame = frame
        self.parts = parts
        self.steps = steps
        self.reply: bytes | None = None
        self.spans: list[int] = []
        self.work: list[Work] = []
        self.told = 0.0

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
        seat.desk.checks.check_lengths(part, seat.leaf_bytes)
        if rows:
            parts.append((i, seat.desk, part))
    # Lane i of all groups of a session is one environment.
    plain = len(parts) < 2 or not any(part.lanes for _, _, part in parts)
    steps = max([part.rows for _, _, part in parts], default=0)
    return Request(session, seq, frame, parts, steps if plain else None)


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
    if len(requests) == 1 and len(requests[0].parts) == 1:
        requests[0].spans = [0]
        return
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
