"""One session with a server, without I/O: events in, effects out.

Events: a frame came (`received`), time passed (`tick`), the simulator has a STEP (`submit`).
Effects pile up in `effects` in the order in which they must happen; whoever owns the socket
takes them all after every event. The two events of every step go without: `submit` returns the
frame to send, and a plain answer goes to its request. `retry_at` says when the next `tick` is due.

    greeting --WELCOME--> ready --unknown_session, another epoch, silence--> greeting
        any --fatal ERROR, EVENT shutdown {final}--> over
"""

from __future__ import annotations

import math
import random
from typing import Any
from typing import Protocol as Interface

from sim_clients.effects import (
    Answered,
    Delayed,
    Effect,
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
from sim_clients.errors import ClientError, InvalidStep, ServerClosed, SessionRefused
from sim_clients.layout import ACTIONS, pack
from sim_clients.protocol import (
    LOCAL_SOCKET,
    PROTOCOL_VERSION,
    Error,
    ErrorCode,
    Event,
    EventKind,
    Hello,
    MessageType,
    Ping,
    Pong,
    ProtocolError,
    Welcome,
    encode,
    unpack,
)
from sim_clients.protocol.codec import read

_ACTIONS = int(MessageType.ACTIONS)
_JITTER = 0.2
_LATER = frozenset({ErrorCode.LIMIT_EXCEEDED, ErrorCode.INTERNAL})  # may be over by the next HELLO
_UNHEARD_S = 3.0  # the third repeat of whoever begins with half a second
_PROMPT_GREETINGS = 2  # re-introductions in a row without an answered STEP, before backing off


class Request(Interface):
    """A STEP that may have to be said again, perhaps to a server that knows nothing of it."""

    frame: bytes
    """As it was encoded last."""

    def encode(self, seq: int) -> bytes:
        """The frame under this number; the same bytes for the same number."""

    def reintroduce(self) -> None:
        """Rewrites the rows for a server that saw nothing of what came before."""

    def read(self, frame: bytes, at: int) -> bool:
        """Takes its answer from an ACTIONS frame whose groups begin at `at`, where that is easy.
        False: nothing was taken, and `Answered` follows if it is an answer at all."""


class Connection:
    """The client's half of the protocol's rules on sequence, repeats and sessions.

    Args:
        hello: the introduction; its `resume` is filled in here.
        now: seconds on any monotonic clock; the same clock for all later calls.
        retry_s: first wait for an answer; doubled at each repeat up to `max_retry_s`, +-20 %.
        silent_retries: repeats without hearing anything at all, before the socket is replaced.

    Attributes:
        effects: what the owner must now do, in order.
        retry_at: time of the next `tick`; infinite while nothing is awaited.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        now: float,
        retry_s: float = 0.5,
        max_retry_s: float = 5.0,
        silent_retries: int = 4,
        rng: random.Random | None = None,
    ):
        if not retry_s > 0:
            raise ValueError(f"retry_s: expected seconds above 0, got {retry_s}.")
        self.effects: list[Effect] = []
        self.stats = Stats()
        self.retry_at = math.inf
        self.session_id: bytes | None = None
        self.epoch: int | None = None
        self._packed_epoch = b""
        self.window = 1
        self.max_message_bytes: int | None = None
        self.over: ClientError | None = None
        self.next_seq = 1
        self._hello = hello
        self._retry_s = retry_s
        self._max_retry_s = max(retry_s, max_retry_s)
        self._silent_retries = silent_retries
        self._rng = rng or random.Random()
        self._pending: dict[int, Request] = {}  # by number, in order
        self._interval = retry_s
        self._jitter = 1.0
        self._silent = 0
        self._unheard_since: float | None = None  # of the first frame that was not answered in time
        self._unheard_said = False
        self._greetings = 0  # since the last answered STEP
        self._repeats: dict[int, int] = {}  # number -> times its STEP was said again
        self._echoes: dict[int, int] = {}  # number -> ERRORs still to come for a refused STEP
        self._greeting = True
        self._tried: set[str] = set()  # local sockets that we moved to, or could not
        self._moved = False  # since we began to greet: the next WELCOME counts, whatever it names
        self._send_hello()
        self._vary()
        self._arm(now)

    @property
    def ready(self) -> bool:
        """True while a session stands."""
        return not self._greeting and self.over is None

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    # -- events ------------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> bytes | None:
        """The simulator has a STEP. -> The frame to send; None: it waits here for a WELCOME.

        Raises:
            InvalidStep: the window is full, or the frame exceeds the server's limit.
        """
        if self.over is not None:
            raise self.over
        # Nobody knows the window before WELCOME; every server grants one.
        if len(self._pending) >= self.window:
            raise InvalidStep(
                f"expected at most {self.window} unanswered steps, got one more: call "
                "receive_actions() first."
            )
        frame = request.encode(self.next_seq)
        limit = self.max_message_bytes
        if limit is not None and len(frame) > limit:
            raise InvalidStep(
                f"expected a message of at most {limit} bytes, got {len(frame)}: send fewer lanes "
                "per step, or raise the server's max_message_bytes."
            )
        self._pending[self.next_seq] = request
        self.next_seq += 1
        self.stats.sent += 1
        if self._greeting:
            return None
        if len(self._pending) == 1:
            self._interval = self._retry_s
            self.retry_at = now + self._interval * self._jitter
        return frame

    def ping(self, token: int) -> None:
        """Asks for a sign of life of the server's program; a `Ponged` with this token follows."""
        if self.over is not None:
            raise self.over
        self.effects.append(Send(encode(Ping(token))))

    def tick(self, now: float) -> None:
        """Time passed: repeats what is unanswered, once it is due."""
        if now < self.retry_at or self.over is not None:
            return
        self.stats.retries += 1
        self._silent += 1
        if self._unheard_since is None:
            self._unheard_since = now - self._interval * self._jitter
        elif now - self._unheard_since >= _UNHEARD_S and not self._unheard_said:
            self._unheard_said = True
            self.effects.append(Unheard(now - self._unheard_since))
        self._interval = min(2 * self._interval, self._max_retry_s)
        self._vary()
        if self._silent >= self._silent_retries:
            # A connection can be half open for hours; a new one finds out at once.
            self._start_over()
        if self._greeting:
            self._send_hello()
        else:
            self._say_again()
        self._arm(now)

    def broken(self, now: float) -> None:
        """The socket is known to be of no use any more."""
        if self.over is not None:
            return
        if self._greeting:
            self._interval = min(2 * self._interval, self._max_retry_s)
        self._start_over()
        self._send_hello()
        self._arm(now)

    def _start_over(self) -> None:
        self._silent = 0
        self.stats.reconnects += 1
        self._greeting = True
        self._moved = False
        self._repeats.clear()
        self._echoes.clear()
        self.effects.append(Reconnect())

    def received(self, frame: bytes, now: float) -> None:
        """A frame came; what cannot be read is counted and otherwise ignored."""
        if self.over is not None:
            return
        self._silent = 0
        if self._unheard_since is not None:
            self._unheard_since, self._unheard_said = None, False
        if not self._greeting:
            for seq, request in self._pending.items():
                start = ACTIONS + pack(seq) + self._packed_epoch
                if frame.startswith(start) and request.read(frame, len(start)):
                    self._acknowledge(seq, now)
                    return
        try:
            data = unpack(frame)
            if data[0] == _ACTIONS:
                # Not by `read`: the columns are for the request to judge.
                _, seq, epoch, groups = data
                if type(seq) is not int or type(epoch) is not int or type(groups) is not list:
                    raise ValueError
                self._on_actions(seq, epoch, groups, now)
                return
            message = read(data)
        except (ProtocolError, ValueError):
            self.stats.unreadable += 1
            return
        if isinstance(message, Error):
            self._on_error(message, now)
        elif isinstance(message, Event):
            self._on_event(message, now)
        elif isinstance(message, Welcome):
            self._on_welcome(message, now)
        elif isinstance(message, Pong):
            self.effects.append(Ponged(message.token))
            self._check_epoch(message.epoch, now)
        else:
            self.stats.unreadable += 1  # a message only simulators send

    # -- one handler per message ---------------------------------------------------------------

    def _on_actions(self, seq: int, epoch: int, groups: list[Any], now: float) -> None:
        if not self._check_epoch(epoch, now):
            return
        request = self._pending.get(seq)
        if request is None:
            return  # a repeat of an answer that was already here
        self._acknowledge(seq, now)
        self.effects.append(Answered(request, groups))

    def _acknowledge(self, seq: int, now: float) -> None:
        del self._pending[seq]
        self.stats.acknowledged += 1
        self._greetings = 0
        if self._repeats:
            self._repeats.pop(seq, None)
        if not self._greeting:
            self._interval = self._retry_s
            self.retry_at = now + self._interval * self._jitter if self._pending else math.inf

    def _on_welcome(self, welcome: Welcome, now: float) -> None:
        if not self._greeting and welcome.session_id == self.session_id:
            return  # the answer to a repeated HELLO
        limits, window = welcome.limits, welcome.limits.get("window", 1)
        size = limits.get("max_message_bytes")
        if (
            welcome.version != PROTOCOL_VERSION
            or len(welcome.groups) != len(self._hello.groups)
            or type(window) is not int
            or window < 1
            or type(size) not in (int, type(None))
        ):
            self._end(SessionRefused(ErrorCode.MALFORMED, "its WELCOME does not fit our HELLO."))
            return
        path = limits.get(LOCAL_SOCKET)
        if (
            type(path) is str
            and not self._moved
            and path not in self._tried
            and LOCAL_SOCKET in self._hello.capabilities
        ):
            # The same session once more, through the other door; or through this one again, if
            # that cannot be opened.
            self._tried.add(path)
            self._moved = True
            self.effects.append(Move(path))
            self._greeting = True
            self._send_hello()
            self._arm(now)
            return
        first = self.session_id is None
        replaced = not first and not (welcome.resumed and welcome.session_id == self.session_id)
        oldest = next(iter(self._pending), self.next_seq)
        if welcome.resumed and not replaced and not oldest <= welcome.next_seq <= self.next_seq:
            self._end(
                SessionRefused(
                    ErrorCode.BAD_SEQUENCE,
                    f"expected the resumed session to go on between steps {oldest} and "
                    f"{self.next_seq}, got {welcome.next_seq}: start the simulator anew.",
                )
            )
            return
        if replaced or first:
            self.stats.sessions += 1
        self.session_id, self.epoch = welcome.session_id, welcome.epoch
        self._packed_epoch = pack(welcome.epoch)
        self.window, self.max_message_bytes = window, size
        self._greeting = self._moved = False
        if replaced:
            for request in self._pending.values():
                request.reintroduce()
            self._renumber(1)
        self.effects.append(Welcomed(welcome, replaced))
        if replaced:
            self._repeats.clear()
            self._echoes.clear()
        if replaced or first:
            # This session has heard none of it: one sending, so one refusal, and no echo of it.
            self.effects.extend(Send(request.frame) for request in self._pending.values())
        else:
            self._say_again()
        self._interval = self._retry_s
        self._arm(now)

    def _on_event(self, event: Event, now: float) -> None:
        if event.kind == EventKind.WAIT:
            self.stats.waits += 1
            if event.seq in self._pending and not self._greeting:
                self._interval = self._max_retry_s
                self._arm(now)
            return
        self.effects.append(Told(event))
        if event.kind == EventKind.SHUTDOWN and event.data.get("final") is True:
            reason = event.data.get("reason", "no reason given")
            self._end(ServerClosed(f"the server has ended for good ({reason})."))

    def _on_error(self, error: Error, now: float) -> None:
        if error.fatal or error.code == ErrorCode.CONFLICTING_RETRY:
            # Two contents under one number: no later number of this session can be trusted.
            self._end(SessionRefused(error.code, error.text))
        elif error.code == ErrorCode.SHUTTING_DOWN or (self._greeting and error.code in _LATER):
            self.effects.append(Delayed(error))  # the repeat timer is the remedy
        elif error.code == ErrorCode.UNKNOWN_SESSION:
            self._introduce_again(now)
        elif error.seq is None and self._greeting:
            self._end(SessionRefused(error.code, error.text))
        else:
            # An error without a number answers what it could not read: the oldest request.
            seq = next(iter(self._pending), None) if error.seq is None else error.seq
            request = self._pending.get(seq) if seq is not None else None
            if seq is None or request is None:
                return
            if self._echoes.get(seq):
                self._echoes[seq] -= 1  # the refusal of a repeat of what had this number before
                return
            out_of_step = error.code == ErrorCode.BAD_SEQUENCE
            if out_of_step and self._greetings < _PROMPT_GREETINGS:
                self._introduce_again(now)  # WELCOME will say where the server stands
                return
            self._refuse(seq, request, error, now)

    # -- pieces --------------------------------------------------------------------------------

    def _refuse(self, seq: int, request: Request, error: Error, now: float) -> None:
        del self._pending[seq]
        self.stats.refused += 1
        self._echoes[seq] = self._repeats.pop(seq, 0)
        self.effects.append(Refused(request, error._replace(seq=seq)))
        # The server did not use the number up, so the requests behind it move down by one.
        oldest = next(iter(self._pending), seq)
        self._renumber(min(oldest, seq))
        if not self._greeting:
            self.effects.extend(Send(r.frame) for n, r in self._pending.items() if n >= seq)
        self._arm(now)

    def _say_again(self) -> None:
        for seq, request in self._pending.items():
            self._repeats[seq] = self._repeats.get(seq, 0) + 1
            self.effects.append(Send(request.frame))

    def _renumber(self, start: int) -> None:
        requests = list(self._pending.values())
        self._pending = dict(enumerate(requests, start))
        for seq, request in self._pending.items():
            request.encode(seq)
        self.next_seq = start + len(requests)

    def _check_epoch(self, epoch: int, now: float) -> bool:
        if epoch == self.epoch:
            return True
        if not self._greeting:
            self._introduce_again(now)
        return False

    def _introduce_again(self, now: float) -> None:
        if self._greeting:
            return  # a HELLO is under way already
        self._greeting = True
        self._greetings += 1
        self._interval = self._retry_s
        if self._greetings <= _PROMPT_GREETINGS:
            self._send_hello()
        else:
            # A server that forgets us at once must not turn the two of us into a busy loop.
            self._interval = self._max_retry_s
        self._arm(now)

    def _send_hello(self) -> None:
        self.effects.append(Send(encode(self._hello._replace(resume=self.session_id))))

    def _arm(self, now: float) -> None:
        if self._pending or self._greeting:
            self.retry_at = now + self._interval * self._jitter
        else:
            self.retry_at = math.inf

    def _vary(self) -> None:
        """Another jitter. One does until it has been waited for: most waits end with an answer."""
        self._jitter = 1 - _JITTER + 2 * _JITTER * self._rng.random()

    def _end(self, error: ClientError) -> None:
        self.over = error
        self.retry_at = math.inf
        self.effects.append(Over(error))
