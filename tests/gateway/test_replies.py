"""Answers are put together without packing objects, and are what packing them would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.gateway.columns import Part
from policy_server.gateway.replies import Replies
from policy_server.gateway.request import Request, place
from policy_server.gateway.session import Session
from sim_clients.protocol import Actions, ActionsGroup, Box, Discrete, Tuple, encode
from sim_clients.protocol.spaces import MultiBinary, Space, leaves
from tests.gateway.seats import Desk, sessions_alike

EPOCH = 2**32 - 2
EDGES = [1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63]
ACTIONS: list[Space] = [
    Discrete(3),
    Discrete(3, dtype="uint8"),
    Box(-1, 1, (2, 3)),
    Tuple([Discrete(5), Box(-1, 1, (2,)), MultiBinary(3)]),
    Tuple([Discrete(2, dtype="int8") for _ in range(16)]),
]


def choose(desk: Desk, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Action columns of as many rows: any bytes."""
    return [
        np.frombuffer(rng.bytes(rows * leaf.nbytes), leaf.dtype).reshape(rows, *leaf.shape)
        for _, leaf in leaves(desk.action)
    ]


def ask(session: Session, seq: int, said: list[list[int] | None] | None) -> Request:
    """A request of all lanes (None), or per group of those lanes, or of none (None)."""
    if said is None:
        return Request(session, seq, b"", session.parts, session.steps)
    parts = [
        (i, seat.desk, Part(seat.spec.name, len(lanes), np.array(lanes, "<u4").tobytes()))
        for i, (seat, lanes) in enumerate(zip(session.groups, said, strict=True))
        if lanes
    ]
    return Request(session, seq, b"", parts, None)


def packed(request: Request, chosen: dict[Any, list[np.ndarray]]) -> bytes:
    """The same through the protocol's own writer."""
    groups: list[ActionsGroup | None] = [None] * len(request.session.groups)
    for (number, desk, part), at in zip(request.parts, request.spans, strict=True):
        rows = [column[at : at + part.rows].tobytes() for column in chosen[desk]]
        groups[number] = ActionsGroup(desk.version, rows)
    return encode(Actions(request.seq, EPOCH, groups))


def check(replies: Replies, requests: list[Request], rng: np.random.Generator) -> None:
    """Answers a tick, and compares."""
    place(requests)
    rows: dict[Any, int] = {}
    for request in requests:
        for _, desk, part in request.parts:
            rows[desk] = rows.get(desk, 0) + part.rows
    chosen = {desk: choose(desk, n, rng) for desk, n in rows.items()}
    for desk, columns in chosen.items():
        replies.put(desk, columns)
    for request in requests:
        assert replies.frame(request) == packed(request, chosen)


@st.composite
def worlds(draw: Any) -> tuple[list[Desk], list[Session]]:
    actions = st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=2)
    desks = [
        Desk(f"d{i}", Box(-1, 1, (1,)), action, version=draw(st.sampled_from([0, *EDGES])))
        for i, action in enumerate(draw(actions))
    ]
    groups = draw(
        st.lists(st.tuples(st.sampled_from(desks), st.integers(1, 6)), min_size=1, max_size=3)
    )
    return desks, sessions_alike(groups, draw(st.integers(1, 3)))[1]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(worlds(), st.data())
def test_frames_are_those_of_the_encoder(world, data):
    desks, sessions = world
    replies = Replies(EPOCH)
    rng = np.random.default_rng(0)
    for _ in range(3):
        requests = []
        for session in sessions:
            lanes = [
                st.one_of(st.none(), st.lists(st.integers(0, seat.spec.lanes - 1), unique=True))
                for seat in session.groups
            ]
            said = data.draw(st.one_of(st.none(), st.tuples(*lanes)))
            seq = data.draw(st.sampled_from(EDGES))
            requests.append(ask(session, seq, None if said is None else list(said)))
        check(replies, requests, rng)
        for desk in desks:  # new weights, or none
            desk.version += data.draw(st.integers(0, 1))


@pytest.mark.parametrize("lanes", [1, 15, 16, 17, 31, 32, 255, 256, 257, 65535, 65536])
@pytest.mark.parametrize("whole", [True, False])
def test_lengths(lanes, whole):
    desk = Desk("d", Box(-1, 1, (1,)), Discrete(3, dtype="uint8"))
    _, (session,) = sessions_alike([(desk, lanes)], 1)
    replies, rng = Replies(EPOCH), np.random.default_rng(lanes)
    for seq in (1, 2):  # the second time from what the first left behind
        check(replies, [ask(session, seq, None if whole else [list(range(lanes))])], rng)


@pytest.mark.parametrize("groups", [1, 15, 16, 17])
def test_many_groups(groups):
    desk = Desk("d", Box(-1, 1, (1,)), Discrete(3))
    _, sessions = sessions_alike([(desk, 1)] * groups, 2)
    replies, rng = Replies(EPOCH), np.random.default_rng(groups)
    some = [[0] if i % 3 else None for i in range(groups)]
    for said in (None, some, [*some[1:], None]):
        check(replies, [ask(session, 5, said) for session in sessions], rng)


def test_numbers_and_versions():
    """The short way keeps what stands between number and data: until there are new weights."""
    desk = Desk("d", Box(-1, 1, (1,)), Discrete(3))
    _, sessions = sessions_alike([(desk, 2)], 2)
    replies, rng = Replies(EPOCH), np.random.default_rng(0)
    for version in [0, *EDGES, 1, 0]:
        desk.version = version
        for seq in EDGES:
            check(replies, [ask(session, seq, None) for session in sessions], rng)
