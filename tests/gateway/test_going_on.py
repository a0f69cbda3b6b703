"""The short way through a tick says and stores what the long way does, bit for bit, and is taken
by nobody it is not for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policy_server import server
from policy_server.bench.serving import Swallower
from policy_server.callbacks import Callbacks
from policy_server.gateway import gateway as module
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.gateway import Gateway
from policy_server.learners.learner import Learner
from policy_server.settings import Settings
from sim_clients.protocol import (
    Box,
    Discrete,
    Error,
    Flag,
    GroupSpec,
    Hello,
    Step,
    StepGroup,
    decode,
    encode,
)

OBSERVATION, ACTION = Box(-9, 9, (5,)), Discrete(3, start=-1)
HIDDEN = {"hidden": [16, 16], "activation": "tanh"}


class Recorder(Swallower):
    """Keeps every batch."""

    def __init__(self, policy: str, weights: np.ndarray):
        super().__init__(policy, weights)
        self.batches: list[Any] = []

    def submit(self, batch: Any, env_steps: int) -> None:
        super().submit(batch, env_steps)
        self.batches.append(batch)


class Server:
    """A gateway that goes the short way where it can, or (`short=False`) never."""

    def __init__(
        self, short: bool, action: Any = ACTION, observation: Any = OBSERVATION, **sections: Any
    ):
        training = {"train_batch_size": 96, "minibatch_size": 96}
        sections = {
            "model": HIDDEN,
            "collection": {"mode": "async", "fragment_length": 8},
        } | sections
        settings = Settings.from_mapping(
            {"algorithm": "PPO", "training": training, "server": {"seed": 3}, **sections}
        )
        self.action, self.observation = action, observation
        self.gateway: Gateway = server.build_gateway(settings, self._learner, None, None, 0)
        self.gateway.train(None)
        self.short = short
        self.taken: list[bool] = []
        go_on = self.gateway._go_on

        def watched(*arguments: Any) -> bool:
            self.taken.append(short and go_on(*arguments))
            return self.taken[-1]

        self.gateway.reader.shortcut = watched
        self.now = 0.0

    def _learner(self, arguments: dict[str, Any], state: Any) -> Recorder:
        weights = Learner(**{**arguments, "threads": 1}).weights()
        self.recorder = Recorder(arguments["policy_name"], weights)
        return self.recorder

    def greet(self, number: int, lanes: int) -> None:
        group = GroupSpec("agent", self.observation, self.action, lanes)
        run = bytes([number]) * 16
        hello = Hello(1, ("t", "1"), run, None, f"sim-{number}", (), None, (group,), {})
        self.tick([(number, encode(hello))])

    def tick(self, inbox: list[tuple[int, bytes]]) -> list[tuple[Any, bytes]]:
        self.now += 0.001
        out = self.gateway.answer(list(inbox), self.now)
        self.gateway.finish(self.now)
        for desk in self.gateway.desks.values():
            assert desk.accounts.balance(desk.store.steps) == 0
        return out


def step(
    seq: int,
    rng: np.random.Generator,
    lanes: int,
    flags: Any = None,
    space: Any = OBSERVATION,
    **changed: Any,
) -> bytes:
    obs = rng.standard_normal((lanes, *space.shape)).astype(np.float32)
    if space.dtype != np.float32:
        obs = 20 * (np.abs(obs) if space.dtype.kind == "u" else obs)
        obs = obs.astype(space.dtype)
    rewards = rng.standard_normal(lanes).astype(np.float32)
    flags = np.zeros(lanes, np.uint8) if flags is None else np.asarray(flags, np.uint8)
    if "obs" in changed:
        obs[-1, -1] = changed["obs"]
    if "reward" in changed:
        rewards[-1] = changed["reward"]
    group = StepGroup(
        None, flags.tobytes(), rewards.tobytes(), (obs.tobytes(),), changed.get("extras")
    )
    return encode(Step(seq, (group,)))


@pytest.fixture
def pair(monkeypatch):
    """Two servers that differ in the way they go, and in nothing else."""
    monkeypatch.setattr("policy_server.gateway.session.secrets.randbelow", lambda below: 6)
    simple = PolicyDesk.simple.fget
    ways: dict[int, bool] = {}

    def as_wanted(desk: PolicyDesk) -> bool:
        return ways[id(desk)] and simple(desk)

    monkeypatch.setattr(PolicyDesk, "simple", property(as_wanted))

    def make(lanes: list[int], **sections: Any) -> tuple[Server, Server]:
        made = Server(True, **sections), Server(False, **sections)
        for one in made:
            for number, count in enumerate(lanes, 1):
                # Known as soon as it exists: the first HELLO makes it.
                one.greet(number, count)
                for desk in one.gateway.desks.values():
                    ways[id(desk)] = one.short
        return made

    return make


def same_batches(one: Server, other: Server) -> None:
    assert len(one.recorder.batches) == len(other.recorder.batches)
    for mine, theirs in zip(one.recorder.batches, other.recorder.batches, strict=True):
        for name, value in vars(mine).items():
            same = vars(theirs)[name]
            for a, b in zip(
                value if isinstance(value, tuple) else (value,),
                same if isinstance(same, tuple) else (same,),
                strict=True,
            ):
                if isinstance(a, np.ndarray):
                    assert a.tobytes() == b.tobytes(), name
                else:
                    assert a == b, name


KINDS = {
    "discrete": {},
    "real": {"action": Box(-1, 1, (2,))},
    "frames normalised": {"preprocessing": {"normalize_observations": True}},
    "torch": {"inference": {"executor": "torch"}},
    "a matrix": {"observation": Box(-9, 9, (2, 3))},
    "a matrix, torch": {"observation": Box(-9, 9, (2, 3)), "inference": {"executor": "torch"}},
    "a number": {"observation": Box(-9, 9, ())},
    "frames": {"observation": Box(0, 255, (12, 12, 1), "uint8")},
    "whole numbers": {"observation": Box(-99, 99, (3,), "int32")},
    "large whole numbers": {"observation": Box(-99, 99, (3,), "int64")},
    "double precision": {"observation": Box(-9, 9, (3,), "float64")},
    "in step with the learner": {"collection": {"mode": "sync"}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", [[1, 1, 1, 1], [3, 3, 3]], ids=str)
def test_both_ways_say_and_store_the_same(pair, kind, lanes):
    short, long = pair(lanes, **KINDS[kind])
    rng, choice = np.random.default_rng(1), np.random.default_rng(2)
    over = int(Flag.TERMINATED | Flag.FIRST)
    next_seq = [1] * len(lanes)
    waiting: set[int] = set()
    for tick in range(400):
        inbox = []
        for number, count in enumerate(lanes, 1):
            if number in waiting or choice.random() < 0.2:
                continue
            seq = next_seq[number - 1]
            flags = np.where(choice.random(count) < 0.03, over, 0)
            if seq == 1:
                flags[:] = int(Flag.FIRST)
            inbox.append((number, step(seq, rng, count, flags, short.observation)))
            next_seq[number - 1] += 1
            waiting.add(number)
        said, same = short.tick(inbox), long.tick(inbox)
        assert sorted(said) == sorted(same), tick
        waiting -= {peer for peer, frame in said if frame[1] == 4}
    assert len(short.recorder.batches) > 5
    same_batches(short, long)
    plain = kind not in ("frames normalised", "double precision", "large whole numbers")
    assert (sum(short.taken) > 100) is plain
    assert not any(long.taken)
    assert short.gateway.env_steps == long.gateway.env_steps
    assert short.gateway.reader.messages == long.gateway.reader.messages


@pytest.mark.parametrize(
    "wrong",
    [
        {"reward": np.nan},
        {"reward": np.inf},
        {"reward": -2e9},
        {"obs": np.nan},
        {"obs": -np.inf},
        {"obs": 2e10},
        {"flags": [0, 255]},
        {"flags": [0, int(Flag.LEAVING)]},
        {"flags": [int(Flag.TRUNCATED | Flag.FIRST), 0]},
        {"extras": {"metrics": [[0, {"x": 1.0}]]}},
    ],
    ids=str,
)
def test_what_is_wrong_or_unusual_is_treated_as_ever(pair, wrong):
    """In company of a STEP that is as plain as can be."""
    short, long = pair([2, 2])
    first = [int(Flag.FIRST)] * 2
    for one in (short, long):
        rng = np.random.default_rng(1)
        one.tick([(number, step(1, rng, 2, first)) for number in (1, 2)])
        one.said = one.tick([(1, step(2, rng, 2)), (2, step(2, rng, 2, **wrong))])
        one.then = one.tick([(1, step(3, rng, 2))])
    assert sorted(short.said) == sorted(long.said)
    assert short.then == long.then
    assert not any(short.taken[:-1]), "not the short way"
    assert short.taken[-1], "and then the short way again"
    refused = [decode(frame) for _, frame in short.said if isinstance(decode(frame), Error)]
    harmless = "extras" in wrong or wrong.get("flags") == [0, int(Flag.LEAVING)]
    assert len(refused) == (not harmless)


@pytest.mark.parametrize(
    ("dtype", "absurd"),
    [("int64", 2**62), ("int64", -(10**10) - 1), ("uint64", 2**63), ("float64", 1e300)],
)
def test_absurd_numbers_are_refused_whatever_they_are_made_of(pair, dtype, absurd):
    space = Box(0, 9, (3,), dtype)
    for one in pair([2], observation=space):
        rng = np.random.default_rng(1)
        for seq in (1, 2):
            flags = [int(Flag.FIRST)] * 2 if seq == 1 else None
            one.tick([(1, step(seq, rng, 2, flags, space))])
        ((_, frame),) = one.tick([(1, step(3, rng, 2, None, space, obs=absurd))])
        error = decode(frame)
        assert isinstance(error, Error)
        assert error.code == "bad_observation"


def test_it_is_not_for_many_rows_evaluations_frozen_policies_or_callbacks(pair, monkeypatch):
    def taken(server: Server) -> bool:
        seq = server.seq = getattr(server, "seq", 1) + 1
        server.tick([(1, step(seq, np.random.default_rng(seq), 2))])
        return server.taken[-1]

    def begun(**sections: Any) -> Server:
        one, _ = pair([2], **sections)
        one.tick([(1, step(1, np.random.default_rng(0), 2, [int(Flag.FIRST)] * 2))])
        return one

    server = begun()
    (desk,) = server.gateway.desks.values()
    assert taken(server)
    with monkeypatch.context() as patch:
        patch.setattr(module, "FEW_ROWS", 1)
        assert not taken(server)

    server = begun()
    (desk,) = server.gateway.desks.values()
    desk.evaluation.request(1, False)
    assert not taken(server)

    assert not taken(begun(multi_agent={"policies_to_train": []}))

    server = begun()
    (desk,) = server.gateway.desks.values()
    desk.callbacks = Callbacks()
    assert not taken(server)

    server = begun()
    server.gateway.draining = True
    assert not taken(server)
