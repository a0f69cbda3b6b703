"""A scripted server without sockets: it speaks the protocol, answers zeros, and misbehaves where
it is told to. Frames in, frames out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim_clients.conformance.referee import Referee
from sim_clients.protocol import (
    PROTOCOL_VERSION,
    Actions,
    ActionsGroup,
    Bye,
    Error,
    ErrorCode,
    Event,
    EventKind,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    Step,
    Welcome,
    decode,
    encode,
    spaces,
)
from sim_clients.protocol.messages import Message

_GARBAGE = b"\xc1\xff not msgpack"
_KEPT = 4  # replies per session
Outgoing = tuple[bytes, bytes]  # (routing id, frame)


@dataclass(frozen=True)
class Script:
    """What goes wrong, by the running number (from 1) of accepted STEPs of the whole peer.

    Attributes:
        drop: the answer to these is lost once; a repeat gets it.
        wait: these are answered with EVENT wait, and with ACTIONS only when repeated.
        restart: on arrival of these the peer forgets everything and has another epoch, before
            it looks at them.
        forget: on arrival of these the peer forgets which connection the session belongs to.
        garbage: the answer to these is preceded by a frame that is no message, and lost.
        refuse: these are refused once as `bad_observation`.
        silent: nothing at all is answered from the first of these on, until `revive()`.
    """

    drop: frozenset[int] = frozenset()
    wait: frozenset[int] = frozenset()
    restart: frozenset[int] = frozenset()
    forget: frozenset[int] = frozenset()
    garbage: frozenset[int] = frozenset()
    refuse: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()


@dataclass
class _Session:
    session_id: bytes
    hello: Hello
    referee: Referee
    route: bytes
    next_seq: int = 1
    frames: dict[int, bytes] = field(default_factory=dict)  # accepted STEPs, by number
    replies: dict[int, bytes] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)  # told to wait


class Peer:
    """The scripted server without sockets.

    Args:
        script: what goes wrong and when.
        epoch: of the first life; grows by one with each restart.
        limits: of WELCOME.
        parameters: of WELCOME.
        token: a HELLO without it is refused.

    Attributes:
        received: every message that could be read, in order.
        episodes: finished episodes of all sessions, see `Referee.episodes`.
        unreadable: frames that were no message.
        version: policy version in each ACTIONS; set it freely.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        epoch: int = 1,
        limits: dict[str, Any] | None = None,
        parameters: dict[str, Any] | None = None,
        token: str | None = None,
    ):
        self.script = script or Script()
        self.epoch = epoch
        self.limits = limits or {
            "max_message_bytes": 1 << 28, "max_lanes": 65536, "lease_s": 60.0, "window": 2,
        }  # fmt: skip
        self.parameters = parameters or {}
        self.token = token
        self.version = 0
        self.received: list[Message] = []
        self.unreadable = 0
        self.dead = False
        self.episodes: list[tuple[str, int, str, int, float]] = []
        self._sessions: dict[bytes, _Session] = {}  # by id
        self._routes: dict[bytes, _Session] = {}
        self._arrivals = itertools.count(1)
        self._fired: set[tuple[str, int]] = set()
        self._number = 1  # of the next STEP to be accepted

    def handle(self, route: bytes, frame: bytes) -> list[Outgoing]:
        """One frame of one connection -> the frames to send, in order."""
        if self.dead:
            return []
        try:
            message = decode(frame)
        except ProtocolError as error:
            self.unreadable += 1
            return [(route, encode(_as_error(error)))]
        self.received.append(message)
        try:
            return [(route, out) for out in self._answer(route, message, frame)]
        except ProtocolError as error:
            return [(route, encode(_as_error(error)))]

    def tell(self, event: Event) -> list[Outgoing]:
        """The same EVENT to all sessions."""
        return [(session.route, encode(event)) for session in self._sessions.values()]

    def restart(self) -> None:
        """Dies and comes back knowing nothing."""
        self._collect()
        self._sessions.clear()
        self._routes.clear()
        self.epoch += 1

    def release(self) -> list[Outgoing]:
        """The answers of all STEPs that were told to wait and not repeated since."""
        out: list[Outgoing] = []
        for session in self._sessions.values():
            out.extend((session.route, session.replies[seq]) for seq in sorted(session.held))
            session.held.clear()
        return out

    def revive(self) -> None:
        """Answers again after `silent`."""
        self.dead = False

    def steps(self) -> list[Step]:
        """Every STEP received, repeats included."""
        return [message for message in self.received if isinstance(message, Step)]

    def finished(self) -> list[tuple[str, int, str, int, float]]:
        """Finished episodes of all sessions and lives so far."""
        self._collect()
        return self.episodes

    # -- pieces --------------------------------------------------------------------------------

    def _collect(self) -> None:
        for session in self._sessions.values():
            self.episodes.extend(session.referee.episodes)
            session.referee.episodes = []

    def _answer(self, route: bytes, message: Message, frame: bytes) -> Iterable[bytes]:
        if isinstance(message, Hello):
            return [self._welcome(route, message)]
        if isinstance(message, Ping):
            return [encode(Pong(message.token, self.epoch))]
        if isinstance(message, Step):
            return self._on_step(route, message, frame)
        if isinstance(message, Bye):
            session = self._routes.pop(route, None)
            if session is not None:
                self._collect()
                del self._sessions[session.session_id]
            return []
        raise ProtocolError(
            ErrorCode.UNSUPPORTED_MESSAGE,
            f"expected a message of a simulator, got {type(message).__name__}.",
        )

    def _welcome(self, route: bytes, hello: Hello) -> bytes:
        if self.token is not None and hello.token != self.token:
            raise ProtocolError(
                ErrorCode.UNAUTHORIZED, "expected the server's token, got another.", fatal=True
            )
        session = self._sessions.get(hello.resume or b"")
        if session is None or session.hello.run_id != hello.run_id:
            # The same run id on the same connection is a repeat of the same HELLO.
            session = self._routes.get(route)
        resumed = session is not None and session.hello.run_id == hello.run_id
        if session is None or not resumed:
            session = _Session(os.urandom(16), hello, Referee(hello.groups), route)
            self._sessions[session.session_id] = session
        session.route = route
        self._routes[route] = session
        return encode(
            Welcome(
                PROTOCOL_VERSION, session.session_id, self.epoch, resumed, session.next_seq,
                self.limits, tuple(("default_policy", self.version) for _ in hello.groups),
                self.parameters,
            )
        )  # fmt: skip

    def _due(self, what: str) -> bool:
        """True once for each number in the script."""
        key = (what, self._number)
        if self._number not in getattr(self.script, what) or key in self._fired:
            return False
        self._fired.add(key)
        return True

    def _on_step(self, route: bytes, step: Step, frame: bytes) -> list[bytes]:
        if self._due("silent"):
            self.dead = True
            return []
        if self._due("restart"):
            self.restart()
        if self._due("forget"):
            self._routes.clear()
        session = self._routes.get(route)
        if session is None:
            raise ProtocolError(
                ErrorCode.UNKNOWN_SESSION,
                "expected HELLO on this connection first, got STEP: say HELLO, resuming.",
                seq=step.seq,
            )
        if step.seq in session.frames:
            if session.frames[step.seq] != frame:
                raise ProtocolError(
                    ErrorCode.CONFLICTING_RETRY,
                    f"expected step {step.seq} with the same bytes, got others.",
                    fatal=True,
                    seq=step.seq,
                )
            session.held.discard(step.seq)
            return [session.replies[step.seq]]
        if step.seq != session.next_seq:
            raise ProtocolError(
                ErrorCode.BAD_SEQUENCE,
                f"expected step {session.next_seq}, got {step.seq}.",
                seq=step.seq,
            )
        if self._due("refuse"):
            raise ProtocolError(ErrorCode.BAD_OBSERVATION, "refused by script.", seq=step.seq)
        session.referee.judge(step)
        return self._accept(session, step, frame)

    def _accept(self, session: _Session, step: Step, frame: bytes) -> list[bytes]:
        reply = encode(Actions(step.seq, self.epoch, self._zeros(session, step)))
        session.next_seq += 1
        session.frames[step.seq], session.replies[step.seq] = frame, reply
        for old in [seq for seq in session.frames if seq <= step.seq - _KEPT]:
            del session.frames[old], session.replies[old]
        answer = [reply]
        if self._due("drop"):
            answer = []
        elif self._due("garbage"):
            answer = [_GARBAGE]
        elif self._due("wait"):
            session.held.add(step.seq)
            answer = [encode(Event(EventKind.WAIT, step.seq, {}))]
        self._number += 1
        return answer

    def _zeros(self, session: _Session, step: Step) -> list[ActionsGroup | None]:
        groups: list[ActionsGroup | None] = []
        for spec, group in zip(session.hello.groups, step.groups, strict=True):
            if group is None:
                groups.append(None)
                continue
            n = session.referee.rows(spec, group)
            columns = []
            for _, leaf in spaces.leaves(spec.action_space):
                lowest = np.zeros(leaf.shape, leaf.dtype) + getattr(leaf, "start", 0)
                columns.append(np.tile(lowest.astype(leaf.dtype), (n,) + (1,) * len(leaf.shape)))
            groups.append(ActionsGroup(self.version, [column.tobytes() for column in columns]))
        return groups


def _as_error(error: ProtocolError) -> Error:
    return Error(error.code, error.fatal, error.seq, error.text[:1024])
