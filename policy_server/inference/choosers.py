"""From the network's head to an action, as the algorithm wants it.

Lives on the gateway's thread.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from policy_server.acting import (
    Acting,
    EpsilonGreedy,
    LaneEpsilons,
    NoisyActions,
    Perturbed,
    SquashedGaussian,
    Stochastic,
)
from policy_server.inference.autoregressive import AutoregressiveChooser
from policy_server.inference.deterministic import DeterministicChooser
from policy_server.inference.epsilon_greedy import EpsilonGreedyChooser
from policy_server.inference.lane_epsilons import LaneEpsilonsChooser
from policy_server.inference.noisy_actions import NoisyActionsChooser
from policy_server.inference.own_chooser import OwnChooser
from policy_server.inference.sampling import Choice, Sampler
from policy_server.inference.squashed import SquashedChooser
from policy_server.networks.policy import ActingNetwork
from policy_server.types import ActionLayout


class Chooser(Protocol):
    """Attributes:
    noise_width: uniforms needed per action.
    remembers: it must be told where episodes begin.
    explores: what it adds to greedy actions is there for learning alone.
    """

    noise_width: int
    remembers: bool
    explores: bool

    def choose(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        uniform: np.ndarray,
        greedy: np.ndarray | None,
        policy_steps: int,
        slots: np.ndarray,
    ) -> Choice:
        """As `sampling.Sampler.choose`; `policy_steps`: actions of the policy so far; `slots`:
        int64[n], the lanes."""
        ...

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of given actions: float32 `[n]`."""
        ...

    def begin(self, slots: np.ndarray) -> None:
        """Episodes begin on these lanes."""
        ...


def chooser_for(network: ActingNetwork, layout: ActionLayout, acting: Acting) -> Chooser:
    """What carries `acting` out with the heads of `network`, whichever kind they are."""
    if isinstance(acting, Stochastic):
        if network.own is not None:
            return OwnChooser(layout, network.own)
        if network.autoregressive is not None:
            return AutoregressiveChooser(layout, network)
    return make_chooser(layout, acting)


def make_chooser(layout: ActionLayout, acting: Acting) -> Chooser:
    """What carries `acting` out with plain heads."""
    if isinstance(acting, EpsilonGreedy):
        return EpsilonGreedyChooser(layout, acting)
    if isinstance(acting, LaneEpsilons):
        return LaneEpsilonsChooser(layout, acting)
    if isinstance(acting, SquashedGaussian):
        return SquashedChooser(layout, acting)
    if isinstance(acting, NoisyActions):
        if layout.categories:
            return SquashedChooser(layout, SquashedGaussian(acting.random_steps))
        return NoisyActionsChooser(layout, acting)
    if isinstance(acting, Perturbed):
        return DeterministicChooser(layout)
    return Sampler(layout)
