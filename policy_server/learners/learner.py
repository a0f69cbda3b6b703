"""One policy's learner: a batch in, new weights out. Knows neither processes nor files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

from policy_server import algorithms
from policy_server.config import ExplorationConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import CheckpointError, ConfigError, LearnerError
from policy_server.exploration.bonus import Bonus
from policy_server.exploration.plugin import NONE
from policy_server.named import told
from policy_server.networks.device import pick_device
from policy_server.networks.snapshot import (
    flat_view,
    flatten_parameters,
    load_flat,
    parameter_count,
)
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState, UpdateResult

SMALL_NETWORK = 500_000
"""Parameters below which one thread does: of a minibatch of 128 through 2 x 64 units, two threads
take 1.26 ms where one takes 0.99, through 2 x 256 units 3.3 and 3.0; through four convolutions
and a million parameters it is 56 ms against 99 (two-core virtual machine)."""


def pick_threads(threads: int, parameters: int, alone: bool) -> int:
    """Threads for torch: as many as asked for. 0: one for a small network, for others all cores
    if the learner is alone on the machine while it learns, else all but two, at least one."""
    if threads > 0:
        return threads
    cores = os.cpu_count() or 1
    if parameters < SMALL_NETWORK:
        return 1
    return cores if alone else max(1, cores - 2)


class Learner:
    """Owns a policy's algorithm. Lives in the learner's process.

    Attributes:
        policy_name: of the policy.
        algorithm_name: as registered in `policy_server.algorithms`.
        algorithm: the algorithm itself.
        updates: calls of `update` so far, those before `load` included.
        device: where the algorithm computes.
        parameters: of the network, how many.
        threads: that torch computes with, in the whole process.
    """

    def __init__(
        self,
        policy_name: str,
        spaces: PolicySpaces,
        algorithm: str,
        training: Any,
        model: ModelConfig,
        preprocessing: PreprocessingConfig,
        exploration: ExplorationConfig = ExplorationConfig(),  # noqa: B008
        *,
        seed: int,
        device: str = "auto",
        threads: int = 1,
        alone: bool = False,
    ):
        """`spaces.observation` is what comes out of the preprocessing. `threads` and
        `alone` (nobody else needs the cores while it learns) are those of `pick_threads` and hold
        for the whole process.

        Raises:
            ConfigError: no such algorithm or device, or `training` is another algorithm's.
            UnsupportedSpaceError: no network fits the spaces.
        """
        config_class, algorithm_class = algorithms.get(algorithm)
        if not isinstance(training, config_class):
            raise ConfigError(
                f"training: expected a {config_class.__name__} for algorithm {algorithm!r}, "
                f"got a {type(training).__name__}."
            )
        self.policy_name = policy_name
        self.algorithm_name = algorithm
        self.updates = 0
        self.device = pick_device(device)
        self._bonus: Bonus | None = None
        if exploration.name != NONE:
            self._bonus = Bonus(
                spaces, model, exploration, preprocessing, seed=seed, device=self.device
            )
            preprocessing = PreprocessingConfig()  # it has shaped the rewards by then
        with told(algorithm):
            self.algorithm = algorithm_class(
                spaces,
                model,
                training,
                seed=seed,
                device=self.device,
                reward_scale=preprocessing.reward_scale,
                reward_clip=preprocessing.reward_clip,
            )
        network = getattr(self.algorithm, "network", None)
        if not isinstance(network, torch.nn.Module):
            raise ConfigError(
                f"{algorithm}: expected its attribute `network` to be the torch module that acts, got "
                f"{network!r:.60}."
            )
        # What a network is built with, such as a mask, need not be finite; what was must remain so.
        self._finite = np.isfinite(self.weights())
        self.parameters = parameter_count(self.algorithm.network)
        self.threads = pick_threads(threads, self.parameters, alone)
        torch.set_num_threads(self.threads)

    def update(
        self,
        batch: Batch,
        env_steps: int,
        drive: Callable[[Steps[dict[str, float]]], dict[str, float]] = at_once,
        *,
        lend: bool = False,
    ) -> UpdateResult:
        """Learns from a batch; `env_steps` in all so far is where schedules stand. `drive` takes
        the steps of the update, where it has some. `lend`: the weights of the result may be the
        network's own memory, which the next update changes.

        Raises:
            LearnerError: the numbers broke; go on from the last state.
        """
        with told(self.algorithm_name):
            if self._bonus is not None:
                metrics = drive(self._update_with_bonus(self._bonus, batch, env_steps))
            elif _has_steps(type(self.algorithm)):
                metrics = drive(self._in_steps(batch, env_steps))
            else:
                metrics = self.algorithm.update(batch, env_steps)
        weights = flat_view(self.algorithm.network) if lend else None
        if weights is None:
            weights = self.weights()
        finite = np.isfinite(weights)
        spoilt = not (finite.all() or finite[self._finite].all())
        _check_numbers(self.algorithm_name, metrics, spoilt)
        self.updates += 1
        return UpdateResult(self.policy_name, self.updates, weights, metrics, batch.steps)

    def _update_with_bonus(
        self, bonus: Bonus, batch: Batch, env_steps: int
    ) -> Steps[dict[str, float]]:
        batch, metrics = yield from bonus.add(batch, env_steps)
        if _has_steps(type(self.algorithm)):
            learned = yield from self._in_steps(batch, env_steps)
        else:
            learned = self.algorithm.update(batch, env_steps)
        return metrics | learned if isinstance(learned, dict) else learned

    def _in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        steps = self.algorithm.update_in_steps(batch, env_steps)
        if not isinstance(steps, Generator):
            raise LearnerError(
                f"{self.algorithm_name}: expected `update_in_steps` to be a generator, got a "
                f"{type(steps).__name__}: let it yield where it may be paused, or call it `update`."
            )
        return steps

    def weights(self) -> np.ndarray:
        """The network as it stands: float32 `[P]`, read-only, a copy."""
        return flatten_parameters(self.algorithm.network)

    def adopt(self, newer: UpdateResult) -> None:
        """Takes over the weights of a later update than the last. The rest of the state (the
        optimiser's moments, above all) stays behind."""
        load_flat(self.algorithm.network, newer.weights)
        self.updates = newer.updates

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        with told(self.algorithm_name):
            state = self.algorithm.state()
        if not isinstance(state, PolicyState):
            raise LearnerError(
                f"{self.algorithm_name}: expected `state` to return a PolicyState, got a "
                f"{type(state).__name__}."
            )
        mine = {"algorithm": self.algorithm_name, "updates": self.updates}
        if self._bonus is not None:
            added = self._bonus.state()
            state = PolicyState(state.tensors | added.tensors, state.data | added.data)
        return PolicyState(state.tensors, {**state.data, **mine})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned, here or elsewhere.

        Raises:
            CheckpointError: it is another algorithm's, or fits another network.
        """
        stored = state.data.get("algorithm")
        if stored != self.algorithm_name:
            raise CheckpointError(
                f"Policy {self.policy_name!r}: expected the state of {self.algorithm_name!r}, got "
                f"that of {stored!r}: set the same algorithm, or start without the checkpoint."
            )
        try:
            with told(self.algorithm_name):
                self.algorithm.load(state)
        except CheckpointError as error:
            raise CheckpointError(f"Policy {self.policy_name!r}: {error}") from error
        if self._bonus is not None:
            self._bonus.load(state)
        self.updates = int(state.data["updates"])


def _check_numbers(algorithm: str, metrics: Any, spoilt: bool) -> None:
    """What our own pages never bring about, but somebody else's may; `spoilt`: weights, too.

    Raises:
        LearnerError: metrics are no dict of finite numbers, or weights are spoilt.
    """
    if not isinstance(metrics, dict):
        raise LearnerError(
            f"{algorithm}: expected its update to return a dict of numbers by their names, got "
            f"{metrics!r:.80}."
        )
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            got = " ".join(repr(value).split())[:80]
            raise LearnerError(
                f"{algorithm}: expected its update to return a dict of numbers by their names, got "
                f"{got} as {name!r}."
            )
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken or spoilt:
        broken += ["weights"] if spoilt else []
        raise LearnerError(
            f"{algorithm}: expected finite numbers after the update, got {', '.join(broken)} that "
            "are not: lr is too large, or something divides by zero. "
            + ("Go on from the last state." if spoilt else "The network's weights are finite.")
        )


def _has_steps(algorithm: type) -> bool:
    """Whether its `update_in_steps` is the newest word: a class that changes `update` alone is
    asked for that."""
    for one in algorithm.__mro__:
        if "update_in_steps" in vars(one):
            return True
        if "update" in vars(one):
            return False
    return False
