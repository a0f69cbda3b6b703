"""Groups made by hand: two or three agents that one policy plays."""

from __future__ import annotations

import dataclasses

import numpy as np

from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, Space

CHOICE, REALS = Discrete(3), Box(-1, 1, (2,))


def group(
    action: Space = CHOICE,
    agents: int = 2,
    *,
    state: bool = False,
    rewards: bool = False,
    mask: bool = False,
) -> PolicySpaces:
    """Alike agents that see three numbers each."""
    names = [f"agent_{i}" for i in range(agents)]
    parts: dict[str, Space] = {"agents": Dict({name: Box(-9, 9, (3,)) for name in names})}
    if state:
        parts["state"] = Box(-9, 9, (2,))
    if rewards:
        parts["rewards"] = Box(-np.inf, np.inf, (agents,))
    return PolicySpaces(Dict(parts), Dict({name: action for name in names}), mask)


def of_two(spaces: PolicySpaces) -> PolicySpaces:
    """A group of two who see and do that."""
    return PolicySpaces(
        Dict({"agents": Dict({name: spaces.observation for name in "ab"})}),
        Dict({name: spaces.action for name in "ab"}),
        spaces.mask,
    )


def unlike(*, rewards: bool = False) -> PolicySpaces:
    """Two agents that see and do different things."""
    seen = Dict({"a": Box(-9, 9, (3,)), "b": Dict({"x": Discrete(4), "y": Box(-9, 9, (2,))})})
    parts: dict[str, Space] = {"agents": seen}
    if rewards:
        parts["rewards"] = Box(-np.inf, np.inf, (2,))
    return PolicySpaces(Dict(parts), Dict({"a": Discrete(2), "b": Discrete(4)}))


def told_apart(batch: Batch) -> Batch:
    """A random batch whose last leaf is what each agent got for the step before: rewards add up."""
    own = batch.obs[-1][1:].copy()
    own[batch.final_index[:, 0], batch.final_index[:, 1]] = batch.final_obs[-1]
    return dataclasses.replace(batch, rewards=own.sum(2))
