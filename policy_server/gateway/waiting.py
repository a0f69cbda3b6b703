"""Requests that may not act yet: while a learner works, or until a batch has room for them.

A waiting request is settled: what it reported is booked, its lanes are marked busy. It goes as a
whole, when every desk it speaks to grants it the unrolls it wants.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np

from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.request import Request, place
from policy_server.gateway.session import Frames, Session
from policy_server.gateway.work import Work, join_works, some_rows
from sim_clients.protocol import Event, EventKind, encode

FIRST_WAIT_S = 0.25
"""A request that waits this long is told so, and again every `WAIT_EVERY_S`."""
WAIT_EVERY_S = 1.0


Asked = list[tuple[PolicyDesk, np.ndarray]]
"""The lanes of a request that want an unroll, int64 `[n]`, and their desk; a desk may be there twice."""


class WaitingRoom:
    """Holds requests and lets them go.

    Attributes:
        requests: in order of arrival.
        changed: something happened that may let one of them go.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.changed = False

    def __len__(self) -> int:
        return len(self.requests)

    # -- coming in ---------------------------------------------------------------------------

    def admit(
        self,
        requests: list[Request],
        works: dict[PolicyDesk, Work],
        wanting: dict[PolicyDesk, np.ndarray],
        now: float,
        closed: bool,
    ) -> list[Request]:
        """Keeps those that may not act yet (all of them if `closed`); returns the others. The
        rows of those kept leave `works`.

        Args:
            wanting: per desk, which rows' lanes need a new unroll.
        """
        going: list[Request] = []
        staying: list[Request] = []
        refusing: list[PolicyDesk | None] = []  # per request that stays
        for request in requests:
            asked: Asked = []
            for (_, desk, part), at in zip(request.parts, request.spans, strict=True):
                if desk in wanting:
                    rows = slice(at, at + part.rows)
                    asked.append((desk, works[desk].slots[rows][wanting[desk][rows]]))
            early = closed or request.starting
            refused = None if early else _grant(asked, now)
            if early or refused:
                staying.append(request)
                refusing.append(refused)
            else:
                going.append(request)
        if not staying:
            return going
        for desk, work in works.items():
            desk.settle(work)
        for request, refused in zip(staying, refusing, strict=True):
            for (_, desk, part), at in zip(request.parts, request.spans, strict=True):
                rows = slice(at, at + part.rows)
                work = some_rows(works[desk], rows)
                request.work.append(work)
                desk.hold(work.slots, work.obs)
            self._cut(request, refused)
            request.told = now + FIRST_WAIT_S
        self.requests.extend(staying)
        keep = {desk: np.zeros(len(work.slots), bool) for desk, work in works.items()}
        for request in going:
            for (_, desk, part), at in zip(request.parts, request.spans, strict=True):
                keep[desk][at : at + part.rows] = True
        for desk in works:
            works[desk] = some_rows(works[desk], keep[desk])
        place(going)
        return going

    # -- going -----------------------------------------------------------------------------------

    def release(
        self, now: float, closed: bool, sessions: int
    ) -> tuple[list[Request], dict[PolicyDesk, Work]]:
        """Those that need not wait any more, and their rows. `sessions`: how many there are; when
        all of them wait, nobody is left to wait for."""
        hopeless = not self.changed and all(
            desk.collector.learning and not desk.collector.collecting
            for request in self.requests
            for _, desk, _ in request.parts
        )
        if closed or hopeless:
            self.changed |= closed  # look again when it is over
            return [], {}
        self.changed = False
        going = self._granted(now)
        if not going and len({id(request.session) for request in self.requests}) == sessions:
            desks = {desk for request in self.requests for _, desk, _ in request.parts}
            for desk in desks:
                desk.collector.lift(now)
            if any(desk.collector.ready(now) for desk in desks):
                self.changed = True  # the batch leaves first, in this tick
                return [], {}
            going = self._granted(now)
            for desk in desks:
                desk.collector.start_over()
        works: dict[PolicyDesk, list[Work]] = {}
        for request in going:
            request.session.last_heard = now  # it was we who were silent
            for (_, desk, _), work in zip(request.parts, request.work, strict=True):
                works.setdefault(desk, []).append(work)
            request.work = []  # the session keeps the request for a while yet
        place(going)
        return going, {desk: join_works(mine) for desk, mine in works.items()}

    def leave(self, session: Session) -> None:
        """The session is gone, and its requests with it."""
        self.requests = [request for request in self.requests if request.session is not session]

    def tell(self, now: float) -> Frames:
        """WAIT events for those that have not been told for a while."""
        told: Frames = []
        for request in self.requests:
            if now >= request.told:
                request.told = now + WAIT_EVERY_S
                event = encode(Event(EventKind.WAIT, request.seq, {}))
                told.append((request.session.peer, event))
        return told

    def _granted(self, now: float) -> list[Request]:
        """Takes out those that every desk lets go."""
        going: list[Request] = []
        staying: list[Request] = []
        for request in self.requests:
            if request.starting:
                staying.append(request)
                continue
            asked: Asked = []
            for (_, desk, _), work in zip(request.parts, request.work, strict=True):
                wants = desk.wants(work.slots)
                if work.acting is not None:
                    wants &= work.acting
                asked.append((desk, work.slots[wants]))
            refused = _grant(asked, now)
            self._cut(request, refused)
            (staying if refused else going).append(request)
        self.requests = staying
        return going

    def _cut(self, request: Request, refused: PolicyDesk | None) -> None:
        """The lanes of a request that waits for a batch to fill end their unrolls, at all its
        desks: else two batches could wait for each other's lanes."""
        if refused is None or not refused.collector.collecting:
            return
        for (_, desk, _), work in zip(request.parts, request.work, strict=True):
            if desk.cut(work.slots):
                self.changed = True


def _grant(asked: Asked, now: float) -> PolicyDesk | None:
    """Grants a request the unrolls it wants of each desk: all, or none and the one that refused."""
    for desk, lanes in asked:
        if len(lanes) and not desk.collector.would_grant(lanes, now):
            return desk
    for desk, lanes in asked:
        desk.collector.grant(len(lanes))
    return None
