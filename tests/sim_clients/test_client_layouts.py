"""Frames spliced together from layouts against the general codec, for every kind of space."""

from __future__ import annotations

import msgpack
import numpy as np
from client_rigs import Rig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim_clients.client import Group, Lanes
from sim_clients.conformance.peer import Peer
from sim_clients.layout import array_head, bin_head
from sim_clients.protocol import (
    Actions,
    ActionsGroup,
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Step,
    StepGroup,
    Tuple,
    decode,
    encode,
    spaces,
)

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
boxes = st.builds(
    lambda dtype, shape: Box(0, 1, shape, dtype),
    st.sampled_from(sorted(spaces.DTYPES)),
    shapes,
)
discretes = st.builds(Discrete, st.integers(1, 20), st.integers(0, 5), st.sampled_from(INTEGERS))
multi = st.builds(
    MultiDiscrete,
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(INTEGERS),
)
bits = st.builds(MultiBinary, shapes, st.sampled_from(["int8", "bool", "uint8"]))
trees = st.recursive(
    boxes | discretes | multi | bits,
    lambda part: (
        st.lists(part, min_size=1, max_size=3).map(Tuple)
        | st.dictionaries(st.sampled_from("abcd"), part, min_size=1, max_size=3).map(Dict)
    ),
    max_leaves=4,
)
COLUMNS = 2**16  # bytes enough to cut any column from


def values(space: spaces.Space, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Columns of allowed values."""
    columns = []
    for _, leaf in spaces.leaves(space):
        shape = (n, *leaf.shape)
        if isinstance(leaf, Discrete):
            column = leaf.start + rng.integers(0, leaf.n, shape)
        elif isinstance(leaf, MultiDiscrete):
            column = leaf.start + rng.integers(0, leaf.nvec, shape)
        else:
            column = rng.integers(0, 2, shape)
        columns.append(column.astype(leaf.dtype))
    return columns


class Answering(Peer):
    """Chooses random actions and remembers them; its policy's version rises at every step."""

    def __init__(self, rng: np.random.Generator, limit: int):
        super().__init__()
        self.rng, self.limit = rng, limit
        self.chosen: list[list[list[np.ndarray] | None]] = []

    def _zeros(self, session, step):
        chosen = [
            None if group is None else values(spec.action_space, len(group.flags), self.rng)
            for spec, group in zip(session.hello.groups, step.groups, strict=True)
        ]
        self.chosen.append(chosen)
        # The same twice, so that the second is laid out as the first was.
        self.version = int(self.rng.choice([self.version, self.limit]))
        return [
            None if part is None else ActionsGroup(self.version, [c.tobytes() for c in part])
            for part in chosen
        ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(trees, trees, st.integers(1, 300)), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 127, 128, 70_000, 2**40]),
)
def test_spliced_frames_are_those_of_the_codec_and_actions_those_the_server_chose(
    parts, seed, version
):
    rng = np.random.default_rng(seed)
    peer = Answering(rng, version)
    groups = {str(i): Group(o, a, lanes) for i, (o, a, lanes) in enumerate(parts)}
    rig = Rig(groups, peer)
    specs = [rig.client.groups[name] for name in groups]
    first = True
    for _ in range(6):
        speak = [name for name in groups if first or rng.random() < 0.8] or ["0"]
        said, expected = {}, [None] * len(groups)
        for i, spec in enumerate(specs):
            if spec.name not in speak:
                continue
            ids = None
            if not first and rng.random() < 0.4:
                ids = rng.permutation(spec.lanes)[: rng.integers(1, spec.lanes + 1)]
            n = spec.lanes if ids is None else len(ids)
            columns = values(spec.observation_space, n, rng)
            rewards = rng.standard_normal(n).astype("<f4")
            ends = np.full(n, False) if first else rng.random(n) < rng.choice([0.0, 0.3])
            said[spec.name] = Lanes(
                spaces.unflatten(spec.observation_space, columns), rewards, ends, lanes=ids
            )
            flags = np.where(ends, 3, 1 if first else 0).astype(np.uint8)
            expected[i] = StepGroup(
                None if ids is None else ids.astype("<u4").tobytes(),
                flags.tobytes(), rewards.tobytes(), [c.tobytes() for c in columns],
            )  # fmt: skip
        actions = rig.client.step(said)
        frame = rig.wire.sent[-1]
        step = decode(frame)
        assert isinstance(step, Step)
        assert frame == encode(Step(step.seq, expected))
        for name, chosen in zip(groups, peer.chosen[-1], strict=True):
            assert (name in actions) == (chosen is not None)
            if chosen is not None:
                given_back = spaces.flatten(rig.client.groups[name].action_space, actions[name])
                for came, meant in zip(given_back, chosen, strict=True):
                    assert came.dtype == meant.dtype
                    assert came.tobytes() == meant.tobytes()
                    assert came.flags.writeable
        assert rig.client.versions == {
            name: peer.version if name in speak else rig.client.versions[name] for name in groups
        }
        first = False


@given(st.integers(0, 2**20), st.integers(0, 65535))
def test_heads_are_msgpack(size, count):
    size = min(size, COLUMNS + 1)
    assert msgpack.packb(bytes(size)) == bin_head(size) + bytes(size)
    assert msgpack.packb([0] * count) == array_head(count) + bytes(count)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_answer_that_is_laid_out_in_another_way_is_read_or_refused_but_never_misread(data):
    """Any one byte changed, or the frame cut short: what the quick way takes, the codec reads as
    the same."""
    group = Group(Discrete(2), Tuple((Box(-1, 1, (2,)), Discrete(300))), lanes=2)
    rig = Rig({"a": group, "b": group})
    rig.client.step({"a": Lanes([0, 1]), "b": Lanes([0, 1])})
    columns = rig.client._book.prepare({"a": Lanes([0, 1], [0, 0]), "b": Lanes([0, 1], [0, 0])})
    request = rig.client._book.request(columns)
    request.encode(2)
    good = ActionsGroup(0, [bytes(range(16)), bytes(range(16))])
    frame = bytearray(encode(Actions(2, 1, [good, good])))
    at = len(encode(Actions(2, 1, []))) - 1
    where = data.draw(st.integers(at, len(frame) - 1))
    frame[where] = data.draw(st.integers(0, 255))
    changed = bytes(frame[: data.draw(st.sampled_from([len(frame), where]))])
    if request.read(changed, at):
        found = decode(changed)
        assert isinstance(found, Actions)
        for name, part in zip("ab", found.groups, strict=True):
            assert part.version == 0
            leaves = spaces.flatten(group.action_space, request.book.nested(request)[name])
            assert [leaf.tobytes() for leaf in leaves] == part.actions


def test_the_answer_to_a_plain_step_is_cut_not_unpacked(monkeypatch):
    rig = Rig(Group(Box(-1, 1, (2,)), Discrete(3), lanes=2))
    rig.client.step(np.zeros((2, 2)))
    monkeypatch.setattr("sim_clients.connection.unpack", None)
    for _ in range(2):
        assert rig.client.step(np.zeros((2, 2)), [0, 0]).tolist() == [0, 0]
