"""The gateway without its socket: frames in, frames out.

One tick:
    1. `answer`: read every frame that waits; join the STEPs per policy into columns; check,
       look, act; return all replies.
    2. `finish`: book what was answered, hand batches to learners, take over new weights.

Knows sessions (who may speak) and desks (what is done); nothing here knows ZeroMQ, Ray or
torch. The socket loop is `gateway.loop`; the in-process wiring calls the same two verbs.

Lives on the gateway's thread; other threads hand over work through `submit`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from policy_server.config import EvaluationConfig, MultiAgentConfig, ServerConfig
from policy_server.errors import (
    CheckpointError,
    ConfigError,
    PolicyServerError,
    UnsupportedSpaceError,
)
from policy_server.gateway.columns import Columns
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.reader import FrameReader, Requests
from policy_server.gateway.replies import Replies
from policy_server.gateway.request import Request, environments, place
from policy_server.gateway.row_error import RowError
from policy_server.gateway.session import Frames, Peer, Session, SessionTable, error_frame
from policy_server.gateway.space_texts import mismatch_text, space_text
from policy_server.gateway.template import StepTemplate
from policy_server.gateway.waiting import WaitingRoom
from policy_server.gateway.work import Work
from policy_server.types import PolicySpaces
from sim_clients.protocol import (
    Bye,
    ErrorCode,
    Event,
    EventKind,
    GroupSpec,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    encode,
)
from sim_clients.protocol.codec import read

log = logging.getLogger(__name__)

FEW_ROWS = 64
"""Of a tick. Where there are more, some episode ends in most of them."""


class Gateway:
    """Everything between the socket and the policies.

    Args:
        make_desk: builds the desk of a policy the first time a group maps to it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        server: ServerConfig,
        multi_agent: MultiAgentConfig,
        evaluation: EvaluationConfig,
        make_desk: Callable[[str, PolicySpaces], PolicyDesk],
        clock: Callable[[], float] = time.monotonic,
        expected_sessions: int = 0,
    ):
        self.config = server
        self.multi_agent = multi_agent
        self.evaluation = evaluation
        self.clock = clock
        self.desks: dict[str, PolicyDesk] = {}
        self.sessions = SessionTable(server, self._desk_for, self._release)
        self.reader = FrameReader(self.sessions, self._other, self._go_on)
        self._replies = Replies(self.sessions.epoch)
        self.env_steps = 0
        self._first_step_at: float | None = None
        self.draining = False
        self.failure: str | None = None
        self._make_desk = make_desk
        self._expected_sessions = expected_sessions
        self._training = False
        self._evaluating = 0  # episodes of the evaluation asked for; 0: none
        self._targets: dict[str, int] | None = None  # updates after which training rests
        self._probes: Frames = []
        self._answered: list[tuple[PolicyDesk, Work]] = []
        self._released: list[tuple[PolicyDesk, Work]] = []  # in this tick, from the waiting room
        self._heard: list[Request] = []
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.waiting = WaitingRoom()
        self._waiters: list[tuple[Callable[[], bool], Future[None]]] = []

    # -- doors --------------------------------------------------------------------------------

    def offer(self, local_path: str | None) -> None:
        """Where simulators on this machine may come in as well; None: nowhere."""
        self.sessions.local_path = local_path

    @property
    def peers(self) -> Container[Peer]:
        """Connections that a session is bound to."""
        return self.sessions.by_peer

    # -- desks --------------------------------------------------------------------------------

    def policy_for(self, group: str) -> str | None:
        """Policy that a group plays by: the first pattern that matches."""
        for pattern, policy in self.multi_agent.policy_mapping.items():
            if fnmatchcase(group, pattern):
                return policy
        return None

    def _desk_for(self, spec: GroupSpec) -> PolicyDesk:
        policy = self.policy_for(spec.name)
        if policy is None:
            raise ProtocolError(
                ErrorCode.UNKNOWN_GROUP,
                f"no policy is mapped to group '{spec.name}': expected a name that matches one of "
                f"{', '.join(self.multi_agent.policy_mapping)}.",
                fatal=True,
            )
        spaces = PolicySpaces(spec.observation_space, spec.action_space, spec.mask)
        desk = self.desks.get(policy)
        if desk is None:
            try:
                return self.add_desk(policy, spaces)
            except (ConfigError, CheckpointError, UnsupportedSpaceError) as error:
                text = f"policy '{policy}': {error}"
                raise ProtocolError(ErrorCode.BAD_SPACE, text, fatal=True) from error
            except Exception as error:
                # A network of the user's own, say: it will fail again, however often it is tried.
                log.exception("policy '%s' cannot be built", policy)
                text = (
                    f"policy '{policy}' cannot be built for {space_text(spaces)}: "
                    f"{type(error).__name__}: {error!s:.300}; the server's log says why."
                )
                raise ProtocolError(ErrorCode.INTERNAL, text, fatal=True) from error
        if desk.spaces != spaces:
            raise ProtocolError(
                ErrorCode.SPACE_MISMATCH,
                f"group '{spec.name}' maps to policy '{policy}', whose spaces are "
                f"{mismatch_text(desk.spaces, spaces)}: map it to another policy "
                "(multi_agent), or start another server for it.",
                fatal=True,
            )
        return desk

    def add_desk(self, policy: str, spaces: PolicySpaces) -> PolicyDesk:
        """Opens a policy. Raises what stands in its way."""
        desk = self._make_desk(policy, spaces)
        desk.collector.paused = not self._training
        if self._evaluating:
            desk.evaluate(self._evaluating, exclusive=True)
        self.desks[policy] = desk
        return desk

    # -- a tick, first half: answer ----------------------------------------------------------------

    def answer(self, inbox: Frames, now: float) -> Frames:
        """Reads what came, and answers all that can be answered."""
        out: Frames = []
        self._run_commands()
        requests = self.reader.read(inbox, now, out)
        if self._probes:
            out += self._probes
            self._probes.clear()
        if self.waiting:
            going, works = self.waiting.release(now, self._closed(), len(self.sessions.by_id))
            if going:
                self._act(going, works, out)
                self._released = list(works.items())
            out += self.waiting.tell(now)
        if requests:
            checked = self._check(requests, out)
            self._look_and_act(self._heard, checked, now, out)
        return out

    def _go_on(self, template: StepTemplate, requests: list[Request], out: Frames) -> bool:
        """Reads, checks and answers where every lane of every STEP just goes on, as in nearly all
        ticks: what `_check` and `_look_and_act` would do, in two thirds of the time. False: it is
        not so simple, and nothing has happened."""
        (desk,) = template.desks
        rows = len(requests) * requests[0].parts[0][2].rows
        if rows > FEW_ROWS or not (desk.simple and desk.served.sees_as_sent):
            return False
        if desk.starting or self._closed():
            return False
        slots = requests[0].session.slots[0]
        if len(requests) > 1:
            slots = np.concatenate([request.session.slots[0] for request in requests])
        quiet = template.read_quiet([r.frame for r in requests], slots, desk.ledger, desk.store)
        if quiet is None:
            return False
        rewards, obs = quiet
        work = Work(slots, Columns.of_quiet(slots, rewards, obs), (obs,), None, None)
        place(requests)
        self._heard = requests
        self.reader.messages["accepted"] += len(requests)
        for request in requests:
            request.session.accept(request)
        self._act(requests, {desk: work}, out)
        return True

    def _other(self, peer: Peer, data: list[Any], now: float) -> bytes | None:
        message = read(data)
        session = self.sessions.by_peer.get(peer)
        if session is not None:
            session.last_heard = now
        if isinstance(message, Hello):
            if self.draining:
                raise ProtocolError(
                    ErrorCode.SHUTTING_DOWN, "the server is stopping: come back later."
                )
            welcome = self.sessions.hello(peer, message, now)
            self._probe_contested()
            return welcome
        if isinstance(message, Ping):
            return encode(Pong(message.token, self.sessions.epoch))
        if isinstance(message, Bye):
            if session is not None:
                self.sessions.end(session, message.reason or "bye")
            return None
        raise ProtocolError(
            ErrorCode.UNSUPPORTED_MESSAGE,
            f"expected HELLO, STEP, PING or BYE from a simulator, got {type(message).__name__.upper()}.",
        )

    def _probe_contested(self) -> None:
        """Something harmless to each session whose name a new run uses: whether it can be sent
        tells whether the connection is still there (see `unreachable`)."""
        for session in self.sessions.by_id.values():
            if session.contested:
                frame = encode(Event(EventKind.WAIT, session.seq, {}))
                self._probes.append((session.peer, frame))

    def unreachable(self, peer: Peer) -> None:
        """Nobody is at the other end any more. The session may come back on another connection,
        unless its simulator did so already as a new run."""
        session = self.sessions.by_peer.get(peer)
        if session is not None and session.contested:
            self.sessions.end(session, "replaced by a new run")

    def _check(self, requests: Requests, out: Frames) -> list[tuple[PolicyDesk, Columns]]:
        """Columns per desk, every row of them good; requests with a bad row are refused, the
        others accepted."""
        while True:
            checked = requests.columns()
            for desk, columns in checked:
                try:
                    desk.check(columns)
                except RowError as error:
                    self._refuse(error, desk, requests, out)
                    break
            else:
                break
        self._heard = requests.all()
        self.reader.messages["accepted"] += len(self._heard)
        for request in self._heard:
            request.session.accept(request)
        return checked

    def _refuse(self, error: RowError, desk: PolicyDesk, requests: Requests, out: Frames) -> None:
        """Finds whose the wrong row is."""
        row = error.row
        owners = iter(requests.parts(desk))
        request, part = next(owners)
        while row >= part.rows:
            row -= part.rows
            request, part = next(owners)
        lane = row if part.lanes is None else int(np.frombuffer(part.lanes, "<u4")[row])
        text = f"group '{part.group}', lane {lane}, {error}."
        self.reader.reject(error.code)
        refused = ProtocolError(error.code, text, seq=request.seq)
        out.append((request.session.peer, error_frame(refused)))
        requests.remove(request)

    def _look_and_act(
        self,
        requests: list[Request],
        checked: list[tuple[PolicyDesk, Columns]],
        now: float,
        out: Frames,
    ) -> None:
        works: dict[PolicyDesk, Work] = {}
        wanting: dict[PolicyDesk, np.ndarray] = {}
        for desk, columns in checked:
            work = works[desk] = desk.look(columns)
            # What was executed instead is judged by what its lane remembers before it acts again.
            settles = not columns.quiet or columns.executed is not None
            if settles or desk.any_wants(work.slots):
                desk.settle(work)
                wants = desk.wants(work.slots)
                if work.acting is not None:
                    wants &= work.acting
                if wants.any():
                    wanting[desk] = wants
        place(requests)
        closed = self._closed()
        if wanting or closed or any(desk.starting for desk in works):
            requests = self.waiting.admit(requests, works, wanting, now, closed)
        if requests:
            self._act(requests, works, out)

    def _closed(self) -> bool:
        """Nobody acts: before all simulators are there that were started for the first batch, which they
        share, and while draining, so that nothing happens that the last checkpoint misses."""
        if self._expected_sessions and len(self.sessions.by_id) >= self._expected_sessions:
            self._expected_sessions = 0
            self.waiting.changed = True
        return self.draining or bool(self._expected_sessions)

    def _act(self, requests: list[Request], works: dict[PolicyDesk, Work], out: Frames) -> None:
        """One forward per policy; replies are cut out of its columns."""
        replies = self._replies
        for desk, work in works.items():
            if len(work.slots):
                if self._first_step_at is None:
                    self._first_step_at = self.clock()
                replies.put(desk, desk.act(work))
                self._answered.append((desk, work))
            else:
                replies.put(desk, [])
        leaving = any(work.acting is not None for work in works.values())
        for request in requests:
            reply = replies.frame(request)
            request.session.answer(request, reply)
            out.append((request.session.peer, reply))
            if leaving or request.steps is None:
                self.env_steps += environments(request, works)
            else:
                self.env_steps += request.steps

    # -- a tick, second half: finish ---------------------------------------------------------------

    def finish(self, now: float) -> None:
        """Books what was answered; batches leave, weights arrive, leases run out."""
        for desk, work in self._answered:
            desk.begin(work)
        self._answered.clear()
        # Only now: a STEP of theirs in the same tick would report on steps that had not begun.
        for desk, work in self._released:
            desk.ledger.busy[work.slots] = False
        self._released = []
        for request in self._heard:
            request.session.expect()
        self._heard = []
        for desk in self.desks.values():
            desk.collector.tick_done()
            try:
                if desk.publish():
                    self.waiting.changed = True
                    self._after_update(desk)
                if desk.learn(now, self.env_steps):
                    self.waiting.changed = True
            except PolicyServerError as error:
                self.failure = f"policy '{desk.name}': {error}"
        self._end_evaluation()
        for waiter in list(self._waiters):
            condition, future = waiter
            if future.cancelled():
                self._waiters.remove(waiter)
            elif condition():
                self._waiters.remove(waiter)
                future.set_result(None)

    def expire(self, now: float) -> None:
        """Ends sessions that were silent for too long. Call it now and then."""
        for request in self.waiting.requests:  # it is we who are silent
            request.session.last_heard = now
        for session in self.sessions.expire(now):
            log.warning("simulator %s: lease expired", session.name)

    @property
    def patience_s(self) -> float:
        """How long the loop may sleep when nothing comes."""
        if self.reader.deferred or self._commands:
            return 0.0
        if self.waiting and self.waiting.changed and not self._closed():
            return 0.0
        return 0.02 if self.waiting else 0.2

    def _release(self, session: Session, why: str) -> None:
        log.info("simulator %s left: %s", session.name, why)
        self.waiting.leave(session)
        for group in session.groups:
            group.desk.ledger.busy[group.slots] = False
            group.desk.unseat(group.slots)
        self.waiting.changed = True

    # -- training and evaluation --------------------------------------------------------------------

    def train(self, updates: int | None) -> dict[str, int] | None:
        """Lets the learners work: `updates` more each, or (None) until told otherwise."""
        self._training = updates != 0
        if updates is None or updates == 0:
            self._targets = None
        else:
            self._targets = {d.name: d.updates + updates for d in self.desks.values() if d.learner}
        self._pause()
        return self._targets

    def trained(self) -> bool:
        """Every learner has made the updates that `train` asked for."""
        if not self.desks or self._targets is None:
            return False
        return all(
            desk.updates >= self._targets.setdefault(desk.name, 1)
            for desk in self.desks.values()
            if desk.learner is not None
        )

    def _after_update(self, desk: PolicyDesk) -> None:
        if self._targets is not None and self.trained():
            self._training = False
            self._pause()
        every = self.evaluation.interval
        if every and desk.updates % every == 0 and not desk.evaluation.active:
            desk.evaluate(self.evaluation.episodes, exclusive=False)

    def _pause(self) -> None:
        for desk in self.desks.values():
            desk.collector.paused = not self._training
        self.waiting.changed = True

    def evaluate(self, episodes: int) -> None:
        """Plays evaluation episodes by every policy, those included whose simulators have yet to
        come; training rests meanwhile."""
        self._evaluating = episodes
        for desk in self.desks.values():
            desk.evaluate(episodes, exclusive=True)
        self.waiting.changed = True

    def evaluated(self) -> bool:
        """No evaluation that was asked for is under way or still to come."""
        if self._evaluating and not self.desks:
            return False
        return not any(desk.evaluation.active for desk in self.desks.values())

    def _end_evaluation(self) -> None:
        """Training goes on once every policy has played."""
        if self._evaluating and self.evaluated():
            self._evaluating = 0
            for desk in self.desks.values():
                desk.evaluation.exclusive = False
            self.waiting.changed = True

    # -- from outside -----------------------------------------------------------------------------

    def submit(self, command: Callable[[], Any]) -> Future[Any]:
        """Runs `command` on the gateway's thread at its next tick (any thread may call)."""
        future: Future[Any] = Future()
        self._commands.append((command, future))
        return future

    def when(self, condition: Callable[[], bool]) -> Future[None]:
        """Done when `condition` holds at the end of a tick. On the gateway's thread."""
        future: Future[None] = Future()
        self._waiters.append((condition, future))
        return future

    def _run_commands(self) -> None:
        while self._commands:
            command, future = self._commands.popleft()
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)

    def broadcast(self, kind: str, data: dict[str, Any]) -> Frames:
        """An EVENT for every session."""
        frame = encode(Event(kind, None, data))
        return [(session.peer, frame) for session in self.sessions.by_id.values()]

    def report(self) -> dict[str, Any]:
        """Numbers for the operator; episodes and update results since the last report."""
        policies: dict[str, Any] = {}
        for desk in self.desks.values():
            entry = desk.report()
            entry["episodes"], desk.episodes = desk.episodes, []
            entry["results"], desk.results = desk.results, []
            entry["evaluation"] = list(desk.evaluation.last)
            entry["evaluations"] = desk.evaluation.completed
            policies[desk.name] = entry
        first = self._first_step_at
        return {
            "env_steps": self.env_steps,
            "stepping_s": 0.0 if first is None else self.clock() - first,
            "simulators": len(self.sessions.by_id),
            "lanes": self.sessions.lanes,
            "messages": {
                **self.reader.messages,
                "rejected": dict(self.reader.rejected),
                "waiting": len(self.waiting),
            },
            "policies": policies,
            "training": self._training,
            "failure": self.failure,
        }
