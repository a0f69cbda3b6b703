"""The server's local sockets, spoken to by plain sockets: frames whole whatever the pieces, and
nobody who misbehaves costs anybody else."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import tempfile
import time
from pathlib import Path

import pytest

from policy_server.gateway import local_sockets as module
from policy_server.gateway.local_sockets import FLOOD, JAM_BYTES, STRANGER_S, LocalSockets

LARGEST = 1 << 20


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "little") + frame


class Rig:
    """Sockets that nobody drains but the test."""

    def __init__(self, largest=LARGEST, most=8):
        self.sockets = LocalSockets(largest, most)
        self.clients = []

    def connect(self):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(10)
        client.connect(self.sockets.path)
        self.clients.append(client)
        self.drain()
        return client

    def drain(self, now=0.0):
        inbox = []
        self.sockets.drain(inbox, now)
        return inbox

    def gather(self, frames, now=0.0):
        """Drains until so many frames are there."""
        inbox, until = [], time.monotonic() + 10
        while len(inbox) < frames:
            assert time.monotonic() < until, inbox
            inbox += self.drain(now)
        return inbox

    def close(self):
        for client in self.clients:
            client.close()
        self.sockets.close()


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def gone(client) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_a_frame_in_every_possible_pair_of_pieces(rig):
    client = rig.connect()
    data = framed(b"abc")
    for at in range(1, len(data)):
        client.sendall(data[:at])
        assert rig.drain() == []
        client.sendall(data[at:])
        assert rig.drain() == [(1, b"abc")]


def test_several_frames_at_once_and_a_part_of_one_more(rig):
    client = rig.connect()
    client.sendall(framed(b"a") + framed(b"") + framed(b"bc") + framed(b"later")[:6])
    assert rig.drain() == [(1, b"a"), (1, b""), (1, b"bc")]
    client.sendall(framed(b"later")[6:] + framed(b"d"))
    assert rig.drain() == [(1, b"later"), (1, b"d")]


def test_frames_beyond_the_buffer_arrive_whole_in_both_directions(rig):
    client = rig.connect()
    frame = os.urandom(LARGEST)
    client.settimeout(0.0)
    data, came, received = framed(frame), [], bytearray()
    view = memoryview(data)
    while not came:
        if view:
            with contextlib.suppress(BlockingIOError):
                view = view[client.send(view) :]
        came += rig.drain()
    assert came == [(1, frame)]
    assert rig.sockets.send(1, frame)
    while len(received) < len(data):
        try:
            received += client.recv(1 << 16)
        except BlockingIOError:
            rig.drain()  # what the kernel did not take at once leaves as it reads
    assert received == data
    client.settimeout(10)
    client.sendall(framed(b"and on"))
    assert rig.gather(1) == [(1, b"and on")]


def test_replies_go_to_whom_they_are_for(rig):
    first, second = rig.connect(), rig.connect()
    second.sendall(framed(b"2"))
    first.sendall(framed(b"1"))
    assert sorted(rig.gather(2)) == [(1, b"1"), (2, b"2")]
    assert rig.sockets.send(2, b"for two")
    assert rig.sockets.send(1, b"for one")
    assert first.recv(100) == framed(b"for one")
    assert second.recv(100) == framed(b"for two")


def test_a_frame_too_long_to_be_true_ends_its_connection_only(rig):
    bad, good = rig.connect(), rig.connect()
    bad.sendall((LARGEST + 1).to_bytes(4, "little"))
    good.sendall(framed(b"here"))
    assert rig.gather(1) == [(2, b"here")]
    assert gone(bad)
    assert rig.sockets.send(1, b"x") is None
    good.sendall(framed(b"still"))
    assert rig.gather(1) == [(2, b"still")]


def test_who_floods_is_sent_away(rig):
    flood, good = rig.connect(), rig.connect()
    flood.sendall(framed(b"") * (FLOOD + 1))
    assert len(rig.drain()) == FLOOD
    assert gone(flood)
    good.sendall(framed(b"here"))
    assert rig.gather(1) == [(2, b"here")]


def test_who_does_not_read_costs_no_more_than_a_bound(rig):
    deaf, good = rig.connect(), rig.connect()
    frame = bytes(10_000)
    results = [rig.sockets.send(1, frame) for _ in range(2000)]
    assert results[0] is True
    assert results[-1] is False, "jammed: dropped"
    assert len(rig.sockets._by_peer[1].unsent) <= JAM_BYTES + len(framed(frame))
    assert rig.sockets.send(2, b"fine")
    assert good.recv(100) == framed(b"fine")
    # What was not dropped comes whole and in order once it reads.
    want, got = results.count(True) * len(framed(frame)), 0
    deaf.settimeout(0.0)
    until = time.monotonic() + 20
    while got < want and time.monotonic() < until:
        try:
            got += len(deaf.recv(1 << 20))
        except BlockingIOError:
            rig.drain()
    assert got == want
    assert rig.sockets.send(1, b"again") is True


def test_who_is_gone_is_known_to_be_gone_and_its_number_is_not_used_again(rig):
    rig.connect().close()
    assert rig.drain() == []
    assert rig.sockets.send(1, b"x") is None
    client = rig.connect()
    client.sendall(framed(b"x"))
    assert rig.gather(1) == [(2, b"x")]


def test_what_was_said_before_going_is_heard(rig):
    client = rig.connect()
    client.sendall(framed(b"bye"))
    client.close()
    assert rig.gather(1) == [(1, b"bye")]
    assert rig.drain() == []
    assert rig.sockets.send(1, b"x") is None


def test_what_was_said_before_going_is_heard_behind_a_reply_that_met_nobody(rig):
    client = rig.connect()
    client.sendall(framed(b"STEP"))
    ((peer, _),) = rig.gather(1)
    client.sendall(framed(b"BYE"))
    client.close()
    assert rig.sockets.send(peer, b"ACTIONS") is None
    assert rig.drain() == [(peer, b"BYE")]


def test_a_whole_frame_beyond_the_limit_ends_its_connection():
    rig = Rig(largest=100)
    try:
        client = rig.connect()
        client.sendall(framed(bytes(100)))
        assert len(rig.gather(1)) == 1
        client.sendall(framed(bytes(101)))
        assert rig.drain() == []
        assert client.recv(1) == b""
    finally:
        rig.close()


def test_strangers_are_sent_away_and_sessions_stay(rig):
    stranger, known = rig.connect(), rig.connect()
    rig.sockets.expire(STRANGER_S - 1, {2})
    rig.sockets.expire(STRANGER_S + 1, {2})
    assert gone(stranger)
    rig.sockets.expire(2 * STRANGER_S, {2})
    assert rig.sockets.send(2, b"you stay")
    assert known.recv(100) == framed(b"you stay")


def test_more_than_are_allowed_are_turned_away():
    rig = Rig(most=2)
    try:
        clients = [rig.connect() for _ in range(3)]
        assert gone(clients[2])
        clients[0].sendall(framed(b"x"))
        assert rig.gather(1) == [(1, b"x")]
    finally:
        rig.close()


def test_only_its_user_can_come_in_and_nothing_is_left_behind():
    sockets = LocalSockets(LARGEST, 8)
    directory = Path(sockets.path).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    sockets.close()
    assert not directory.exists()


@pytest.fixture
def short_path():
    """Sockets have paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_what_a_killed_server_left_is_swept_away(monkeypatch, short_path):
    """And nothing else: not what is young, in use, or no server's."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    kept = LocalSockets(1024, 4)
    for name in ("killed", "young", "other"):
        (short_path / f"policy-server-socket-{name}").mkdir()
    for name in ("killed", "young"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(short_path / f"policy-server-socket-{name}" / "socket"))
    (short_path / "policy-server-socket-other" / "socket").write_text("a file")
    for directory in short_path.iterdir():
        if not directory.name.endswith("young"):
            os.utime(directory, (1, 1))
    next_one = LocalSockets.open(1024, 4)
    assert next_one is not None
    left = {
        directory.name.removeprefix("policy-server-socket-") for directory in short_path.iterdir()
    }
    mine = {Path(sockets.path).parent.name[-8:] for sockets in (kept, next_one)}
    assert left == {"young", "other", *mine}
    kept.close()
    next_one.close()


def test_without_a_place_there_are_none(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / ("x" * 120)))
    assert LocalSockets.open(LARGEST, 8) is None
    (tmp_path / ("x" * 120)).mkdir()  # too long a path for a socket
    assert LocalSockets.open(LARGEST, 8) is None
    assert "ZeroMQ" in caplog.text
    assert list((tmp_path / ("x" * 120)).iterdir()) == []


def test_descriptors_return():
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig()
    for _ in range(4):
        rig.connect()
    rig.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_descriptors_the_loop_is_left_in_peace_and_callers_wait(monkeypatch):
    rig = Rig()
    try:
        rig.drain()
        monkeypatch.setattr(module.LocalSockets, "_take", _no_descriptors)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        rig.clients.append(client)
        client.connect(rig.sockets.path)
        client.sendall(framed(b"x"))
        with select.epoll() as loop:
            loop.register(rig.sockets.fileno(), select.EPOLLIN)
            assert loop.poll(10), "there is somebody at the door"
            assert rig.drain() == []
            assert not loop.poll(0), "and nothing to be done about it"
            monkeypatch.undo()
            rig.sockets.expire(1.0, ())
            assert loop.poll(10)
        assert rig.gather(1) == [(1, b"x")]
    finally:
        rig.close()


def _no_descriptors(self):
    raise OSError(errno.EMFILE, "Too many open files")
