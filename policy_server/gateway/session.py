"""Who is connected: sessions as a state machine without I/O.

A frame comes in with the peer it came from and the time; replies go out as (peer, frame). No
socket, no clock of its own. A session is bound to the connection it said HELLO on; every
request is judged by that connection's session and nothing it claims about others.

Lives on the gateway's thread.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgpack
import numpy as np

from policy_server.config import ServerConfig
from policy_server.gateway.columns import Part
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.template import StepTemplate
from sim_clients.protocol import (
    LOCAL_SOCKET,
    PROTOCOL_VERSION,
    Error,
    ErrorCode,
    GroupSpec,
    Hello,
    MessageType,
    ProtocolError,
    Welcome,
    encode,
)
from sim_clients.protocol.codec import U32
from sim_clients.protocol.spaces import leaves

if TYPE_CHECKING:
    from policy_server.gateway.request import Request

Peer = bytes | int
"""A connection: the routing id of one over ZeroMQ, the number of a local socket's."""
Frames = list[tuple[Peer, bytes]]

WINDOW = 2
"""STEPs of a session that may be unanswered at a time, and replies kept for retries."""

_pack = msgpack.Packer().pack
_STEP = bytes([0x93, int(MessageType.STEP)])  # an array of three, and the type
_STEP_WIDE = _STEP + b"\xce"  # and a number in four bytes

SILENT_S = 1.0
"""A run that was heard within this time is taken for alive when another uses its name."""


class SessionGroup:
    """One group of a session: where its lanes sit at the desk of their policy."""

    def __init__(self, spec: GroupSpec, desk: PolicyDesk, slots: np.ndarray):
        self.spec = spec
        self.desk = desk
        self.slots = slots  # int64[lanes]
        self.leaf_bytes = [leaf.nbytes for _, leaf in leaves(spec.observation_space)]


@dataclass
class Session:
    """One run of one simulator.

    Attributes:
        template: how its STEPs look if they say nothing unusual.
        place: what its lanes' random numbers are seeded with.
        seq: last accepted sequence number.
        requests: the last ones that were accepted, oldest first.
        unanswered: how many of them wait.
        expected: how the next STEP may begin, before the bytes of the template.
        tick: in which it spoke last.
    """

    id: bytes
    hello: Hello
    peer: Peer
    groups: list[SessionGroup]
    template: StepTemplate
    lease_s: float
    last_heard: float
    place: str
    seq: int = 0
    contested: bool = False  # a new run says that it is the same simulator
    requests: deque[Request] = field(default_factory=deque)
    unanswered: int = 0
    expected: tuple[bytes, ...] = ()
    tick: int = 0

    def __post_init__(self) -> None:
        # What a STEP of all lanes consists of, and where its rows go.
        self.parts = [
            (i, group.desk, Part(group.spec.name, group.spec.lanes, None))
            for i, group in enumerate(self.groups)
        ]
        self.steps = max(group.spec.lanes for group in self.groups)
        self.slots = [
            np.concatenate([group.slots for group in self.groups if group.desk is desk])
            for desk in self.template.desks
        ]
        self.expect()

    def expect(self) -> None:
        """Prepares for the next STEP: its first bytes, with its number as short as it can be or
        in four bytes."""
        seq = self.seq + 1
        self.expected = (_STEP + _pack(seq),)
        if seq <= U32:
            self.expected += (_STEP_WIDE + seq.to_bytes(4, "big"),)

    @property
    def name(self) -> str:
        """For logs and errors."""
        return self.hello.identity or self.id.hex()[:8]

    @property
    def lanes(self) -> int:
        return sum(group.spec.lanes for group in self.groups)

    def accept(self, request: Request) -> None:
        """Uses up a number. Answered requests beyond the window are forgotten."""
        self.seq = request.seq
        self.unanswered += 1
        self.requests.append(request)
        if len(self.requests) > WINDOW:
            # Whoever sends one more has the reply to all but the last and those that wait.
            for old in list(self.requests)[:-WINDOW]:
                if old.reply is not None:
                    self.requests.remove(old)

    def answer(self, request: Request, reply: bytes) -> None:
        """The reply to an accepted STEP, kept for a retry."""
        request.reply = reply
        self.unanswered -= 1

    def welcome(
        self, epoch: int, resumed: bool, config: ServerConfig, local_path: str | None
    ) -> Welcome:
        limits: dict[str, Any] = {
            "max_message_bytes": config.max_message_bytes,
            "max_lanes": config.max_lanes,
            "lease_s": self.lease_s,
            "window": WINDOW,
        }
        if local_path is not None and LOCAL_SOCKET in self.hello.capabilities:
            limits[LOCAL_SOCKET] = local_path
        return Welcome(
            PROTOCOL_VERSION,
            self.id,
            epoch,
            resumed,
            self.seq + 1,
            limits,
            tuple((g.desk.name, g.desk.version) for g in self.groups),
            {},
        )


class SessionTable:
    """All sessions, by id and by the connection they are bound to.

    Args:
        config: limits and lease.
        desk_for: group spec -> the desk of its policy; raises ProtocolError.
        release: called with a session whose lanes are given up, and why.

    Attributes:
        local_path: where simulators on this machine may come in as well; None: nowhere.
    """

    def __init__(
        self,
        config: ServerConfig,
        desk_for: Callable[[GroupSpec], PolicyDesk],
        release: Callable[[Session, str], None],
    ):
        self.config = config
        self.epoch = secrets.randbelow(2**32 - 1) + 1
        self.local_path: str | None = None
        self.by_peer: dict[Peer, Session] = {}
        self.by_id: dict[bytes, Session] = {}
        self._desk_for = desk_for
        self._release = release
        self._templates = WeakValueDictionary[tuple[tuple[int, str], ...], StepTemplate]()
        self.lanes = 0

    # -- coming ------------------------------------------------------------------------------

    def hello(self, peer: Peer, hello: Hello, now: float) -> bytes:
        """Opens, resumes or repeats. Returns the WELCOME frame.

        Raises:
            ProtocolError: fatal where this simulator can never be served as it is.
        """
        current = self.by_peer.get(peer)
        if current is not None and current.hello.run_id == hello.run_id:
            return self._again(current, hello, now)
        known = self._known(hello)
        if known is not None:
            self.by_peer.pop(known.peer, None)
            known.peer = peer
            self.by_peer[peer] = known
            return self._again(known, hello, now)
        if current is not None:
            self.end(current, "a new run on the same connection")
        self._replace_silent(hello, now)
        return self._welcome(self._open(peer, hello, now), False)

    def _welcome(self, session: Session, resumed: bool) -> bytes:
        return encode(session.welcome(self.epoch, resumed, self.config, self.local_path))

    def _known(self, hello: Hello) -> Session | None:
        """The session that this run has already: the one it names, or one whose WELCOME it never
        got. The run id is the run's secret; a session's id alone opens nothing."""
        named = None if hello.resume is None else self.by_id.get(hello.resume)
        if named is not None and named.hello.run_id == hello.run_id:
            return named
        for session in self.by_id.values():
            if session.hello.run_id == hello.run_id:
                return session
        return None

    def _again(self, session: Session, hello: Hello, now: float) -> bytes:
        if hello.groups != session.hello.groups:
            raise ProtocolError(
                ErrorCode.SPACE_MISMATCH,
                "HELLO of a session that exists: expected the groups it began with, got others: "
                "start a new run (another run id) to change them.",
                fatal=True,
            )
        session.last_heard = now
        return self._welcome(session, True)

    def _replace_silent(self, hello: Hello, now: float) -> None:
        """A new run of a known simulator wipes its lanes, if the old run is silent: nobody can
        end a session that is alive by using its name. One that was heard just now is probed, and
        ends if its connection is gone."""
        if hello.identity is None:
            return
        for session in list(self.by_id.values()):
            if session.hello.identity != hello.identity:
                continue
            if now - session.last_heard > SILENT_S:
                self.end(session, "replaced by a new run")
            else:
                session.contested = True

    def _open(self, peer: Peer, hello: Hello, now: float) -> Session:
        lanes = sum(group.lanes for group in hello.groups)
        if self.lanes + lanes > self.config.max_lanes:
            raise ProtocolError(
                ErrorCode.LIMIT_EXCEEDED,
                f"expected at most {self.config.max_lanes - self.lanes} more lanes, got {lanes}: "
                "declare fewer, or raise server.max_lanes.",
                fatal=True,
            )
        if len(self.by_id) >= self.config.max_sessions:
            raise ProtocolError(
                ErrorCode.LIMIT_EXCEEDED,
                f"all {self.config.max_sessions} sessions are taken: come back later, or raise "
                "server.max_sessions.",
            )
        desks = [self._desk_for(spec) for spec in hello.groups]  # all of them, before any lane
        wanted = hello.options.get("lease_s")
        lease_s = self.config.lease_s
        if isinstance(wanted, (int, float)) and not isinstance(wanted, bool) and wanted == wanted:
            lease_s = min(max(float(wanted), 1.0), 3600.0)
        template = self._template(list(zip(hello.groups, desks, strict=True)))
        session_id = secrets.token_bytes(16)
        groups = []
        place = self._place(hello)
        for spec, desk in zip(hello.groups, desks, strict=True):
            groups.append(SessionGroup(spec, desk, desk.seat(spec, place, session_id.hex()[:8])))
        session = Session(session_id, hello, peer, groups, template, lease_s, now, place)
        self.by_id[session_id] = session
        self.by_peer[peer] = session
        self.lanes += lanes
        return session

    def _template(self, groups: list[tuple[GroupSpec, PolicyDesk]]) -> StepTemplate:
        """One for all sessions that are alike, so that their frames are read together."""
        kind = tuple((spec.lanes, desk.name) for spec, desk in groups)
        template = self._templates.get(kind)
        if template is None:
            template = StepTemplate(groups, self.config.max_message_bytes)
            self._templates[kind] = template
        return template

    def _place(self, hello: Hello) -> str:
        """A name that no live session has: it seeds the lanes' random numbers."""
        taken = {session.place for session in self.by_id.values()}
        name, number = hello.identity or "", 0
        while (place := name if name and not number else f"{name}#{number}") in taken:
            number += 1
        return place

    # -- going -------------------------------------------------------------------------------

    def end(self, session: Session, why: str) -> None:
        """Lanes are given up; open episodes end as interrupted."""
        if self.by_id.pop(session.id, None) is None:
            return
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        self.lanes -= session.lanes
        self._release(session, why)

    def expire(self, now: float) -> list[Session]:
        """Ends the sessions whose lease ran out."""
        gone = [s for s in self.by_id.values() if now - s.last_heard > s.lease_s]
        for session in gone:
            self.end(session, f"silent for {now - session.last_heard:.0f} s")
        return gone

    # -- sequence numbers ------------------------------------------------------------------------

    @staticmethod
    def repeated(session: Session, seq: int, frame: bytes) -> bytes | None:
        """The reply to a number that was accepted already; None: its reply still waits.

        Raises:
            ProtocolError: other content under the same number, or a number too far off.
        """
        for request in session.requests:
            if request.seq == seq:
                if request.frame != frame:
                    raise ProtocolError(
                        ErrorCode.CONFLICTING_RETRY,
                        f"STEP {seq} was accepted with other content: repeat the same bytes, or "
                        f"go on with {session.seq + 1}.",
                        seq=seq,
                    )
                return request.reply
        raise ProtocolError(
            ErrorCode.BAD_SEQUENCE,
            f"expected STEP {session.seq + 1}, got {seq}.",
            seq=seq,
        )


def error_frame(error: ProtocolError, seq: int | None = None) -> bytes:
    """The ERROR that tells a client."""
    answered = error.seq if error.seq is not None else seq
    return encode(Error(error.code, error.fatal, answered, error.text[:1000]))
