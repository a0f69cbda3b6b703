"""The vectorised client: arrays of observations in, arrays of actions out.

    client = Client("tcp://127.0.0.1:5555", Group(observation_space, action_space, lanes=8))
    actions = client.step(first_observations)
    while True:
        obs, rewards, terminated, truncated = ...        # the simulator's own step
        actions = client.step(obs, rewards, terminated, truncated, final_obs=...)

The server may be slow, die and come back: the client repeats, re-introduces itself and carries
on in the middle of the episode. It uses no thread; one thread may use it.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sim_clients.book import Fallback, LaneBook, StepRequest
from sim_clients.columns import Columns, Group, Lanes, Rows
from sim_clients.connection import Connection
from sim_clients.effects import (
    Answered,
    Delayed,
    Move,
    Over,
    Ponged,
    Reconnect,
    Refused,
    Send,
    Stats,
    Told,
    Unheard,
    Welcomed,
)
from sim_clients.errors import (
    InvalidStep,
    RequestRefused,
    ServerClosed,
    SessionRefused,
    StepTimeout,
)
from sim_clients.protocol import (
    PROTOCOL_VERSION,
    Bye,
    Error,
    ErrorCode,
    EventKind,
    GroupSpec,
    Hello,
    encode,
)
from sim_clients.transport import Transport, ZmqTransport

__all__ = ["Client", "Group", "Lanes", "Rows"]

log = logging.getLogger(__name__)


class Client:
    """A simulator's connection to a policy server.

    The constructor does not wait; `connect` does, and so does the first `step`.

    Args:
        address: "tcp://host:port" or "ipc:///path".
        groups: one `Group`, for arrays in and arrays out, or {name: Group}, for dicts of `Lanes`
            in and dicts of actions out.
        group: name of a single group on the wire.
        identity: a name of this simulator that stays the same when it is started again.
        token: what the server's operator gave out, if anything.
        timeout_s: deadline of each call; None: wait for ever.
        on_timeout: what `step` does at the deadline. "raise": `StepTimeout`; "repeat": each
            lane's last action again, zeros before any; or a `Fallback`.
        retry_s: first wait before a request is repeated; doubled up to 5 s.
        lease_s: silence after which the server may take this simulator for gone; None: its own.
        transport, clock, rng: for tests and in-process wiring.

    Attributes:
        parameters: environment parameters, as the server last set them.
        on_parameters: called with them at each change.
        paused, draining: what the server last said of itself.
        closed_by_server: it said that it will not come back.
    """

    def __init__(
        self,
        address: str | None,
        groups: Mapping[str, Group] | Group,
        *,
        group: str = "agent",
        identity: str | None = None,
        token: str | None = None,
        timeout_s: float | None = None,
        on_timeout: str | Fallback = "raise",
        retry_s: float = 0.5,
        lease_s: float | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] | None = None,
        rng: random.Random | None = None,
        on_parameters: Callable[[dict[str, Any]], None] | None = None,
    ):
        self._book = LaneBook(groups, group, on_timeout)
        self._timeout_s = timeout_s
        self._on_timeout = on_timeout
        self._clock = clock or time.monotonic
        self._rng = rng or random.Random()
        self._queue: deque[StepRequest] = deque()  # not yet handed out, oldest first
        self._pongs: set[int] = set()
        self._closed = False
        self._delayed_by: str | None = None
        self.parameters: dict[str, Any] = {}
        self.on_parameters = on_parameters
        self.limits: dict[str, Any] = {}
        self.paused = False
        self.draining = False
        if transport is None:
            if address is None:
                raise ValueError("address: expected one where there is no transport, got None.")
            transport = ZmqTransport(address)
        self._address = address
        self._transport = transport
        hello = Hello(
            version=PROTOCOL_VERSION,
            client=("sim_clients", _package_version()),
            run_id=os.urandom(16),
            resume=None,
            identity=identity,
            capabilities=transport.capabilities,
            token=token,
            groups=self._book.specs,
            options={} if lease_s is None else {"lease_s": lease_s},
        )
        self._connection = Connection(hello, now=self._clock(), retry_s=retry_s, rng=self._rng)
        self._perform()

    # -- what is known ---------------------------------------------------------------------------

    @property
    def session_id(self) -> bytes | None:
        """None before the first WELCOME."""
        return self._connection.session_id

    @property
    def epoch(self) -> int | None:
        """Random per server start; None before the first WELCOME."""
        return self._connection.epoch

    @property
    def groups(self) -> dict[str, GroupSpec]:
        """What was declared, with spaces as the wire has them."""
        return {spec.name: spec for spec in self._book.specs}

    @property
    def ready(self) -> bool:
        """True while a session stands."""
        return self._connection.ready

    @property
    def in_flight(self) -> int:
        """Steps sent and not answered."""
        return self._connection.in_flight

    @property
    def policies(self) -> dict[str, tuple[str, int]]:
        """Group -> the policy that plays it, and its version when it chose the newest actions;
        empty before the first WELCOME."""
        return {
            lanes.name: (lanes.policy, lanes.version)
            for lanes in self._book.lanes
            if lanes.policy is not None
        }

    @property
    def versions(self) -> dict[str, int]:
        """Group -> version of the policy that chose its newest actions."""
        return {name: version for name, (_, version) in self.policies.items()}

    @property
    def stats(self) -> Stats:
        """Counts of everything that happened to steps."""
        return self._connection.stats

    @property
    def closed_by_server(self) -> bool:
        return isinstance(self._connection.over, ServerClosed)

    # -- the calls of a simulator ------------------------------------------------------------------

    def connect(self, timeout_s: float | None = None) -> None:
        """Waits for the server's WELCOME (None: for ever).

        Raises:
            SessionRefused: it does not want this simulator.
            StepTimeout: it did not answer.
        """
        self._check_usable()
        deadline = math.inf if timeout_s is None else self._clock() + timeout_s
        while not self._connection.ready:
            if not self._advance(deadline):
                raise StepTimeout(
                    f"expected a WELCOME within {timeout_s} s, got nothing: is the server there?"
                )

    def step(
        self,
        obs: Any,
        rewards: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        *,
        final_obs: Any = None,
        first: Any = None,
        leaving: Any = None,
        lanes: Any = None,
        mask: Any = None,
        executed: Any = None,
        metrics: Any = None,
    ) -> Any:
        """Reports what came of the previous actions and returns the next ones.

        Arguments as in `Lanes`; with named groups, only a dict {group: Lanes}.

        Returns:
            The actions of the rows given, each leaf `[n, *shape]`; rows that leave are zeros.

        Raises:
            InvalidStep: the arguments do not fit; nothing was sent.
            RequestRefused: the server did not take them; the next step goes on from here.
            StepTimeout: with on_timeout="raise", at the deadline. The answer may still come:
                `receive_actions` waits for it, another `step` gives it up.
            SessionRefused, ServerClosed: the client is over.
        """
        deadline = math.inf if self._timeout_s is None else self._clock() + self._timeout_s
        answered = not self._queue or self._forget(deadline)
        self._check_usable()
        columns = self._book.prepare(
            obs, rewards, terminated, truncated, final_obs, first, leaving, lanes, mask, executed, metrics
        )  # fmt: skip
        if not answered:
            self._lose(columns)
            return self._book.substitute(obs, columns)
        request = self._submit(columns)
        while not request.done:
            if not self._advance(deadline):
                self._miss(request)
                return self._book.substitute(obs, columns)
        self._queue.popleft()
        if request.error is not None:
            raise request.error
        return self._book.nested(request)

    def send_step(
        self,
        obs: Any,
        rewards: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        *,
        final_obs: Any = None,
        first: Any = None,
        leaving: Any = None,
        lanes: Any = None,
        mask: Any = None,
        executed: Any = None,
        metrics: Any = None,
    ) -> None:
        """The first half of `step`; `receive_actions` is the second.

        Two steps of disjoint lanes may be under way at once, which hides the round trip behind
        the simulator's own work. Arguments and errors as in `step`.
        """
        if any(request.late for request in self._queue):
            raise InvalidStep(
                "expected step() or receive_actions(), as an earlier step missed its deadline."
            )
        self._check_usable()
        columns = self._book.prepare(
            obs, rewards, terminated, truncated, final_obs, first, leaving, lanes, mask, executed, metrics
        )  # fmt: skip
        if self._queue:
            self._book.check_disjoint(columns, self._queue)
        self._submit(columns)

    def receive_actions(self, timeout_s: float | None = None) -> Any:
        """The actions of the oldest step sent; None where they did not come in `timeout_s`.

        Args:
            timeout_s: None: wait for ever; 0: only look.

        Raises:
            RequestRefused, SessionRefused, ServerClosed: as in `step`.
        """
        if not self._queue or self._queue[0].abandoned:
            raise InvalidStep("expected a step under way, got none: call send_step() first.")
        self._check_usable()
        deadline = math.inf if timeout_s is None else self._clock() + timeout_s
        request = self._queue[0]
        while not request.done:
            if not self._advance(deadline):
                return None
        self._queue.popleft()
        if request.error is not None:
            raise request.error
        return self._book.nested(request)

    def ping(self, timeout_s: float | None = None) -> float:
        """Seconds until the server's program (not its I/O thread) answered.

        Raises:
            StepTimeout: it did not, within `timeout_s` (None: the client's own deadline).
        """
        self._check_usable()
        limit = self._timeout_s if timeout_s is None else timeout_s
        began = self._clock()
        deadline = math.inf if limit is None else began + limit
        while True:
            token = self._rng.getrandbits(63)
            sent = self._clock()
            self._connection.ping(token)
            self._perform()
            while token not in self._pongs:
                if not self._advance(min(deadline, sent + 1.0)):
                    break
            if token in self._pongs:
                self._pongs.clear()
                return self._clock() - sent
            if self._clock() >= deadline:
                raise StepTimeout(
                    f"expected a PONG within {limit} s, got nothing: is the server there?"
                )

    def close(self, reason: str = "done") -> None:
        """Says BYE and ends. Open episodes count as interrupted. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._connection.session_id is not None and self._connection.over is None:
            self._transport.send(encode(Bye(reason[:1024])))
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.close("done" if kind is None else kind.__name__)

    # -- building and sending ------------------------------------------------------------------------

    def _submit(self, columns: list[Columns | None]) -> StepRequest:
        request = self._book.request(columns)
        frame = self._connection.submit(request, self._clock())
        self._queue.append(request)
        if request.open_before is not None:
            self._book.commit(columns)
        if frame is not None:
            self._transport.send(frame)
        return request

    def _advance(self, deadline: float) -> bool:
        """Handles the next frame or timer; False at the deadline, with nothing left to read."""
        connection = self._connection
        if connection.over is not None:
            raise connection.over
        wait = min(connection.retry_at, deadline) - self._clock()
        try:
            frame = self._transport.receive(None if wait == math.inf else max(0.0, wait))
        except ConnectionError:
            frame = None
            connection.broken(self._clock())
        now = self._clock()
        if frame is not None:
            connection.received(frame, now)
        else:
            connection.tick(now)
        if connection.effects:
            self._perform()
        return frame is not None or now < deadline

    def _perform(self) -> None:
        """Does what the connection asks for, in order."""
        effects, self._connection.effects = self._connection.effects, []
        for effect in effects:
            if isinstance(effect, Send):
                self._transport.send(effect.frame)
            elif isinstance(effect, Answered):
                self._on_answer(effect.request, effect.groups)
            elif isinstance(effect, Refused):
                self._on_refusal(effect.request, effect.error)
            elif isinstance(effect, Welcomed):
                self._on_welcome(effect)
            elif isinstance(effect, Reconnect):
                self._transport.reconnect()
            elif isinstance(effect, Move):
                self._transport.move(effect.path)
            elif isinstance(effect, Told):
                self._on_event(effect.event.kind, effect.event.data)
            elif isinstance(effect, Delayed):
                self._on_delay(effect.error)
            elif isinstance(effect, Unheard):
                self._on_silence(effect.seconds)
            elif isinstance(effect, Ponged):
                self._pongs.add(effect.token)
        over = self._connection.over
        if over is not None and any(isinstance(effect, Over) for effect in effects):
            raise over

    # -- what the server says ---------------------------------------------------------------------------

    def _on_answer(self, request: StepRequest, groups: list[Any]) -> None:
        try:
            self._book.answer(request, groups)
        except (ValueError, TypeError) as error:
            over = SessionRefused(
                ErrorCode.MALFORMED, f"its actions do not fit the action space: {error}."
            )
            self._connection.over = over
            raise over from None

    def _on_refusal(self, request: StepRequest, error: Error) -> None:
        request.error = RequestRefused(error)
        request.done = True
        if not request.abandoned:
            self._book.take_back(request)

    def _on_welcome(self, effect: Welcomed) -> None:
        welcome = effect.welcome
        self.limits = welcome.limits
        self._delayed_by = None
        self.paused = self.draining = False
        self._book.played_by(welcome.groups)
        if effect.replaced:
            self._book.introduce_again(self._queue)
        self._set_parameters(welcome.parameters)

    def _on_delay(self, error: Error) -> None:
        if error.code != self._delayed_by:  # once, not at every repeat
            log.warning("the server makes us wait (%s): %s", error.code, error.text)
        self._delayed_by = error.code

    def _on_silence(self, seconds: float) -> None:
        address = self._address or "the server"
        log.warning(
            "expected a policy server at %s, heard nothing for %.0f s: start one there (policy-server "
            "serve --bind %s), or give its real address; asking on until it answers.",
            address, seconds, address,
        )  # fmt: skip

    def _on_event(self, kind: str, data: dict[str, Any]) -> None:
        if kind == EventKind.PARAMETERS:
            self._set_parameters(data)
        elif kind in (EventKind.PAUSE, EventKind.RESUME):
            self.paused = kind == EventKind.PAUSE
        elif kind in (EventKind.DRAIN, EventKind.SHUTDOWN):
            self.draining = True

    def _set_parameters(self, data: dict[str, Any]) -> None:
        changed = {key: value for key, value in data.items() if self.parameters.get(key) != value}
        if changed:
            self.parameters.update(changed)
            if self.on_parameters is not None:
                self.on_parameters(dict(self.parameters))

    # -- doing without -----------------------------------------------------------------

    def _forget(self, deadline: float) -> bool:
        """Gives up the steps whose answers did not come in time; True once none is unanswered."""
        if not all(request.late for request in self._queue):
            raise InvalidStep("expected receive_actions() before step(), as a step is under way.")
        for request in self._queue:
            if not request.abandoned:
                self._book.abandon(request)
        # An engine with a fallback must not wait twice for the same answer.
        until = deadline if self._on_timeout == "raise" else self._clock()
        while not all(request.done for request in self._queue):
            if not self._advance(until):
                return False
        self._queue.clear()
        return True

    def _miss(self, request: StepRequest) -> None:
        """The deadline of a step has passed."""
        request.late = True
        if self._on_timeout == "raise":
            raise StepTimeout(
                f"expected actions within {self._timeout_s} s, got none: call receive_actions() to "
                "go on waiting, or step() to go on without."
            )
        self._book.abandon(request)

    def _lose(self, columns: list[Columns | None]) -> None:
        """The step is not sent at all, because an earlier one is unanswered."""
        self.stats.sent += 1
        self.stats.lost_steps += 1
        self._book.lose(columns)
        if self._on_timeout == "raise":
            raise StepTimeout(
                f"expected the answer to an earlier step within {self._timeout_s} s, got none: this "
                "step is lost; its lanes carry on with the next one that can be sent."
            )

    def _check_usable(self) -> None:
        if self._connection.over is not None:
            raise self._connection.over
        if self._closed:
            raise InvalidStep("expected an open client, got a closed one: make a new one.")


def _package_version() -> str:
    try:
        return version("policy-server")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed
