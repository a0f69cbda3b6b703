"""A policy as the gateway serves it: preprocessing, forward pass, sampling.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from policy_server.acting import Acting, Perturbed
from policy_server.config import InferenceConfig, PreprocessingConfig
from policy_server.errors import CheckpointError
from policy_server.inference.choosers import chooser_for
from policy_server.inference.executors import Executor, make_executor
from policy_server.inference.few_rows import FEW
from policy_server.inference.lane_states import LaneStates
from policy_server.inference.noise import draw, lane_keys
from policy_server.inference.perturbed import PerturbedExecutor
from policy_server.inference.preprocessing import Preprocessor
from policy_server.inference.sampling import Choice, RealScale, Sampler
from policy_server.networks import ActingNetwork
from policy_server.types import ActionLayout, Leaves, PolicySpaces


class ServedPolicy:
    """From observations as sent to actions as sent.

    Attributes:
        learner_spaces: what the network sees and does, behind the preprocessing.
        columns: (shape, dtype) of each observation leaf as it is stored.
        sees_as_sent: `see` does nothing.
        states: what the lanes remember, where the network has a memory.
        perturbs: it must be told which episodes begin (`start`).
        explores: as its chooser; a frozen policy does without.
    """

    def __init__(
        self,
        name: str,
        spaces: PolicySpaces,
        make_network: Callable[[PolicySpaces], ActingNetwork],
        acting: Acting,
        preprocessing: PreprocessingConfig,
        inference: InferenceConfig,
        seed: int,
    ):
        """`make_network`: for the spaces behind the preprocessing."""
        self.name = name
        self.seed = seed
        self.layout = ActionLayout(spaces.action)
        self.scale = RealScale(self.layout)
        self._preprocessor = Preprocessor(spaces.observation, preprocessing)
        self.columns = self._preprocessor.columns
        self.learner_spaces = PolicySpaces(self._preprocessor.space, spaces.action, spaces.mask)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = make_network(self.learner_spaces)
        self._perturbed: PerturbedExecutor | None = None
        if isinstance(acting, Perturbed):
            self._perturbed = PerturbedExecutor(network, acting, inference, seed)
        self._executor: Executor = self._perturbed or make_executor(
            network, self.learner_spaces.observation, inference
        )
        self.perturbs = self._perturbed is not None
        self._chooser = chooser_for(network, self.layout, acting)
        self.explores = self._chooser.explores
        self.states = LaneStates(network.state_size)
        self._remembers = self._chooser.remembers or self.states.size > 0
        self.sees_as_sent = self._preprocessor.nothing and not self._remembers

    # -- lanes --------------------------------------------------------------------------------

    def lane_keys(self, *place: object, lanes: int) -> np.ndarray:
        """Keys of the lanes' random numbers: uint64[lanes]."""
        return lane_keys(self.seed, self.name, *place, lanes=lanes)

    def add_lanes(self, lanes: int) -> None:
        """Room for lane numbers below `lanes`."""
        self._preprocessor.add_lanes(lanes)
        self.states.add_lanes(lanes)

    def start(self, slots: np.ndarray, episodes: np.ndarray) -> None:
        """Episodes with these numbers begin on these lanes, int64[n] each; number -1: one that is
        played without perturbation. Only where `perturbs`."""
        assert self._perturbed is not None, "this policy plays all episodes alike"
        self._perturbed.start(slots, episodes)

    # -- a tick -------------------------------------------------------------------------------

    def see(
        self, columns: list[np.ndarray], slots: np.ndarray, first: np.ndarray, learn: bool
    ) -> Leaves:
        """Observations as sent `[n, ...]` -> as the policy sees and the store keeps them. `first`:
        bool[n], episodes begin with them."""
        if self._remembers:
            self._chooser.begin(slots[first])
            self.states.forget(slots[first])
        return self._preprocessor(columns, slots, first, learn)

    def peek(self, columns: list[np.ndarray], slots: np.ndarray) -> Leaves:
        """The same for final observations, before their lanes' next `see`."""
        return self._preprocessor.peek(columns, slots)

    def choose(
        self,
        obs: Leaves,
        mask: np.ndarray | None,
        slots: np.ndarray,
        keys: np.ndarray,
        draws: np.ndarray,
        greedy: np.ndarray | None,
        policy_steps: int,
    ) -> Choice:
        """One forward pass, and one draw per row, which `draws` counts.

        Shapes: `obs` and `mask` by row, `slots` int64[n]; `keys` and `draws` uint64 by slot;
        `greedy` bool[n] or None (nobody). `policy_steps`: actions of the policy so far.
        """
        executor, chooser = self._executor, self._chooser
        log_std = executor.log_std
        if executor.few is not None and len(slots) <= FEW and isinstance(chooser, Sampler):
            x = executor.vector(obs)
            return executor.few.act(x, chooser, log_std, mask, slots, keys, draws, greedy)
        uniform = draw(slots, keys, draws, chooser.noise_width)
        if self._perturbed is not None:
            head = self._perturbed(obs, slots)
        elif self.states.size:
            head, states = executor.step(obs, self.states.take(slots))
            self.states.put(slots, states)
        else:
            head = executor(obs)
        return chooser.choose(head, log_std, mask, uniform, greedy, policy_steps, slots)

    def log_prob(
        self,
        obs: Leaves,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
        slots: np.ndarray,
    ) -> np.ndarray:
        """Of given actions under the present weights, instead of those chosen last on the lanes
        `slots`: float32[n]."""
        if self.states.size:
            head, _ = self._executor.step(obs, self.states.before[slots])
        else:
            head = self._executor(obs)
        return self._chooser.log_prob(head, self._executor.log_std, mask, categories, reals)

    def to_simulator(self, choice: Choice) -> list[np.ndarray]:
        """One contiguous column per leaf of the action space."""
        reals = self.scale.to_simulator(choice.reals) if self.layout.reals else choice.reals
        return self.layout.to_leaves(choice.categories, reals)

    # -- weights and state --------------------------------------------------------------------

    def weights(self) -> np.ndarray:
        """The flat snapshot in use, to be read only: float32 `[P]`."""
        return self._executor.weights()

    def load(self, weights: np.ndarray) -> None:
        """Takes over a published snapshot."""
        self._executor.load(weights)

    def state(self) -> dict[str, np.ndarray]:
        """Weights in use and running normalisation, for a checkpoint."""
        return {"weights": self.weights(), **self._preprocessor.state()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it belongs to another network, or to other spaces.
        """
        stored, own = state["weights"].size, self.weights().size
        if stored != own:
            raise CheckpointError(
                f"Policy {self.name!r}: the stored network has {stored} weights and this one {own}: "
                "set the model, training and preprocessing that it was trained with, and give it the "
                "same spaces."
            )
        self.load(state["weights"])
        self._preprocessor.load(state)
