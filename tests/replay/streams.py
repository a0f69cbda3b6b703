"""Lanes that play on and on, cut into batches in whatever way; every observation is a number of
its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from policy_server.types import Batch


@dataclass
class Step:
    """One step, as it happened. `mask` is None only behind what nobody did."""

    obs: int
    action: int
    mask: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    final: int  # true final observation where truncated, else -1
    episode: int
    t: int


@dataclass
class Lane:
    """What a lane did so far, and what it sees now."""

    seen: int
    episode: int
    t: int = 0
    steps: list[Step] = field(default_factory=list)
    given: int = 0  # steps that were in a batch, or lost
    lost: set[int] = field(default_factory=set)  # numbers of steps that no batch had


class Streams:
    """Args:
    lanes: how many.
    width: options of the action, of which some are masked.
    """

    def __init__(self, lanes: int, seed: int, width: int = 3, endings: float = 0.12):
        self.rng = np.random.default_rng(seed)
        self.width, self.endings = width, endings
        self._numbers = 0
        self._episodes = lanes
        self.lanes = [Lane(self._number(), episode) for episode in range(lanes)]

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _step(self, lane: Lane) -> None:
        rng = self.rng
        ends = rng.random() < self.endings
        terminated = bool(ends and rng.random() < 0.5)
        truncated = bool(ends and not terminated)
        mask = rng.integers(0, 2, self.width).astype(np.uint8)
        action = int(rng.integers(self.width))
        mask[action] = 1
        reward = float(np.float32(rng.normal()))
        final = self._number() if truncated else -1
        lane.steps.append(
            Step(
                lane.seen, action, mask, reward, terminated, truncated, final, lane.episode, lane.t
            )
        )
        lane.seen, lane.t = self._number(), lane.t + 1
        if ends:
            lane.episode, lane.t = self._episodes, 0
            self._episodes += 1

    def lose(self, lane: int, steps: int) -> None:
        """Steps of a lane that never come into a batch."""
        mine = self.lanes[lane]
        for _ in range(steps):
            self._step(mine)
        mine.lost |= set(range(mine.given, mine.given + steps))
        mine.given += steps

    def batch(self, most: int) -> Batch:
        """The next 1 to `most` steps of some of the lanes; now and then one of them comes twice."""
        lanes = np.flatnonzero(self.rng.random(len(self.lanes)) < 0.7)
        lanes = lanes if len(lanes) else np.array([0])
        if self.rng.random() < 0.3:
            lanes = np.append(lanes, self.rng.choice(lanes))
        lengths = self.rng.integers(1, most + 1, len(lanes))
        shape = int(lengths.max()), len(lanes)
        obs = np.full((shape[0] + 1, shape[1]), -1.0, np.float32)
        actions, episodes = np.full((*shape, 1), -1), np.full(shape, -1)
        masks = np.full((*shape, self.width), 0xAB, np.uint8)
        rewards, ended = np.full(shape, np.nan, np.float32), np.ones((2, *shape), bool)
        first_t = np.zeros(len(lanes), np.int64)
        finals: list[tuple[int, int, int]] = []
        for b, lane in enumerate(lanes.tolist()):
            mine = self.lanes[lane]
            for t in range(lengths[b]):
                self._step(mine)
                step = mine.steps[mine.given]
                mine.given += 1
                if t == 0:
                    first_t[b] = step.t
                obs[t, b], actions[t, b, 0], masks[t, b] = step.obs, step.action, step.mask
                rewards[t, b], episodes[t, b] = step.reward, step.episode
                ended[:, t, b] = step.terminated, step.truncated
                if step.truncated:
                    finals.append((t, b, step.final))
            obs[lengths[b], b] = mine.seen
        return Batch(
            obs=(obs,), categories=actions, reals=np.zeros((*shape, 0), np.float32),
            logp=np.zeros(shape, np.float32), rewards=rewards, terminated=ended[0],
            truncated=ended[1], lengths=lengths, versions=np.zeros(shape, np.int64), lanes=lanes,
            episodes=episodes, first_t=first_t, masks=masks,
            final_obs=(np.array([final for _, _, final in finals], np.float32),),
            final_index=np.array([(t, b) for t, b, _ in finals], np.int64).reshape(-1, 2),
        )  # fmt: skip

    def found(self) -> dict[int, tuple[Lane, int]]:
        """Observation -> its lane and the number of the step that began there."""
        return {step.obs: (lane, i) for lane in self.lanes for i, step in enumerate(lane.steps)}
