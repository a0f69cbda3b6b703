"""A simulator that can be audited, and a learner that audits.

Every observation says who it is: (simulator, lane, episode, step). Every reward says which step
it is for. `Auditor` stands where a learner stands and checks each batch against these stamps:
nothing under another lane or episode, nothing twice, every row next to its successor.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.types import Batch, PolicyState, UpdateResult
from sim_clients.protocol import (
    Box,
    Discrete,
    Flag,
    GroupSpec,
    Hello,
    Step,
    StepGroup,
    Tuple,
    decode,
    encode,
)
from sim_clients.protocol.spaces import leaves, unflatten

OBSERVATION = Box(-1e9, 1e9, (4,), "float32")
ACTION = Tuple([Discrete(5), Box(-np.inf, np.inf, (2,), "float32")])


def stamp_reward(simulator: int, lane: int, episode: int, step: int) -> float:
    """Exact in float32, different for all steps of a test."""
    return float((simulator * 64 + lane) * 4096 + (episode % 32) * 128 + step % 128)


@dataclass
class Auditor:
    """A learner handle that learns nothing and checks everything.

    Attributes:
        ticks_to_learn: polls until an update is ready.
        max_versions: of the policy, in the steps of one batch.
        seen: (simulator, lane, episode, step) of every row ever trained on.
    """

    network_weights: np.ndarray
    ticks_to_learn: int = 3
    executed: dict[tuple[int, int, int, int], tuple[int, float, float]] = field(
        default_factory=dict
    )
    seen: set[tuple[int, int, int, int]] = field(default_factory=set)
    endings: dict[tuple[int, int, int], tuple[str, int]] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    max_versions: int | None = 1
    _countdown: int = 0
    _steps: int = 0
    updates: int = 0

    def submit(self, batch: Batch, env_steps: int) -> None:
        assert self._countdown == 0, "two batches at once"
        self.audit(batch)
        self.batches.append(batch)
        self._countdown, self._steps = self.ticks_to_learn, batch.steps

    def poll(self) -> UpdateResult | None:
        if not self._countdown:
            return None
        self._countdown -= 1
        if self._countdown:
            return None
        self.updates += 1
        return UpdateResult("default_policy", self.updates, self.network_weights, {}, self._steps)

    def request_state(self) -> PolicyState:
        return PolicyState({}, {})

    @property
    def state_name(self) -> str:
        return "learning"

    @property
    def pid(self) -> int | None:
        return None

    @property
    def ready(self) -> bool:
        return True

    def audit(self, batch: Batch) -> None:
        (obs,) = batch.obs
        finals = {(t, b): i for i, (t, b) in enumerate(batch.final_index.tolist())}
        if self.max_versions is not None:
            assert 1 <= len(set(batch.versions[batch.valid].tolist())) <= self.max_versions
        for b, length in enumerate(batch.lengths.tolist()):
            assert np.isnan(obs[length + 1 :, b]).all()
            assert np.isnan(batch.rewards[length:, b]).all()
            assert np.isfinite(obs[: length + 1, b]).all(), "the bootstrap observation is there"
            for t in range(length):
                simulator, lane, episode, step = (int(v) for v in obs[t, b])
                key = (simulator, lane, episode, step)
                assert key not in self.seen, f"{key} trained on twice"
                self.seen.add(key)
                assert batch.rewards[t, b] == stamp_reward(*key), "another step's reward"
                category, x, y = self.executed[key]
                assert batch.categories[t, b, 0] == category
                np.testing.assert_array_equal(batch.reals[t, b], np.float32([x, y]))
                ended = bool(batch.terminated[t, b] or batch.truncated[t, b])
                ending = self.endings.get((simulator, lane, episode))
                assert ended == (ending is not None and ending[1] == step + 1), "a wrong ending"
                if batch.truncated[t, b]:
                    assert ending[0] == "truncated"
                    final = batch.final_obs[0][finals[(t, b)]]
                    assert final.tolist() == [simulator, lane, episode, step + 1]
                elif batch.terminated[t, b]:
                    assert ending[0] == "terminated"
                following = tuple(int(v) for v in obs[t + 1, b])
                if not ended:
                    assert following == (simulator, lane, episode, step + 1), "not adjacent"
                elif t + 1 < length:
                    assert following[:2] == (simulator, lane)
                    assert following[2] > episode
                    assert following[3] == 0


@dataclass
class LaneState:
    episode: int = -1
    step: int = 0
    open: bool = False
    told: bool = False  # an action for the present observation is known
    unseen: bool = False  # the server did not see all of this episode


class LedgerSimulator:
    """Random episodes, endings, idleness and mishaps over a hand-made connection."""

    def __init__(self, number: int, lanes: int, auditor: Auditor, rng: random.Random):
        self.number = number
        self.peer = b"peer-%d" % number
        self.run_id = bytes([number]) * 16
        self.lanes = [LaneState() for _ in range(lanes)]
        self.auditor = auditor
        self.rng = rng
        self.seq = 0
        self.session: bytes | None = None
        self.waiting: bytes | None = None  # the STEP without an answer
        self.rows: list[int] = []
        self.answers = 0

    def hello(self, resume: bytes | None = None) -> bytes:
        group = GroupSpec("agent", OBSERVATION, ACTION, len(self.lanes))
        client = ("ledger", "1")
        return encode(
            Hello(1, client, self.run_id, resume, f"ledger-{self.number}", (), None, (group,), {})
        )

    def step(self) -> bytes:
        """The next STEP: some lanes speak, each continues, ends, begins or leaves."""
        rng = self.rng
        rows = [i for i in range(len(self.lanes)) if rng.random() < 0.8] or [0]
        flags, rewards, obs, finals = [], [], [], []
        for row, i in enumerate(rows):
            lane = self.lanes[i]
            flag, reward = 0, 0.0
            if lane.open:
                reward = stamp_reward(self.number, i, lane.episode, lane.step)
                lane.step += 1
                fate = rng.random()
                if lane.unseen:
                    # An episode must go on after CONTINUED before it can end.
                    flag, lane.unseen = Flag.CONTINUED, False
                elif fate < 0.08 or lane.step >= 100:
                    flag = Flag.TERMINATED
                elif fate < 0.16:
                    flag = Flag.TRUNCATED
                elif fate < 0.18:
                    flag = Flag.FIRST  # abandoned: the reward is of a step nobody will know
                elif fate < 0.20:
                    flag = Flag.LEAVING
                if flag & Flag.ENDED:
                    ending = "terminated" if flag & Flag.TERMINATED else "truncated"
                    self.auditor.endings[self.number, i, lane.episode] = (ending, lane.step)
                    final = [self.number, i, lane.episode, lane.step]
                    if rng.random() < 0.3:
                        flag |= Flag.LEAVING
                    else:
                        flag |= Flag.FIRST
                        if flag & Flag.TRUNCATED:
                            finals.append((row, final))
                if flag & Flag.FIRST:
                    self._begin(lane)
                if flag & Flag.LEAVING:
                    lane.open = False
            else:
                flag = Flag.FIRST
                self._begin(lane)
                if rng.random() < 0.05:
                    flag, lane.open = Flag.FIRST | Flag.LEAVING, False
            flags.append(flag)
            rewards.append(reward)
            obs.append([self.number, i, lane.episode, lane.step])
        extras: dict[str, Any] | None = None
        if finals:
            numbers = np.array([row for row, _ in finals], "<u4").tobytes()
            columns = [np.array([final for _, final in finals], OBSERVATION.dtype).tobytes()]
            extras = {"final_obs": [numbers, columns]}
        whole = rows == list(range(len(self.lanes)))
        group = StepGroup(
            None if whole else np.array(rows, "<u4").tobytes(),
            bytes(flags),
            np.array(rewards, "<f4").tobytes(),
            [np.array(obs, OBSERVATION.dtype).tobytes()],
            extras,
        )
        self.seq += 1
        self.rows = rows
        self.waiting = encode(Step(self.seq, [group]))
        return self.waiting

    @staticmethod
    def _begin(lane: LaneState) -> None:
        lane.episode += 1
        lane.step = 0
        lane.open = True
        lane.unseen = False

    def take(self, frame: bytes) -> None:
        """An answer: what the lanes now do is written down for the auditor."""
        message = decode(frame)
        name = type(message).__name__
        if name == "Welcome":
            if self.session is not None and not message.resumed:
                self.seq = 0
                for lane in self.lanes:
                    lane.unseen = lane.open
            self.session = message.session_id
        elif name == "Actions" and message.seq == self.seq and self.waiting is not None:
            self.waiting = None
            self.answers += 1
            group = message.groups[0]
            columns = [
                np.frombuffer(data, leaf.dtype).reshape((-1, *leaf.shape))
                for data, (_, leaf) in zip(group.actions, leaves(ACTION), strict=True)
            ]
            category, reals = unflatten(ACTION, columns)
            for row, i in enumerate(self.rows):
                lane = self.lanes[i]
                key = (self.number, i, lane.episode, lane.step)
                if lane.open:
                    self.auditor.executed[key] = (int(category[row]), *reals[row].tolist())
        elif name == "Error":
            raise AssertionError(f"refused: {message}")
