"""The rules on sequence, repeats and sessions: events in, effects out, no socket, no time."""

from __future__ import annotations

import math

import pytest
from client_rigs import Even

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
    Told,
    Unheard,
    Welcomed,
)
from sim_clients.errors import InvalidStep, ServerClosed, SessionRefused
from sim_clients.protocol import (
    LOCAL_SOCKET,
    Actions,
    Bye,
    Discrete,
    Error,
    ErrorCode,
    Event,
    GroupSpec,
    Hello,
    Ping,
    Pong,
    Welcome,
    decode,
    encode,
)

SESSION, OTHER = b"S" * 16, b"T" * 16
LIMITS = {"window": 2, "max_message_bytes": 100}


class Note:
    """A request whose frame shows its number and how often it was re-introduced."""

    def __init__(self, name: str):
        self.name = name
        self.reintroduced = 0
        self.frame = b""

    def encode(self, seq: int) -> bytes:
        self.frame = f"{self.name}:{seq}:{self.reintroduced}".encode()
        return self.frame

    def reintroduce(self) -> None:
        self.reintroduced += 1

    def read(self, frame: bytes, at: int) -> bool:
        return False


def connection(capabilities: tuple[str, ...] = (), **options) -> Connection:
    hello = Hello(
        1,
        ("t", "1"),
        b"R" * 16,
        None,
        None,
        capabilities,
        None,
        (GroupSpec("a", Discrete(2), Discrete(2), 1),),
    )
    return Connection(hello, now=0.0, rng=Even(), **options)


def submit(c: Connection, note: Note, now: float) -> None:
    """What the simulator's thread does: what is to be sent, is sent at once."""
    frame = c.submit(note, now)
    if frame is not None:
        c.effects.append(Send(frame))


def take(c: Connection) -> list:
    effects, c.effects = c.effects, []
    return effects


def frames(c: Connection) -> list[bytes]:
    """Frames sent since the last look; nothing else may have happened, but complaints of silence."""
    effects = [e for e in take(c) if not isinstance(e, Unheard)]
    assert all(isinstance(e, Send) for e in effects), effects
    return [e.frame for e in effects]


def welcome(c, session=SESSION, epoch=1, resumed=False, next_seq=1, now=0.0, **changes):
    message = Welcome(1, session, epoch, resumed, next_seq, LIMITS, (("p", 0),), {})
    c.received(encode(message._replace(**changes)), now)


def ready(**options) -> Connection:
    c = connection(**options)
    welcome(c)
    take(c)
    return c


def actions(c, seq, epoch=1, now=0.0):
    c.received(encode(Actions(seq, epoch, [None])), now)


def error(c, code, seq=None, fatal=False, now=0.0):
    c.received(encode(Error(code, fatal, seq, "because")), now)


def resume_of(frame: bytes) -> bytes | None:
    message = decode(frame)
    assert isinstance(message, Hello)
    return message.resume


def balance(c: Connection) -> bool:
    s = c.stats
    return s.sent == s.acknowledged + s.refused + s.lost_steps + c.in_flight


def test_says_hello_first_and_holds_the_step_until_welcome():
    c = connection()
    (hello,) = frames(c)
    assert resume_of(hello) is None
    submit(c, Note("a"), 0.0)
    assert frames(c) == []
    welcome(c)
    met, sent = take(c)
    assert isinstance(met, Welcomed)
    assert not met.replaced
    assert sent == Send(b"a:1:0")
    assert c.session_id == SESSION
    assert c.epoch == 1


def test_numbers_rise_by_one_and_answers_find_their_request():
    c = ready()
    first, second = Note("a"), Note("b")
    submit(c, first, 0.0)
    submit(c, second, 0.0)
    assert frames(c) == [b"a:1:0", b"b:2:0"]
    actions(c, 2)
    actions(c, 1)
    assert [e.request for e in take(c)] == [second, first]
    assert c.stats.acknowledged == 2
    assert balance(c)


def test_window_is_what_welcome_says():
    c = connection()
    submit(c, Note("a"), 0.0)
    with pytest.raises(InvalidStep, match="at most 1 unanswered"):
        submit(c, Note("b"), 0.0)
    welcome(c)
    submit(c, Note("b"), 0.0)
    with pytest.raises(InvalidStep, match="at most 2 unanswered"):
        submit(c, Note("c"), 0.0)
    assert c.stats.sent == 2


def test_a_frame_over_the_limit_is_refused_here_and_uses_no_number():
    c = ready()
    with pytest.raises(InvalidStep, match="at most 100 bytes"):
        submit(c, Note("x" * 200), 0.0)
    submit(c, Note("a"), 0.0)
    assert frames(c) == [b"a:1:0"]


def test_repeats_the_same_bytes_and_backs_off_to_the_limit():
    c = ready(silent_retries=100)
    submit(c, Note("a"), 10.0)
    take(c)
    waits, now = [], 10.0
    for _ in range(6):
        waits.append(c.retry_at - now)
        now = c.retry_at
        c.tick(now - 1e-6)
        assert frames(c) == []
        c.tick(now)
        assert frames(c) == [b"a:1:0"]
    assert waits == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0, 5.0])
    assert c.stats.retries == 6
    actions(c, 1, now=now)
    assert c.retry_at == math.inf
    submit(c, Note("b"), now)
    assert c.retry_at - now == pytest.approx(0.5)


def test_jitter_stays_within_a_fifth():
    waits = set()
    for _ in range(50):
        c = Connection(connection()._hello, now=0.0)
        waits.add(c.retry_at)
    assert len(waits) > 40
    assert all(0.4 <= wait <= 0.6 for wait in waits)


def test_wait_means_patience_not_silence():
    c = ready(silent_retries=2)
    submit(c, Note("a"), 0.0)
    take(c)
    now = 0.0
    for _ in range(10):
        c.received(encode(Event("wait", 1, {})), now)
        assert c.retry_at - now == pytest.approx(5.0)
        now = c.retry_at
        c.tick(now)
        assert frames(c) == [b"a:1:0"]  # never a reconnect
    assert c.stats.waits == 10
    assert c.stats.reconnects == 0


def test_silence_brings_a_new_socket_and_a_resuming_hello():
    c = ready(silent_retries=3)
    submit(c, Note("a"), 0.0)
    take(c)
    for _ in range(2):
        c.tick(c.retry_at)
        assert frames(c) == [b"a:1:0"]
    c.tick(c.retry_at)
    reconnect, hello = (e for e in take(c) if not isinstance(e, Unheard))
    assert isinstance(reconnect, Reconnect)
    assert resume_of(hello.frame) == SESSION
    welcome(c, resumed=True, next_seq=2)
    assert [e for e in take(c) if isinstance(e, Send)] == [Send(b"a:1:0")]
    actions(c, 1)
    assert isinstance(take(c)[0], Answered)
    assert c.stats.reconnects == 1
    assert c.stats.sessions == 1


def test_greetings_are_repeated_too():
    c = connection(silent_retries=3)
    take(c)
    kinds = []
    for _ in range(6):
        c.tick(c.retry_at)
        kinds.append([type(e).__name__ for e in take(c) if not isinstance(e, Unheard)])
    assert kinds == [["Send"], ["Send"], ["Reconnect", "Send"]] * 2


def test_silence_is_complained_of_once_until_something_is_heard():
    c = ready(silent_retries=100)
    for _ in range(2):
        submit(c, Note("a"), 100.0)
        said = []
        for _ in range(8):
            c.tick(c.retry_at)
            said += [e for e in take(c) if isinstance(e, Unheard)]
        assert said == [Unheard(pytest.approx(3.5))]
        actions(c, c.next_seq - 1)
        take(c)


def test_a_server_that_says_wait_is_heard():
    c = ready()
    submit(c, Note("a"), 0.0)
    for _ in range(8):
        c.tick(c.retry_at)
        assert not any(isinstance(e, Unheard) for e in take(c))
        c.received(encode(Event("wait", 1, {})), c.retry_at)


def test_late_and_repeated_answers_are_ignored():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    actions(c, 1)
    take(c)
    actions(c, 1)
    actions(c, 7)
    assert take(c) == []
    assert c.stats.acknowledged == 1


def test_forgotten_connection_is_resumed_with_the_same_bytes():
    c = ready()
    submit(c, Note("a"), 0.0)
    submit(c, Note("b"), 0.0)
    take(c)
    error(c, ErrorCode.UNKNOWN_SESSION, seq=1)
    (hello,) = frames(c)
    assert resume_of(hello) == SESSION
    error(c, ErrorCode.UNKNOWN_SESSION, seq=2)
    assert frames(c) == []  # one HELLO is enough
    welcome(c, resumed=True, next_seq=1)
    assert [e for e in take(c) if isinstance(e, Send)] == [Send(b"a:1:0"), Send(b"b:2:0")]


def test_lost_session_starts_from_one_with_rewritten_requests():
    c = ready()
    submit(c, Note("z"), 0.0)
    actions(c, 1)
    a, b = Note("a"), Note("b")
    submit(c, a, 0.0)
    submit(c, b, 0.0)
    take(c)
    error(c, ErrorCode.UNKNOWN_SESSION, seq=2)
    take(c)
    welcome(c, session=OTHER, epoch=9)
    met, *sent = take(c)
    assert met.replaced
    assert sent == [Send(b"a:1:1"), Send(b"b:2:1")]
    assert (c.session_id, c.epoch, c.stats.sessions) == (OTHER, 9, 2)
    actions(c, 1, epoch=9)
    actions(c, 2, epoch=9)
    submit(c, Note("c"), 0.0)
    assert take(c)[-1] == Send(b"c:3:0")
    assert balance(c)


def test_another_epoch_alone_is_reason_enough():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    actions(c, 1, epoch=2)
    (hello,) = frames(c)
    assert resume_of(hello) == SESSION
    welcome(c, session=OTHER, epoch=2)
    assert take(c)[-1] == Send(b"a:1:1")
    c.ping(5)
    take(c)
    c.received(encode(Pong(5, 3)), 0.0)
    ponged, hello = take(c)
    assert ponged == Ponged(5)
    assert resume_of(hello.frame) == OTHER


def test_resumed_into_another_session_counts_as_lost():
    # A repeated HELLO: the new server resumes the session that the first copy opened.
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    error(c, ErrorCode.UNKNOWN_SESSION, seq=1)
    take(c)
    welcome(c, session=OTHER, epoch=2, resumed=True, next_seq=1)
    met, sent = take(c)
    assert met.replaced
    assert sent == Send(b"a:1:1")
    welcome(c, session=OTHER, epoch=2, resumed=True, next_seq=1)
    assert take(c) == []


def test_a_server_that_always_forgets_does_not_get_a_busy_loop():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    hellos = 0
    for _ in range(20):
        error(c, ErrorCode.UNKNOWN_SESSION, seq=1)
        sent = frames(c)
        hellos += len(sent)
        if not sent:
            break
        welcome(c, resumed=True, next_seq=1)
        take(c)
    assert hellos == 2
    assert c.retry_at == pytest.approx(5.0)
    c.tick(c.retry_at)
    assert len(frames(c)) == 1


def test_refused_number_is_used_again():
    c = ready()
    bad = Note("bad")
    submit(c, bad, 0.0)
    take(c)
    error(c, ErrorCode.BAD_REWARD, seq=1)
    (refused,) = take(c)
    assert isinstance(refused, Refused)
    assert refused.request is bad
    assert refused.error.code == ErrorCode.BAD_REWARD
    submit(c, Note("good"), 0.0)
    assert frames(c) == [b"good:1:0"]
    assert c.stats.refused == 1
    assert balance(c)


def test_a_request_behind_a_refused_one_moves_down():
    c = ready()
    submit(c, Note("bad"), 0.0)
    behind = Note("b")
    submit(c, behind, 0.0)
    take(c)
    error(c, ErrorCode.BAD_FLAGS, seq=1)
    refused, sent = take(c)
    assert isinstance(refused, Refused)
    assert sent == Send(b"b:1:0")
    error(c, ErrorCode.BAD_SEQUENCE, seq=2)  # the server saw the old number 2 as well
    assert take(c) == []
    actions(c, 1)
    assert take(c)[0].request is behind


def test_refusals_of_repeats_do_not_hit_the_successor():
    c = ready()
    submit(c, Note("bad"), 0.0)
    c.tick(c.retry_at)
    c.tick(c.retry_at)  # said three times
    take(c)
    for _ in range(3):
        error(c, ErrorCode.BAD_REWARD, seq=1)
        if c.stats.refused == 1 and not c.in_flight:
            submit(c, Note("good"), 5.0)
    assert c.stats.refused == 1
    assert c.in_flight == 1
    error(c, ErrorCode.BAD_REWARD, seq=1)  # this one is for the successor
    assert c.stats.refused == 2


def test_what_waited_for_the_first_welcome_is_no_repeat():
    c = connection()
    take(c)
    submit(c, Note("bad"), 0.0)
    welcome(c)
    assert take(c)[-1] == Send(b"bad:1:0")
    error(c, ErrorCode.BAD_REWARD, seq=1)
    assert isinstance(take(c)[0], Refused)
    worse = Note("worse")
    submit(c, worse, 0.0)
    assert frames(c) == [b"worse:1:0"]
    error(c, ErrorCode.BAD_REWARD, seq=1)  # no echo: "bad" was said once
    (refused,) = take(c)
    assert refused.request is worse
    assert c.stats.refused == 2
    assert balance(c)


def test_error_without_number_refuses_the_oldest():
    c = ready()
    a = Note("a")
    submit(c, a, 0.0)
    take(c)
    error(c, ErrorCode.INTERNAL)
    (refused,) = take(c)
    assert refused.request is a
    assert refused.error.seq == 1


def test_out_of_step_asks_where_the_server_stands_then_gives_up():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    for _ in range(2):
        error(c, ErrorCode.BAD_SEQUENCE, seq=1)
        (hello,) = frames(c)
        assert resume_of(hello) == SESSION
        welcome(c, resumed=True, next_seq=1)
        assert take(c)[-1] == Send(b"a:1:0")
    error(c, ErrorCode.BAD_SEQUENCE, seq=1)
    assert isinstance(take(c)[0], Refused)


def test_resuming_at_an_impossible_number_ends_it():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    error(c, ErrorCode.UNKNOWN_SESSION, seq=1)
    take(c)
    welcome(c, resumed=True, next_seq=9)
    (over,) = take(c)
    assert isinstance(over.error, SessionRefused)
    assert over.error.code == ErrorCode.BAD_SEQUENCE


@pytest.mark.parametrize(
    ("code", "fatal"), [(ErrorCode.UNAUTHORIZED, True), (ErrorCode.CONFLICTING_RETRY, False)]
)
def test_what_ends_a_session(code, fatal):
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    error(c, code, seq=1, fatal=fatal)
    (over,) = take(c)
    assert isinstance(over, Over)
    assert isinstance(over.error, SessionRefused)
    assert c.retry_at == math.inf
    with pytest.raises(SessionRefused, match=code):
        submit(c, Note("b"), 0.0)
    welcome(c)
    assert take(c) == []


def test_a_server_that_is_full_or_stopping_is_asked_again():
    c = connection()
    take(c)
    for code in (ErrorCode.SHUTTING_DOWN, ErrorCode.LIMIT_EXCEEDED):
        error(c, code)
        (delayed,) = take(c)
        assert isinstance(delayed, Delayed)
        c.tick(c.retry_at)
        assert len(frames(c)) == 1
    error(c, ErrorCode.MALFORMED)
    assert isinstance(take(c)[0].error, SessionRefused)


def test_shutdown_is_told_and_final_shutdown_is_final():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    c.received(encode(Event("shutdown", None, {"reason": "update"})), 0.0)
    (told,) = take(c)
    assert isinstance(told, Told)
    c.tick(c.retry_at)
    assert frames(c) == [b"a:1:0"]
    c.received(encode(Event("shutdown", None, {"final": True, "reason": "enough"})), 0.0)
    told, over = take(c)
    assert isinstance(over.error, ServerClosed)
    assert "enough" in str(over.error)


def test_what_cannot_be_read_is_counted_only():
    c = ready()
    submit(c, Note("a"), 0.0)
    take(c)
    for frame in (
        b"",
        b"\xc1",
        encode(Bye("x")),
        encode(Ping(1)),
        b"\x92\x04\x01",
        b"\x94\x04\x01\x01\xa1x",
    ):
        c.received(frame, 0.0)
    assert take(c) == []
    assert c.stats.unreadable == 6
    actions(c, 1)
    assert isinstance(take(c)[0], Answered)


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"groups": ()}, {"limits": {"window": 0}}, {"limits": {"window": "2"}}],
)
def test_welcome_that_does_not_fit_ends_it(changes):
    c = connection()
    take(c)
    welcome(c, **changes)
    assert isinstance(take(c)[0].error, SessionRefused)


def test_it_moves_once_whatever_the_next_welcome_names():
    """A path in every WELCOME, each another one, must not keep the two of us greeting."""
    c = connection((LOCAL_SOCKET,))
    take(c)
    welcome(c, limits={**LIMITS, LOCAL_SOCKET: "/one"})
    move, hello = take(c)
    assert (move, decode(hello.frame).run_id) == (Move("/one"), b"R" * 16)
    assert not c.ready
    welcome(c, limits={**LIMITS, LOCAL_SOCKET: "/two"})
    assert [type(effect) for effect in take(c)] == [Welcomed]
    assert c.ready
    c.broken(1.0)
    take(c)
    welcome(c, resumed=True, limits={**LIMITS, LOCAL_SOCKET: "/one"})
    assert c.ready, "that one was tried already"
    take(c)
    c.broken(2.0)
    take(c)
    welcome(c, resumed=True, limits={**LIMITS, LOCAL_SOCKET: "/two"})
    assert take(c)[0] == Move("/two")
