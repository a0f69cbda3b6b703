"""A scripted server: it speaks the protocol, answers zeros, and misbehaves where it is told to.

    python -m sim_clients.conformance.peer --bind tcp://127.0.0.1:5555 --drop 3 --wait 5

`Peer` is the server without sockets: frames in, frames out. `ServedPeer` puts it on a ROUTER in
a thread; `PeerTransport` hands it to a client in the same thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

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
_PATIENCE_MS = 200  # how long a served peer lets those wait whom it told to
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
        out = []
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


class PeerTransport:
    """A `Transport` whose other end is a `Peer` in the same thread; time is the caller's.

    Args:
        advance: called with the seconds a client would have waited, where nothing came.
    """

    _routes = itertools.count(1)

    def __init__(self, peer: Peer, advance: Any = None):
        self.peer = peer
        self.sent: list[bytes] = []
        self.reconnects = 0
        self.closed = False
        self._advance = advance or (lambda seconds: None)
        self._inbox: deque[bytes] = deque()
        self._route = b"%d" % next(self._routes)

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self.push(frame for _, frame in self.peer.handle(self._route, frame))

    def push(self, frames: Iterable[bytes]) -> None:
        """Frames the server sends by itself."""
        self._inbox.extend(frames)

    def receive(self, timeout_s: float | None) -> bytes | None:
        if self._inbox:
            return self._inbox.popleft()
        if timeout_s is None:
            raise RuntimeError("expected an answer, got none, and would wait for ever.")
        self._advance(timeout_s)
        return None

    def reconnect(self) -> None:
        self.reconnects += 1
        self._inbox.clear()
        self._route = b"%d" % next(self._routes)

    def close(self) -> None:
        self.closed = True


class ServedPeer:
    """A `Peer` on a ROUTER socket, served by a thread of its own.

    Args:
        bind: endpoint; port "*" takes a free one.

    Attributes:
        address: where clients connect.
    """

    def __init__(self, peer: Peer, bind: str = "tcp://127.0.0.1:*"):
        self.peer = peer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(bind)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        # Closing a socket that another thread polls is undefined, so the thread is told to stop.
        self._inside = self._context.socket(zmq.PAIR)
        self._outside = self._context.socket(zmq.PAIR)
        self._inside.bind("inproc://stop")
        self._outside.connect("inproc://stop")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._inside, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(_PATIENCE_MS))
            if not ready:
                for parts in self.peer.release():
                    self._socket.send_multipart(parts)
            if self._inside in ready:
                command = self._inside.recv()
                if not command:
                    break
                for parts in self.peer.tell(decode(command)):  # type: ignore[arg-type]
                    self._socket.send_multipart(parts)
            if self._socket in ready:
                route, *frames = self._socket.recv_multipart()
                for frame in frames:
                    for parts in self.peer.handle(route, frame):
                        self._socket.send_multipart(parts)
        self._socket.close()
        self._inside.close()

    def tell(self, event: Event) -> None:
        """Sends an EVENT to all sessions."""
        self._outside.send(encode(event))

    def close(self) -> None:
        """Stops the thread and frees the address. Idempotent."""
        if self._thread.is_alive():
            self._outside.send(b"")
            self._thread.join()
            self._outside.close(0)
            self._context.term()

    def __enter__(self) -> ServedPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> int:
    """Serves until interrupted; prints the address, and at the end one line of counts."""
    parser = argparse.ArgumentParser(
        prog="python -m sim_clients.conformance.peer", description=__doc__
    )
    parser.add_argument("--bind", default="tcp://127.0.0.1:*")
    parser.add_argument("--token")
    for name in ("drop", "wait", "restart", "forget", "garbage", "refuse"):
        parser.add_argument(f"--{name}", type=_numbers, default=frozenset(), metavar="K,K,...")
    options = vars(parser.parse_args(arguments))
    bind, token = options.pop("bind"), options.pop("token")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    peer = Peer(Script(**options), token=token)
    with ServedPeer(peer, bind) as served:
        print(served.address, flush=True)
        while not stop.wait(0.2):
            pass
    kinds = [type(message).__name__ for message in peer.received]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(f"received: {counts or 'nothing'}; episodes finished: {len(peer.finished())}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
