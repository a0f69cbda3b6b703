"""Whatever strangers send, the server answers ERROR or counts a drop, and a well-behaved
simulator beside them never notices."""

from __future__ import annotations

import socket
import struct
from urllib.parse import urlsplit

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim_clients.protocol import GroupSpec, Hello, Step, StepGroup, decode, encode
from tests.gateway.ledger import ACTION, OBSERVATION
from tests.integration.live import Player, live

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

GROUP = GroupSpec("agent", OBSERVATION, ACTION, 2)
HELLO = encode(Hello(1, ("fuzz", "1"), b"f" * 16, None, None, (), None, (GROUP,), {}))
STEP = encode(Step(1, [StepGroup(None, b"\1\1", b"\0" * 8, [np.zeros((2, 4)).tobytes()], None)]))


class Stranger:
    """A raw DEALER beside a player who must never notice."""

    def __init__(self, world):
        self.world = world
        self.player = Player(1, world.address, None)
        self.player.client.connect()
        self.player.auditor = world.auditors["default_policy"]
        # What strangers say in good form is learned from, and bears no stamps.
        self.player.auditor.audit = lambda batch: None
        world.on_loop(lambda: world.gateway.train(None))
        self.player.play(3)
        self.token = 0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.fresh()

    def fresh(self):
        self.socket.close(0)
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(self.world.address)

    def say(self, *frames):
        """Sends frames and a PING; everything that came back before its PONG."""
        for frame in frames:
            self.socket.send(frame)
        return self.drain()

    def drain(self):
        """Everything that comes before the answer to a PING. A flood may cost its sender replies,
        that answer included (the server never waits for who does not read): it asks again."""
        replies = []
        for _ in range(5):
            self.token += 1
            self.socket.send(msgpack.packb([7, self.token]))
            while self.socket.poll(4000):
                message = decode(self.socket.recv())
                if type(message).__name__ != "Pong":
                    replies.append(message)
                elif message.token == self.token:
                    return replies
        raise AssertionError("the server fell silent")

    def check(self, replies):
        """Errors only; and the player plays on, undisturbed."""
        assert all(type(r).__name__ == "Error" for r in replies), replies
        stats = self.player.client.stats
        before = (stats.retries, stats.reconnects)
        self.player.play(2)
        assert (stats.retries, stats.reconnects) == before
        assert self.world.error is None

    def close(self):
        self.player.client.close()
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def stranger():
    with live(
        collection={"mode": "async"}, server={"max_message_bytes": 1 << 20, "seed": 1}
    ) as world:
        stranger = Stranger(world)
        yield stranger
        report = world.on_loop(world.gateway.report)
        assert report["policies"]["default_policy"]["accounting"]["balance"] == 0
        messages = report["messages"]
        handled = messages["accepted"] + messages["duplicate"] + sum(messages["rejected"].values())
        assert messages["received"] == handled
        assert "internal" not in messages["rejected"]
        stranger.close()


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8),
    st.binary(max_size=40),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@FUZZ
@given(data=st.binary(min_size=1, max_size=200))
def test_random_bytes(stranger, data):
    stranger.check(stranger.say(data))


@FUZZ
@given(
    number=st.integers(0, 12).filter(lambda n: n not in (7, 11)), body=st.lists(values, max_size=10)
)
def test_messages_with_wrong_fields(stranger, number, body):
    stranger.check(stranger.say(msgpack.packb([number, *body])))


@FUZZ
@given(
    cut=st.integers(1, len(HELLO) - 1), flip=st.integers(0, len(HELLO) - 1), bit=st.integers(0, 7)
)
def test_damaged_hello(stranger, cut, flip, bit):
    assert all(type(r).__name__ == "Error" for r in stranger.say(HELLO[:cut]))
    damaged = bytearray(HELLO)
    damaged[flip] ^= 1 << bit
    for reply in stranger.say(bytes(damaged), msgpack.packb([11, "bye"])):
        assert type(reply).__name__ in ("Error", "Welcome")
    stranger.check([])


def in_session(stranger, *frames):
    """Frames within a session of the stranger's own, which is fresh and ends behind them."""
    return stranger.say(HELLO, *frames, msgpack.packb([11, "bye"]))[1:]


@FUZZ
@given(lanes=values, flags=values, rewards=values, obs=values, extras=values)
def test_step_with_wrong_fields(stranger, lanes, flags, rewards, obs, extras):
    frame = msgpack.packb([3, 1, [[lanes, flags, rewards, obs, extras]]])
    stranger.check([r for r in in_session(stranger, frame) if type(r).__name__ != "Actions"])


@FUZZ
@given(
    flags=st.binary(min_size=2, max_size=2),
    rewards=st.lists(st.floats(width=32), min_size=2, max_size=2),
    obs=st.lists(st.floats(), min_size=8, max_size=8),
    extras=st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {},
            optional={
                "mask": st.binary(max_size=12),
                "final_obs": values,
                "action": values,
                "metrics": values,
            },
        ),
    ),
)
def test_step_with_wrong_values(stranger, flags, rewards, obs, extras):
    group = StepGroup(None, flags, struct.pack("<2f", *rewards), [struct.pack("<8d", *obs)], extras)
    frame = msgpack.packb([3, 1, [list(group)]])
    replies = in_session(stranger, frame)
    assert len(replies) == 1
    stranger.check([r for r in replies if type(r).__name__ != "Actions"])


@FUZZ
@given(flip=st.integers(0, len(STEP) - 1), bit=st.integers(0, 7))
def test_damaged_step(stranger, flip, bit):
    damaged = bytearray(STEP)
    damaged[flip] ^= 1 << bit
    replies = in_session(stranger, bytes(damaged))
    # A flipped bit can turn a STEP into another good message, or one with other numbers in it.
    stranger.check([r for r in replies if type(r).__name__ == "Error"])


@FUZZ
@given(session=st.binary(min_size=16, max_size=16), use_real=st.booleans())
def test_foreign_sessions(stranger, session, use_real):
    if use_real:
        session = stranger.player.client.session_id
    thief = Hello(1, ("t", "1"), b"t" * 16, session, "p1", (), None, (GROUP,), {})
    welcome, *_ = stranger.say(encode(thief), msgpack.packb([11, "bye"]))
    assert not welcome.resumed
    assert welcome.session_id != session
    stranger.check([])


BOMBS = {
    "deep": b"\x91" * 5000,
    "huge array": b"\xdd\xff\xff\xff\xff",
    "huge map": b"\xdf\xff\xff\xff\xff",
    "huge bin": b"\xc6\xff\xff\xff\xff",
    "bad utf-8": b"\x92\x0b\xa2\xff\xfe",
    "ext": b"\x92\x07\xd4\x01\x00",
    "timestamp": b"\x92\x07\xd6\xff\0\0\0\0",
    "same key twice": b"\x92\x07\x82\xa1a\x01\xa1a\x02",
    "trailing": msgpack.packb([7, 1]) + b"\0",
    "pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "empty": b"",
    "reserved": msgpack.packb([5, 1, 2]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(stranger, name):
    replies = stranger.say(BOMBS[name])
    assert len(replies) == 1
    assert replies[0].code in ("malformed", "unsupported_message")
    stranger.check(replies)


def test_many_parts_and_floods(stranger):
    stranger.socket.send_multipart([b"x"] * 2000)
    stranger.check(stranger.drain())
    stranger.check(stranger.say(*[b"\xc1"] * 3000))


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
        b"\x01\0",
        b"\xff" * 64,
        b"",
    ],
    ids=["http", "tls", "old zmtp", "noise", "silence"],
)
def test_other_protocols(stranger, greeting):
    address = urlsplit(stranger.world.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(greeting)
        stranger.check([])


def test_a_frame_over_the_limit_ends_only_its_connection(stranger):
    stranger.socket.send(b"\0" * (2 << 20))
    stranger.fresh()
    stranger.check(stranger.say(b"\xc1"))
