"""STEPs read many at a time say what they say when read one by one."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.gateway.reader import FrameReader
from policy_server.gateway.request import read_request
from policy_server.gateway.session import Session
from sim_clients.protocol import Box, Dict, Discrete, Step, StepGroup, Tuple, decode, encode, unpack
from sim_clients.protocol.spaces import MultiBinary, MultiDiscrete, Space
from tests.gateway.seats import Desk, content, sessions_alike
from tests.gateway.wire import SPEC, Peer

SPACES: list[Space] = [
    Box(-1, 1, ()),
    Box(-1, 1, (3,)),
    Box(-1, 1, (300,)),
    Box(-1, 1, (2, 2), "float64"),
    Box(-1, 1, (5,), "float16"),
    Box(0, 255, (4, 3), "uint8"),
    Box(-1, 1, (0,)),
    Discrete(5, start=-2),
    Discrete(3, dtype="uint8"),
    Dict({"bits": MultiBinary(3), "far": Box(-1, 1, (7,), "float64"), "pick": Discrete(4)}),
    Tuple([Box(0, 9, (1,), "uint16"), Dict({"x": Box(-1, 1, (2,)), "y": MultiDiscrete([2, 3])})]),
    Dict({f"leaf{i}": Box(-1, 1, ()) for i in range(17)}),
]
ACTIONS: list[Space] = [Discrete(3), MultiDiscrete([2, 4])]
MODEST = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def groups(draw: Any) -> list[tuple[Desk, int]]:
    """One to three groups, any two of them perhaps at the same desk."""
    desks = [
        Desk(f"d{i}", draw(st.sampled_from(SPACES)), draw(st.sampled_from(ACTIONS)), mask)
        for i, mask in enumerate(draw(st.lists(st.booleans(), min_size=1, max_size=3)))
    ]
    pairs = st.tuples(st.sampled_from(desks), st.integers(1, 5))
    return draw(st.lists(pairs, min_size=1, max_size=3))


def said(session: Session, rng: np.random.Generator) -> list[StepGroup | None]:
    """Any bytes at all: what they mean is checked later."""
    result: list[StepGroup | None] = []
    for seat in session.groups:
        n, reader = seat.spec.lanes, seat.desk.reader
        flags, rewards, *rest = [rng.bytes(n * width) for width in reader.widths]
        extras = {"mask": rest.pop()} if reader.mask_width else None
        result.append(StepGroup(None, flags, rewards, rest, extras))
    return result


def frame_of(seq: int, step: list[StepGroup | None], wide: bool) -> bytes:
    """`wide`: the number in four bytes, as not all clients write it as short as can be."""
    frame = encode(Step(seq, step))
    if not wide:
        return frame
    number = 2 + len(msgpack.packb(seq))
    return frame[:2] + b"\xce" + seq.to_bytes(4, "big") + frame[number:]


def one_by_one(sessions: list[Session], frames: list[bytes]) -> dict[Desk, list[Any]]:
    """Per desk, the rows as the general way reads and joins them."""
    reports: dict[Any, list[Any]] = {}
    for session, frame in zip(sessions, frames, strict=True):
        _, seq, body = unpack(frame)
        for _, desk, part in read_request(session, seq, body, frame).parts:
            reports.setdefault(desk, []).append(part)
    return {desk: content(desk.reader.join(parts)) for desk, parts in reports.items()}


@MODEST
@given(groups(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_columns_are_those_of_the_general_way(groups, count, seed):
    _, sessions = sessions_alike(groups, count)
    rng = np.random.default_rng(seed)
    template = sessions[0].template
    for rows in (count, 1, count):  # another number of frames, and the same once more
        some = sessions[:rows]
        frames = [frame_of(1, said(session, rng), bool(rng.integers(2))) for session in some]
        read = template.read(frames, [session.slots for session in some])
        mine = dict(zip(template.desks, map(content, read), strict=True))
        assert mine == one_by_one(some, frames)
        assert list(mine) == list(one_by_one(some, frames)), "desks in the order of their groups"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seq", [1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1])
def test_a_number_may_be_written_short_or_in_four_bytes(seq, wide):
    groups = [(Desk("d", SPACES[9], ACTIONS[1], True), 3)]
    table, (session,) = sessions_alike(groups, 1)
    session.seq = seq - 1
    session.expect()
    frame = frame_of(seq, said(session, np.random.default_rng(seq)), wide)
    out: list[Any] = []
    requests = FrameReader(table, refuse).read([(session.peer, frame)], 0.0, out)
    (request,) = requests.all()
    assert request.parts is session.parts, "it took the short way"
    assert request.seq == seq
    assert not out


def test_four_bytes_that_are_not_the_whole_number_are_another_number():
    groups = [(Desk("d", SPACES[1], ACTIONS[0]), 2)]
    table, (session,) = sessions_alike(groups, 1)
    session.seq = 2**32 + 4
    session.expect()
    frame = frame_of(5, said(session, np.random.default_rng(0)), wide=True)
    out: list[Any] = []
    requests = FrameReader(table, refuse).read([(session.peer, frame)], 0.0, out)
    assert not requests.all()
    assert [decode(reply).code for _, reply in out] == ["bad_sequence"]


def refuse(peer: bytes, data: list[Any], now: float) -> bytes | None:
    """Stands for the answer to whatever is no STEP."""
    return b"other %d" % len(data)


Seen = tuple[list[tuple[bytes, int, list[Any]]], dict[str, list[Any]], dict[bytes, bytes]]


def read_all(table: Any, inbox: list[tuple[bytes, bytes]]) -> Seen:
    """What a reader makes of a tick: requests with their rows, however these are joined, and
    what is answered at once."""
    out: list[tuple[bytes, bytes]] = []
    requests = FrameReader(table, refuse).read(inbox, 0.0, out)
    for session in table.by_peer.values():
        session.tick = 0
    columns = {desk: columns for desk, columns in requests.columns()}
    rows: dict[str, list[Any]] = {}
    for desk, joined in columns.items():
        at = 0
        for request, part in requests.parts(desk):
            mine = slice(at, at + part.rows)
            arrays = [joined.slots, joined.flags, joined.rewards, *joined.observations]
            arrays += [] if joined.mask is None else [joined.mask]
            said = [(a.dtype, a[mine].shape, a[mine].tobytes()) for a in arrays]
            rows.setdefault(f"{request.session.peer!r} {desk.name}", []).append(said)
            at += part.rows
        assert at == len(joined.slots), "every row has an owner"
        for rest in (joined.finals, joined.executed, joined.metrics):
            rows.setdefault(f"extras of {desk.name}", []).append(repr(rest))
    said_of = [
        (r.session.peer, r.seq, [(i, d.name, p.rows, p.lanes) for i, d, p in r.parts])
        for r in requests.all()
    ]
    return sorted(said_of, key=lambda entry: entry[0]), rows, dict(out)


SMALL = [
    [(Box(-1, 1, (2,)), False, 2)],
    [(Dict({"a": Box(0, 255, (3,), "uint8"), "b": Discrete(4)}), True, 1)],
    [(Box(-1, 1, ()), False, 1), (Box(-1, 1, (1,), "float64"), True, 2)],
]


@pytest.mark.parametrize("kind", range(len(SMALL)))
def test_no_changed_byte_is_read_otherwise_than_in_the_general_way(kind):
    """Every byte of a frame, changed to everything it can be, among frames that are good."""
    desks = [
        (Desk(f"d{i}", space, ACTIONS[0], mask), lanes)
        for i, (space, mask, lanes) in enumerate(SMALL[kind])
    ]
    table, sessions = sessions_alike(desks, 2)
    for desk, _ in desks:
        desk.seated = 0
    slow, _ = sessions_alike(desks, 2, plain=False)
    rng = np.random.default_rng(kind)
    good = encode(Step(1, said(sessions[0], rng)))
    neighbour = encode(Step(1, said(sessions[1], rng)))
    assert read_all(table, [(b"A", good)]) == read_all(slow, [(b"A", good)])
    tail = sessions[0].template.tail
    fitting = 0
    for place in range(len(good)):
        for value in range(256):
            odd = good[:place] + bytes([value]) + good[place + 1 :]
            inbox = [(b"A", odd), (b"B", neighbour)]
            mine = read_all(table, inbox)
            fitting += not sessions[0].template.misfits([odd[-tail:]])[0]
            assert mine == read_all(slow, inbox), (place, value)
            assert b"B" in {peer for peer, _, _ in mine[0]}, "the good one is read"
    data = sum(len(g.flags + g.rewards + b"".join(g.observations)) for g in said(sessions[0], rng))
    masks = sum(desk.reader.mask_width * lanes for desk, lanes in desks)
    # Any data fits; of the other bytes of the tail none may differ.
    assert fitting == 256 * (data + masks + len(good) - tail) + tail - data - masks


@MODEST
@given(groups(), st.integers(0, 2**32 - 1))
def test_misfits_are_named_and_the_others_read(groups, seed):
    table, sessions = sessions_alike(groups, 4)
    template = sessions[0].template
    rng = np.random.default_rng(seed)
    frames = [encode(Step(1, said(session, rng))) for session in sessions]
    begin = len(frames[0]) - template.tail
    odd = rng.permutation(4)[: rng.integers(1, 4)].tolist()
    for i in odd:  # the header of the first group: never data
        frames[i] = frames[i][:begin] + bytes([frames[i][begin] ^ 64]) + frames[i][begin + 1 :]
    assert template.misfits(frames).tolist() == [i in odd for i in range(4)]
    assert template.read(frames, [session.slots for session in sessions]) is None
    out: list[Any] = []
    inbox = [(session.peer, frame) for session, frame in zip(sessions, frames, strict=True)]
    requests = FrameReader(table, refuse).read(inbox, 0.0, out)
    good = [i for i in range(4) if i not in odd]
    assert [r.session for r in requests.all()] == [sessions[i] for i in good]
    assert {peer for peer, _ in out} == {sessions[i].peer for i in odd}
    expected = one_by_one([sessions[i] for i in good], [frames[i] for i in good])
    assert {desk: content(columns) for desk, columns in requests.columns()} == expected


# -- the whole gateway ------------------------------------------------------------------------------


@pytest.fixture
def same_epoch(monkeypatch):
    """So that two gateways' answers can be compared byte for byte."""
    monkeypatch.setattr("policy_server.gateway.session.secrets.randbelow", lambda n: 41)


def duet(world):
    """A world, and two simulators of it with their first STEP behind them."""
    w = world(collection={"mode": "async"})
    peers = [Peer(w, b"a"), Peer(w, b"b")]
    for peer in peers:
        peer.hello(run_id=peer.name * 16)
        assert type(peer.step()).__name__ == "Actions"
    return w, *peers


CONSTANT = [2, 3, 4, 5, 6, 7, 10, 11, 20, 21, 22, 47]
"""Where a STEP of `SPEC` has something else than flags, rewards and observations; 47: extras."""


@pytest.mark.parametrize("value", [b"\xc0", b"\xc2", b"\xc3", b"\x00", b"\x80", b"\xa1"])
def test_an_odd_frame_leaves_its_neighbours_answer_alone(world, same_epoch, value):
    rng = np.random.default_rng(value[0])
    plain, noisy, steady = duet(world)
    alone, _, quiet = duet(world)
    kinds = []
    for place in CONSTANT:
        frame = noisy.frame(noisy.seq + 1, flags=b"\0\0")
        odd = frame[:place] + value + frame[place + 1 :]
        if odd == frame:
            continue
        steady.seq += 1
        good = steady.frame(steady.seq, obs=rng.normal(size=(2, 3)), flags=b"\0\0")
        order = [(b"a", odd), (b"b", good)]
        answers = plain.tick(*(order if rng.integers(2) else order[::-1]))
        assert [f for peer, f in answers if peer == b"b"] == quiet_answer(alone, quiet, good)
        (reply,) = [decode(f) for peer, f in answers if peer == b"a"]
        kinds.append(type(reply).__name__)
        if kinds[-1] == "Actions":
            noisy.seq += 1
    # An empty map of extras says as little as none.
    assert kinds.count("Actions") == (value == b"\x80")
    assert kinds.count("Error") >= len(CONSTANT) - 2
    assert type(noisy.step(flags=b"\0\0")).__name__ == "Actions", "it may go on"


def quiet_answer(world, peer, frame):
    answers = world.tick((peer.name, frame))
    assert [type(decode(f)).__name__ for _, f in answers] == ["Actions"]
    return [frame for _, frame in answers]


@pytest.mark.parametrize("queued", [2, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_a_gateway_that_reads_one_by_one_answers_the_same(world, same_epoch, seed, queued):
    """Two gateways hear the same, damaged frames included; one of them has no templates."""
    rng, data = random.Random(seed), np.random.default_rng(seed)
    specs = (SPEC,) if seed % 2 else (SPEC._replace(name="x"), SPEC._replace(name="y", lanes=1))
    collection = {"mode": "async", "max_queued_batches": queued}
    short, general = (world(collection=collection) for _ in range(2))
    for w in (short, general):
        for i in range(3 - len(specs) // 2):  # eight rows at most
            Peer(w, b"p%d" % i, specs).hello(run_id=bytes([i]) * 16)
    for session in general.gateway.sessions.by_peer.values():
        session.expect = lambda: None
        session.expected = ()
    answered = refused = 0
    for _ in range(150):
        inbox = []
        for peer, session in short.gateway.sessions.by_peer.items():
            frame = encode(Step(session.seq + 1, random_step(session, rng, data)))
            if rng.random() < 0.3:
                place = rng.randrange(2, len(frame))
                frame = frame[:place] + data.bytes(1) + frame[place + 1 :]
            inbox.append((peer, frame))
            if rng.random() < 0.1:  # said twice in a tick: the same, or something else
                again = encode(Step(session.seq + 2, random_step(session, rng, data)))
                inbox.append((peer, rng.choice([frame, again])))
        rng.shuffle(inbox)
        mine, theirs = answers_to(short, inbox), answers_to(general, inbox)
        assert mine == theirs
        mine = [(peer, frame) for peer, frames in mine.items() for frame in frames]
        answered += sum(type(decode(f)).__name__ == "Actions" for _, f in mine)
        refused += sum(type(decode(f)).__name__ == "Error" for _, f in mine)
        short.balances()
    assert answered > 100
    assert refused > 20
    assert short.gateway.reader.messages == general.gateway.reader.messages
    assert short.gateway.reader.rejected == general.gateway.reader.rejected
    assert short.gateway.env_steps == general.gateway.env_steps
    for one, other in zip(
        short.gateway.desks.values(), general.gateway.desks.values(), strict=True
    ):
        overflowed = [desk.accounts.dropped["overflow"] for desk in (one, other)]
        if queued == 1000:
            assert overflowed == [0, 0]
            assert unrolls_of(one) == unrolls_of(other)
        else:  # what goes first, and so how much, depends on who was read first in a tick
            assert min(overflowed) > 0
            rests = [desk.store.finished_steps for desk in (one, other)]
            assert overflowed[0] + rests[0] == overflowed[1] + rests[1]
            for desk in (one, other):
                desk.accounts.dropped["overflow"] = 0
        assert one.accounts == other.accounts


def unrolls_of(desk):
    """All that are finished, whatever their order."""
    finished = desk.store.finished
    return sorted((u.lane, u.first_version, u.first_t, u.length) for u in finished)


def answers_to(world, inbox):
    """By peer, in order. What had to wait for the next tick is waited for: behind a damaged frame
    that looked good at first, another of its session does, in the general way it need not."""
    out = world.tick(*inbox)
    while world.gateway.reader.deferred:
        out += world.tick()
    answers = {}
    for peer, frame in out:
        answers.setdefault(peer, []).append(frame)
    return answers


def random_step(session, rng, data):
    """All lanes or some, in an order that makes sense to the desk more often than not."""
    said = []
    for seat in session.groups:
        ledger, lanes = seat.desk.ledger, list(range(seat.spec.lanes))
        if rng.random() < 0.2:
            lanes = rng.sample(lanes, rng.randint(0, len(lanes)))
        flags = bytes(
            rng.choice([0, 0, 0, 3, 10]) if ledger.open[seat.slots[lane]] else 1 for lane in lanes
        )
        rewards, obs = data.normal(size=len(lanes)), data.normal(size=(len(lanes), 3))
        numbers = None if lanes == list(range(seat.spec.lanes)) else lanes
        said.append(
            StepGroup(
                None if numbers is None else np.array(numbers, "<u4").tobytes(),
                flags,
                rewards.astype("<f4").tobytes(),
                [obs.astype("<f4").tobytes()],
            )
        )
    return said
