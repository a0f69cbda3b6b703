"""The store of unrolls against one that keeps a list of steps per lane and nothing cleverer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from policy_server.rollouts.unrolls import RowLayout, UnrollStore

LEAVES = (((3,), np.dtype("<f4")), ((), np.dtype("<f8")), ((2, 2), np.dtype("u1")))
LAYOUTS = {
    "everything": RowLayout(LEAVES, 2, 3, 5),
    "one choice": RowLayout(LEAVES[:1], 1, 0, 0),
    "reals, masked bytes": RowLayout(LEAVES[2:], 0, 1, 4),
}


@dataclass
class Steps:
    """An unroll: complete steps, and what is seen behind them."""

    lane: int
    done: list[dict[str, Any]] = field(default_factory=list)
    pending: dict[str, Any] | None = None
    seen: tuple[np.ndarray, ...] | None = None
    finals: dict[int, tuple[np.ndarray, ...]] = field(default_factory=dict)


class Model:
    """What `UnrollStore` promises, by lane and step.

    Attributes:
        open: lane -> its unroll.
        waiting: lanes that were sent an action.
        finished: oldest first.
    """

    def __init__(self, length: int):
        self.length = length
        self.open: dict[int, Steps] = {}
        self.waiting: set[int] = set()
        self.finished: list[Steps] = []

    def begin(self, lane: int, step: dict[str, Any]) -> None:
        unroll = self.open.setdefault(lane, Steps(lane))
        unroll.pending, unroll.seen = step, None
        self.waiting.add(lane)

    def complete(self, lane: int, outcome: dict[str, Any], obs: tuple[np.ndarray, ...]) -> None:
        self.waiting.discard(lane)
        unroll = self.open.get(lane)
        if unroll is None:
            return
        unroll.done.append({**unroll.pending, **outcome})
        unroll.pending = None
        if len(unroll.done) == self.length:
            self.finish(lane, obs)

    def finish(self, lane: int, obs: tuple[np.ndarray, ...] | None) -> None:
        unroll = self.open.pop(lane, None)
        if unroll is None or not unroll.done:
            return
        if obs is not None:
            unroll.seen = obs
        elif unroll.pending is not None:
            unroll.seen = unroll.pending["obs"]
        unroll.pending = None
        self.finished.append(unroll)

    def wanting(self, lane: int) -> bool:
        unroll = self.open.get(lane)
        if unroll is None:
            return True
        return len(unroll.done) + (unroll.pending is not None) >= self.length


class Play:
    """A store and its model, which do the same things; lanes go their own ways."""

    def __init__(self, layout: RowLayout, length: int, lanes: int, seed: int):
        self.layout, self.lanes = layout, lanes
        self.rng = np.random.default_rng(seed)
        self.store = UnrollStore(layout, length, 2)
        self.store.add_lanes(lanes)
        self.model = Model(length)
        self.version = 0
        self.grown = 0

    # -- what a tick brings -------------------------------------------------------------------------

    def obs(self, n: int) -> tuple[np.ndarray, ...]:
        return tuple(
            self.rng.integers(0, 256, (n, *shape)).astype(dtype)
            for shape, dtype in self.layout.observations
        )

    def some(self, lanes: Any) -> np.ndarray:
        """Some of these lanes, in any order."""
        lanes = self.rng.permutation(np.array(sorted(lanes), np.int64))
        return lanes[self.rng.random(len(lanes)) < self.rng.choice([0.3, 0.9])]

    def tick(self) -> None:
        """One of the things that happen, to some of the lanes that it may happen to."""
        waiting, open_ = self.model.waiting, self.model.open
        idle = set(range(self.lanes)) - waiting
        deed = self.rng.choice(
            [
                "begin",
                "complete",
                "finish",
                "abandon",
                "cut",
                "see",
                "replace",
                "silent",
                "weights",
            ],
            p=[0.34, 0.36, 0.04, 0.03, 0.06, 0.05, 0.05, 0.04, 0.03],
        )
        if deed == "begin":
            self.begin(self.some(idle))
        elif deed == "complete":
            self.complete(self.some(waiting))
        elif deed == "finish":
            self.finish(self.some(range(self.lanes)))
        elif deed == "abandon":
            self.abandon(self.some(range(self.lanes)))
        elif deed == "cut":  # what is behind the last step is known: seen, or acted upon
            self.cut(self.some(k for k, u in open_.items() if u.pending or u.seen))
        elif deed == "see":
            self.see(self.some(k for k, u in open_.items() if not u.pending))
        elif deed == "replace":
            self.replace(self.some(k for k, u in open_.items() if u.pending))
        elif deed == "silent":  # lanes that are evaluated act and do not record
            lanes = self.some(idle - open_.keys())
            self.store.pending[lanes] = True
            waiting.update(lanes.tolist())
        else:
            self.version += 1

    def begin(self, lanes: np.ndarray) -> None:
        n, lay = len(lanes), self.layout
        obs = self.obs(n)
        categories = self.rng.integers(0, 9, (n, lay.categories))
        reals = self.rng.random((n, lay.reals)).astype("<f4")
        logp = self.rng.random(n).astype("<f4")
        masks = self.rng.integers(0, 2, (n, lay.mask_width)).astype("u1")
        episodes, lengths = self.rng.integers(0, 1000, (2, self.lanes))  # by lane
        rows = len(self.store.logp)
        self.store.begin(
            lanes, obs, categories, reals, logp, masks if lay.mask_width else None, self.version,
            episodes, lengths,
        )  # fmt: skip
        self.grown += len(self.store.logp) > rows
        for i, lane in enumerate(lanes.tolist()):
            step = {
                "obs": tuple(leaf[i] for leaf in obs),
                "categories": categories[i],
                "reals": reals[i],
                "logp": logp[i],
                "masks": masks[i],
                "versions": self.version,
                "episodes": episodes[lane],
                "number": lengths[lane],
            }
            self.model.begin(lane, step)

    def complete(self, lanes: np.ndarray) -> None:
        n = len(lanes)
        rewards = self.rng.random(n).astype("<f4")
        terminated, truncated = self.rng.random((2, n)) < 0.1
        truncated &= ~terminated
        finals, obs = self.obs(n), self.obs(n)
        for i, lane in enumerate(lanes.tolist()):
            if truncated[i]:
                final = tuple(leaf[i] for leaf in finals)
                self.store.add_final(lane, final)
                if lane in self.model.open:
                    unroll = self.model.open[lane]
                    unroll.finals[len(unroll.done)] = final
        self.store.complete(lanes, rewards, terminated, truncated, obs)
        for i, lane in enumerate(lanes.tolist()):
            outcome = {
                "rewards": rewards[i],
                "terminated": terminated[i],
                "truncated": truncated[i],
            }
            self.model.complete(lane, outcome, tuple(leaf[i] for leaf in obs))

    def finish(self, lanes: np.ndarray) -> None:
        """With what the lanes see now: only those that wait for no outcome can see anything."""
        lanes = np.array([k for k in lanes.tolist() if k not in self.model.waiting], np.int64)
        obs = self.obs(len(lanes))
        self.store.finish(lanes, obs)
        for i, lane in enumerate(lanes.tolist()):
            self.model.finish(lane, tuple(leaf[i] for leaf in obs))

    def cut(self, lanes: np.ndarray) -> None:
        self.store.finish(lanes)
        for lane in lanes.tolist():
            self.model.finish(lane, None)

    def abandon(self, lanes: np.ndarray) -> None:
        known = self.model.open
        lanes = np.array(
            [k for k in lanes.tolist() if k not in known or known[k].pending or known[k].seen],
            np.int64,
        )
        for lane in lanes.tolist():
            if lane in known and known[lane].pending and self.rng.random() < 0.5:
                # Of a step that was never complete, so no batch may have it.
                self.store.add_final(lane, tuple(leaf[0] for leaf in self.obs(1)))
        lost = sum(known[k].pending is not None for k in lanes.tolist() if k in known)
        assert self.store.abandon(lanes) == lost
        for lane in lanes.tolist():
            self.model.finish(lane, None)
            self.model.waiting.discard(lane)

    def see(self, lanes: np.ndarray) -> None:
        obs = self.obs(len(lanes))
        self.store.see(lanes, obs)
        for i, lane in enumerate(lanes.tolist()):
            self.model.open[lane].seen = tuple(leaf[i] for leaf in obs)

    def replace(self, lanes: np.ndarray) -> None:
        """Another action; what stood behind the pending steps is what they were begun with."""
        pending = [self.model.open[k].pending for k in lanes.tolist()]
        obs, masks = self.store.pending_inputs(lanes)
        for i, step in enumerate(pending):
            for leaf, mine in zip(obs, step["obs"], strict=True):
                np.testing.assert_array_equal(leaf[i], mine)
            assert masks is None or (masks[i] == step["masks"]).all()
        n, lay = len(lanes), self.layout
        categories = self.rng.integers(0, 9, (n, lay.categories))
        reals = self.rng.random((n, lay.reals)).astype("<f4")
        logp = self.rng.random(n).astype("<f4")
        self.store.replace_action(lanes, categories, reals, logp)
        for i, step in enumerate(pending):
            step |= {"categories": categories[i], "reals": reals[i], "logp": logp[i]}

    # -- comparing ----------------------------------------------------------------------------------

    def compare(self) -> None:
        store, open_ = self.store, self.model.open
        assert store.pending[: self.lanes].nonzero()[0].tolist() == sorted(self.model.waiting)
        assert store.open_unrolls == len(open_)
        assert store.open_steps == sum(len(unroll.done) for unroll in open_.values())
        finished = sum(len(unroll.done) for unroll in self.model.finished)
        pending = sum(unroll.pending is not None for unroll in open_.values())
        assert store.finished_steps == finished
        assert store.steps == finished + store.open_steps + pending
        assert [u.lane for u in store.finished] == [u.lane for u in self.model.finished]
        lanes = self.some(range(self.lanes))
        wanting = [self.model.wanting(lane) for lane in lanes.tolist()]
        assert store.wanting(lanes).tolist() == wanting
        assert store.any_wanting(lanes) == any(wanting)
        for lane in range(self.lanes):
            assert store.any_wanting(np.array([lane])) == self.model.wanting(lane)

    def gather(self, count: int) -> int:
        """Takes the oldest as a batch, and compares all of it. Returns the steps."""
        expected, self.model.finished = self.model.finished[:count], self.model.finished[count:]
        batch = self.store.gather([self.store.pop() for _ in range(count)])
        longest = max(len(unroll.done) for unroll in expected)
        assert batch.lengths.tolist() == [len(unroll.done) for unroll in expected]
        assert batch.lanes.tolist() == [unroll.lane for unroll in expected]
        assert batch.first_t.tolist() == [unroll.done[0]["number"] for unroll in expected]
        assert batch.rewards.shape == (longest, count)
        assert (batch.masks is None) == (self.layout.mask_width == 0)
        names = ["categories", "reals", "logp", "rewards", "terminated", "truncated", "versions"]
        names += ["episodes"] + (["masks"] if self.layout.mask_width else [])
        for b, unroll in enumerate(expected):
            for t in range(longest):
                for name in names:
                    mine = getattr(batch, name)[t, b]
                    if t < len(unroll.done):
                        np.testing.assert_array_equal(mine, unroll.done[t][name], name)
                    else:
                        assert poisoned(mine), name
            for i, leaf in enumerate(batch.obs):
                rows = [step["obs"][i] for step in unroll.done] + [unroll.seen[i]]
                np.testing.assert_array_equal(leaf[: len(rows), b], rows)
                assert poisoned(leaf[len(rows) :, b])
        finals = [
            (t, b, final) for b, u in enumerate(expected) for t, final in sorted(u.finals.items())
        ]
        assert batch.final_index.tolist() == [[t, b] for t, b, _ in finals]
        for i, (shape, dtype) in enumerate(self.layout.observations):
            stacked = np.array([final[i] for _, _, final in finals], dtype)
            np.testing.assert_array_equal(batch.final_obs[i], stacked.reshape(-1, *shape))
        return batch.steps


def poisoned(values: np.ndarray) -> bool:
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return bool(np.isnan(values).all())
    return bool((values == {"i": -1, "b": True, "u": 0xAB}[values.dtype.kind]).all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("length", "lanes"), [(1, 3), (2, 20), (5, 7), (8, 40)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_happens_to_lanes_a_batch_holds_their_steps(layout, length, lanes, seed):
    play = Play(LAYOUTS[layout], length, lanes, seed)
    gathered = 0
    for _ in range(160):
        play.tick()
        play.compare()
        waiting = len(play.model.finished)
        if waiting and play.rng.random() < 0.1:
            gathered += play.gather(int(play.rng.integers(1, waiting + 1)))
    if play.model.finished:
        gathered += play.gather(len(play.model.finished))
    assert gathered > 10
    assert play.grown >= (lanes > 4), "the pool began empty and grew with what was in it"
    # All lanes at rest: every block is free again, each once.
    play.finish(np.arange(lanes))
    play.abandon(np.arange(lanes))
    if play.model.finished:
        play.gather(len(play.model.finished))
    rows, size = len(play.store.logp), length + 1
    leftover = len(play.model.open)
    assert len(play.store._free) == rows // size - leftover
    assert len(set(play.store._free)) == len(play.store._free)


def test_lanes_that_come_later_begin_without_a_block():
    play = Play(LAYOUTS["everything"], 2, 4, 0)
    play.begin(np.arange(4))
    play.lanes = 30
    play.store.add_lanes(30)
    play.compare()
    late = np.array([29, 3, 17], np.int64)
    play.complete(np.arange(4))
    play.begin(late)
    play.compare()
    play.complete(late[::-1].copy())
    play.compare()
    assert [unroll.lane for unroll in play.model.finished] == [3]
    play.begin(np.arange(30))
    play.compare()
    play.complete(np.arange(30))
    play.compare()
    assert play.gather(6) == 12


def test_a_length_can_be_changed_when_nothing_is_stored():
    play = Play(LAYOUTS["everything"], 2, 3, 1)
    play.begin(np.arange(3))
    with pytest.raises(AssertionError, match="unrolls are open"):
        play.store.set_length(4)
    play.complete(np.arange(3))
    play.begin(np.arange(3))
    play.complete(np.arange(3))
    with pytest.raises(AssertionError, match="wait for their batch"):
        play.store.set_length(4)
    assert play.gather(3) == 6
    play.store.set_length(4)
    play.model.length = 4
    for _ in range(4):
        play.begin(np.arange(3))
        play.complete(np.arange(3))
        play.compare()
    assert play.gather(3) == 12
