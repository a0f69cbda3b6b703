"""A replay buffer in several parts, each in a process of its own, on any machine of the cluster.

Lane i belongs to part i % n, so that what a lane does stays together. A draw takes from each part
as much as its share of all priorities, so that every step is drawn with the probability that it
would have in one buffer, and weighed accordingly. Steps travel as columns, through Ray's object
store.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from policy_server.errors import CheckpointError, ConfigError
from policy_server.networks.snapshot import as_tensor
from policy_server.replay.draws import NothingToDraw, PrioritizedDraws
from policy_server.replay.remedy import WITHOUT
from policy_server.replay.steps import StepBuffer, Transitions
from policy_server.types import Batch


class Stock(NamedTuple):
    """What a part has.

    Attributes:
        mass: sum of all p^alpha.
    """

    items: int
    inserted: int
    mass: float


class Priorities(NamedTuple):
    """As in `draws.PrioritizedDraws`."""

    alpha: float
    beta: float
    eps: float


class ReplayPart:
    """One part. Lives in a Ray actor."""

    def __init__(self, capacity: int, priorities: Priorities, seed: tuple[int, int]):
        torch.set_num_threads(1)
        self._rng = np.random.default_rng(seed)
        self._buffer = StepBuffer(capacity, torch.device("cpu"))
        self._draws = PrioritizedDraws(self._buffer, self._rng, *priorities)

    def _stock(self) -> Stock:
        return Stock(self._buffer.items, self._buffer.inserted, self._draws.mass)

    def insert(self, batch: Batch, rewards: np.ndarray) -> tuple[np.ndarray, Stock]:
        """Places of the new steps."""
        gone, new = self._buffer.insert(batch, rewards)
        self._draws.moved(gone, new)
        return new, self._stock()

    def drawable(self, places: np.ndarray) -> np.ndarray:
        return self._buffer.drawable(places)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Places, and each one's p^alpha; none where nothing can be learned from yet."""
        try:
            return self._draws.pick(n)
        except NothingToDraw:
            return np.zeros(0, np.int64), np.zeros(0)

    def transitions(self, places: np.ndarray, n_step: int, gamma: float) -> list[np.ndarray]:
        """Columns of `Transitions`, one after another."""
        return [column.numpy() for column in _flat(self._buffer.transitions(places, n_step, gamma))]

    def surprised(self, places: np.ndarray, errors: np.ndarray) -> Stock:
        self._draws.surprised(places, errors)
        return self._stock()

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, buffer = self._buffer.state()
        more, draws = self._draws.state()
        rng = self._rng.bit_generator.state
        return tensors | more, {"buffer": buffer, "draws": draws, "rng": rng}

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> Stock:
        self._buffer.load(tensors, data["buffer"])
        self._draws.load(tensors, data["draws"])
        self._rng.bit_generator.state = data["rng"]
        return self._stock()


class ShardedSteps:
    """All parts together: a buffer of steps (`steps.StepBuffer`) and the draws from it
    (`draws.Draws`) at once. The parts end with it.

    A place is part + n * place there.

    Attributes:
        capacity: rows of all parts together.
        device: where steps are read to.

    Raises:
        ConfigError: Ray does not run in this process.
    """

    device = torch.device("cpu")

    def __init__(self, parts: int, capacity: int, priorities: Priorities, seed: int):
        if not ray.is_initialized():
            raise ConfigError(
                f"training.replay_shards = {parts} expects Ray, which does not run in this process: "
                "leave it out (0), or run the server with its processes (in_process=False)."
            )
        self._each = -(-capacity // parts)
        self.capacity = parts * self._each
        self._priorities, self._seed = priorities, seed
        self._beta, self._rng = priorities.beta, np.random.default_rng((seed, parts))
        self._count = parts
        self._stocks = [Stock(0, 0, 0.0)] * parts
        self._coming: list[tuple[int, Any]] = []  # part -> stocks that are on their way

    @functools.cached_property
    def _parts(self) -> list[Any]:
        """Their processes, which start when they are needed first."""
        # They mostly wait: none is given a core of its own.
        make: Any = ray.remote(ReplayPart).options(num_cpus=0)
        each = range(self._count)
        return [make.remote(self._each, self._priorities, (self._seed, i)) for i in each]

    # -- writing ---------------------------------------------------------------------------------

    def insert(self, batch: Batch, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `StepBuffer.insert`, but no places are told whose steps are gone: the parts know."""
        home = batch.lanes % self._count
        calls = {}
        for part in np.unique(home).tolist():
            lanes = np.flatnonzero(home == part)
            mine = batch.columns(lanes), rewards[:, lanes]
            calls[part] = self._parts[part].insert.remote(*mine)
        self._settle()
        new = []
        for part, call in calls.items():
            places, self._stocks[part] = ray.get(call)
            new.append(part + self._count * places)
        return np.zeros(0, np.int64), np.concatenate(new)

    def moved(self, gone: np.ndarray, new: np.ndarray) -> None:
        """The parts know."""

    def surprised(self, places: np.ndarray, errors: np.ndarray) -> None:
        """As `Draws.surprised`; does not wait."""
        for part, where, there in self._by_part(places):
            self._coming.append((part, self._parts[part].surprised.remote(there, errors[where])))

    def _settle(self) -> None:
        """Waits for what the parts have to say."""
        for part, call in self._coming:
            self._stocks[part] = ray.get(call)
        self._coming.clear()

    # -- reading ---------------------------------------------------------------------------------

    @property
    def items(self) -> int:
        return sum(stock.items for stock in self._stocks)

    @property
    def inserted(self) -> int:
        return sum(stock.inserted for stock in self._stocks)

    def steps_of(self, places: np.ndarray) -> int:
        return len(places)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Draws.draw`."""
        self._settle()
        masses = np.array([stock.mass for stock in self._stocks])
        total, left = masses.sum(), n
        places, drawn = [], []
        while left:
            if not masses.any():
                raise NothingToDraw
            counts = self._rng.multinomial(left, masses / masses.sum())
            calls = {i: self._parts[i].draw.remote(int(k)) for i, k in enumerate(counts) if k}
            for part, call in calls.items():
                there, mass = ray.get(call)
                places.append(part + self._count * there)
                drawn.append(mass)
                left -= len(there)
                if not len(there):
                    masses[part] = 0.0  # the others draw for it
        share = np.concatenate(drawn) / total
        weights = (self.items * share) ** -self._beta
        return np.concatenate(places), (weights / weights.max()).astype(np.float32)

    def drawable(self, places: np.ndarray) -> np.ndarray:
        """As `StepBuffer.drawable`."""
        found = np.zeros(len(places), bool)
        calls = [
            (w, self._parts[p].drawable.remote(there)) for p, w, there in self._by_part(places)
        ]
        for where, call in calls:
            found[where] = ray.get(call)
        return found

    def transitions(self, places: np.ndarray, n_step: int, gamma: float) -> Transitions:
        """As `StepBuffer.transitions`."""
        wheres, calls = [], []
        for part, where, there in self._by_part(places):
            wheres.append(where)
            calls.append(self._parts[part].transitions.remote(there, n_step, gamma))
        order = torch.from_numpy(np.argsort(np.concatenate(wheres)))
        columns = [
            torch.cat([as_tensor(one) for one in column]).index_select(0, order)
            for column in zip(*ray.get(calls), strict=True)
        ]
        return _nested(columns)

    def _by_part(self, places: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(part, where its places stand in `places`, the places there) of each part that has any."""
        there, home = np.divmod(places, self._count)
        found = [(part, np.flatnonzero(home == part)) for part in np.unique(home).tolist()]
        return [(part, where, there[where]) for part, where in found]

    # -- saving ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        states = ray.get([part.state.remote() for part in self._parts])
        tensors = {
            f"part.{i}.{name}": tensor
            for i, (mine, _) in enumerate(states)
            for name, tensor in mine.items()
        }
        rng = self._rng.bit_generator.state
        return tensors, {"parts": [data for _, data in states], "rng": rng}

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it is of another size, number of parts, or of other spaces.
        """
        stored = data.get("parts")
        if stored is None or len(stored) != self._count:
            came = "one buffer" if stored is None else f"{len(stored)} parts"
            raise CheckpointError(
                f"the stored replay buffer has {came} and training.replay_shards = "
                f"{self._count}: set the same, or {WITHOUT}."
            )
        calls = []
        for i, (part, own) in enumerate(zip(self._parts, stored, strict=True)):
            head = f"part.{i}."
            mine = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
            calls.append(part.load.remote(mine, own))
        self._stocks = ray.get(calls)
        self._rng.bit_generator.state = data["rng"]


def _flat(steps: Transitions) -> list[torch.Tensor]:
    """Columns of one kind after the other: all but observations, then these, and those behind."""
    rest = [steps.mask, steps.categories, steps.reals, steps.rewards, steps.next_mask]
    return [*rest, steps.discounts, *steps.obs, *steps.next_obs]


def _nested(columns: list[torch.Tensor]) -> Transitions:
    """The inverse of `_flat`."""
    mask, categories, reals, rewards, next_mask, discounts, *leaves = columns
    obs, next_obs = leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :]
    return Transitions(
        tuple(obs), mask, categories, reals, rewards, tuple(next_obs), next_mask, discounts
    )
