"""Frames that came in -> requests. The first half of a tick's first half.

STEPs that look as expected are collected by their template and read together; everything else
is read one by one.

Lives on the gateway's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from policy_server.gateway.columns import Columns, Part, Report, join_columns
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.request import Request, read_request
from policy_server.gateway.session import WINDOW, Frames, Peer, Session, SessionTable, error_frame
from policy_server.gateway.template import StepTemplate
from sim_clients.protocol import (
    ErrorCode,
    Event,
    EventKind,
    MessageType,
    ProtocolError,
    encode,
    unpack,
)
from sim_clients.protocol.codec import U64

log = logging.getLogger(__name__)

STEP = int(MessageType.STEP)
Alike = dict[StepTemplate, list[Request]]


class FrameReader:
    """Reads what came in a tick.

    Args:
        sessions: who may speak.
        other: answers any message but a STEP: (peer, unpacked, now) -> reply or None.
        shortcut: may take all STEPs of a tick, if they are alike, before they are read:
            (template, requests, replies) -> whether it did.

    Attributes:
        deferred: frames that must wait for the next tick.
        messages: received, accepted and duplicate ones so far.
        rejected: error code -> how often.
    """

    def __init__(
        self,
        sessions: SessionTable,
        other: Callable[[Peer, list[Any], float], bytes | None],
        shortcut: Callable[[StepTemplate, list[Request], Frames], bool] = lambda *_: False,
    ):
        self.sessions = sessions
        self.deferred: Frames = []
        self.messages = {"received": 0, "accepted": 0, "duplicate": 0}
        self.rejected: dict[str, int] = {}
        self._other = other
        self.shortcut = shortcut
        self._tick = 0

    def read(self, inbox: Frames, now: float, out: Frames) -> Requests:
        """Requests with all lengths checked; whatever else came is answered."""
        if self.deferred:
            inbox, self.deferred = self.deferred + inbox, []
        self._tick = tick = self._tick + 1
        alike: Alike = {}
        loose: list[Request] = []
        by_peer = self.sessions.by_peer
        for peer, frame in inbox:
            session = by_peer.get(peer)
            if session is None:
                self._read_one(peer, None, frame, now, loose, out)
            elif session.tick == tick:
                # No lane may occur twice in a batch, and no session end before its STEP is done.
                self.deferred.append((peer, frame))
            elif frame[: -session.template.tail] in session.expected and (
                session.unanswered < WINDOW
            ):
                session.tick = tick
                session.last_heard = now
                request = Request(session, session.seq + 1, frame, session.parts, session.steps)
                mine = alike.get(session.template)
                if mine is None:
                    alike[session.template] = [request]
                else:
                    mine.append(request)
            else:
                self._read_one(peer, session, frame, now, loose, out)
        self.messages["received"] += len(inbox) - len(self.deferred)
        if len(alike) == 1 and not loose:
            ((template, mine),) = alike.items()
            if template.simple and self.shortcut(template, mine, out):
                return Requests({}, [])
        requests = Requests(alike, loose)
        for odd in requests.read():
            self._read_one(odd.session.peer, odd.session, odd.frame, now, loose, out)
        return requests

    def _read_one(
        self,
        peer: Peer,
        session: Session | None,
        frame: bytes,
        now: float,
        loose: list[Request],
        out: Frames,
    ) -> None:
        seq: int | None = None
        try:
            data = unpack(frame)
            if data[0] != STEP:
                reply = self._other(peer, data, now)
                self.messages["accepted"] += 1
                if reply is not None:
                    out.append((peer, reply))
                return
            if len(data) != 3 or type(data[1]) is not int or not 0 < data[1] <= U64:
                raise ProtocolError(ErrorCode.MALFORMED, "expected STEP as [3, seq >= 1, groups].")
            seq = data[1]
            if session is None:
                raise ProtocolError(
                    ErrorCode.UNKNOWN_SESSION,
                    "expected HELLO first on this connection, got STEP.",
                )
            session.last_heard = now
            if seq != session.seq + 1:
                reply = SessionTable.repeated(session, seq, frame)
                self.messages["duplicate"] += 1
                out.append((peer, reply or encode(Event(EventKind.WAIT, seq, {}))))
                return
            loose.append(read_request(session, seq, data[2], frame))
            session.tick = self._tick
        except ProtocolError as error:
            self.reject(error.code)
            out.append((peer, error_frame(error, seq)))
        except Exception:
            # A fault of ours must not take the other sessions along.
            log.exception("a message could not be handled")
            self.reject(ErrorCode.INTERNAL)
            fault = ProtocolError(
                ErrorCode.INTERNAL, "the server failed on this message; its log says why."
            )
            out.append((peer, error_frame(fault, seq)))

    def reject(self, code: str) -> None:
        """Counts a message that was refused."""
        self.rejected[code] = self.rejected.get(code, 0) + 1


class Requests:
    """The STEPs of a tick: those that are alike, by template, then the loose ones."""

    def __init__(self, alike: Alike, loose: list[Request]):
        self._alike = alike
        self._loose = loose
        self._columns: dict[StepTemplate, list[Columns]] = {}

    def __bool__(self) -> bool:
        return bool(self._alike or self._loose)

    def all(self) -> list[Request]:
        """In the order of their rows."""
        return [request for each in self._alike.values() for request in each] + self._loose

    def read(self) -> list[Request]:
        """Reads those that are alike. Returns, and leaves out, those that are not after all."""
        odd: list[Request] = []
        for template, requests in list(self._alike.items()):
            frames = [request.frame for request in requests]
            columns = template.read(frames, [request.session.slots for request in requests])
            if columns is None:
                misfits = zip(requests, template.misfits(frames), strict=True)
                mine = [request for request, misfit in misfits if misfit]
                self._keep(template, [request for request in requests if request not in mine])
                odd += mine
            else:
                self._columns[template] = columns
        return odd

    def _keep(self, template: StepTemplate, requests: list[Request]) -> None:
        """Others of a template than before. Its place stays: rows are found by it."""
        if not requests:
            del self._alike[template]
            self._columns.pop(template, None)
            return
        self._alike[template] = requests
        frames = [request.frame for request in requests]
        columns = template.read(frames, [request.session.slots for request in requests])
        assert columns is not None, "frames that fit do not fit"
        self._columns[template] = columns

    def remove(self, request: Request) -> None:
        """One that was refused."""
        if request in self._loose:
            self._loose.remove(request)
            return
        template = request.session.template
        self._keep(template, [r for r in self._alike[template] if r is not request])

    def columns(self) -> list[tuple[PolicyDesk, Columns]]:
        """All rows, per desk."""
        found: dict[PolicyDesk, list[Columns]] = {}
        for template, several in self._columns.items():
            for desk, columns in zip(template.desks, several, strict=True):
                found.setdefault(desk, []).append(columns)
        reports: dict[PolicyDesk, list[Report]] = {}
        for request in self._loose:
            for _, desk, part in request.parts:
                reports.setdefault(desk, []).append(part)  # type: ignore[arg-type]
        for desk, mine in reports.items():
            found.setdefault(desk, []).append(desk.reader.join(mine))
        return [(desk, join_columns(several)) for desk, several in found.items()]

    def parts(self, desk: PolicyDesk) -> list[tuple[Request, Part]]:
        """Whose rows a desk's columns hold, in order."""
        return [
            (request, part) for request in self.all() for _, to, part in request.parts if to is desk
        ]
