"""Several agents of a PettingZoo environment as one group, which the server sees as one lane.

    gymnasium.register("Team-v0", lambda: GroupEnv(my_parallel_env()))

and `--env my_module:Team-v0` makes it a simulator like any other. What a group
looks like is in docs/GROUPS.md.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space

from sim_clients.errors import InvalidStep
from sim_clients.protocol import spaces
from sim_clients.rows import flat_mask
from sim_clients.space_conversion import as_space

REWARDS = ("sum", "each")


class GroupEnv(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """All agents of a parallel environment as one.

    It goes on as long as one of them does. Who has left sees zeros (or what is next to it in its
    space), may do anything, and gets nothing. When the last have left, it is truncated if any of
    them would have gone on (truncated, and not terminated), else terminated.

    Args:
        env: a PettingZoo parallel environment.
        state: `env.state()` is part of the observation, for mixers and critics: no agent sees it.
        rewards: "sum": the group gets the sum of all agents' rewards; "each": it does, and the
            observation tells what each of them got for the step before. The first one of an
            episode tells that of the last step of the episode before.

    Raises:
        ValueError: another value of `rewards`, an environment whose agents take turns, or one without
            `state_space` where there shall be a state.
    """

    def __init__(self, env: Any, *, state: bool = False, rewards: str = "sum"):
        if rewards not in REWARDS:
            raise ValueError(f"rewards: expected one of {', '.join(REWARDS)}, got {rewards!r}.")
        if hasattr(env, "last"):
            raise ValueError(
                "env: expected a parallel environment, got one whose agents take turns: "
                "pettingzoo.utils.turn_based_aec_to_parallel, say, makes one of it."
            )
        self.env = env
        self.metadata = dict(getattr(env, "metadata", {}))
        self.render_mode = getattr(env, "render_mode", None)
        # In the order in which Gymnasium has them, so that masks and rewards are in it, too.
        self._names: list[Any] = sorted(env.possible_agents, key=str)
        self._state, self._each = state, rewards == "each"
        seen = {name: _Seen(env.observation_space(name)) for name in self._names}
        self._seen = seen
        self._widths = {n: spaces.mask_width(as_space(env.action_space(n))) for n in self._names}
        parts: dict[str, Space[Any]] = {
            "agents": Dict({str(name): seen[name].space for name in self._names})
        }
        if state:
            space = getattr(env, "state_space", None)
            if space is None:
                raise ValueError(
                    "state: expected an environment with a state_space, got one without."
                )
            parts["state"] = space
        if self._each:
            parts["rewards"] = Box(-np.inf, np.inf, (len(self._names),), np.float32)
        self.observation_space = Dict(parts)
        self.action_space = Dict({str(name): env.action_space(name) for name in self._names})
        self._choices = {  # who chooses one of several
            name
            for name in self._names
            if isinstance(as_space(env.action_space(name)), spaces.Discrete)
        }
        self._masked = False  # there was a mask
        self._rewards = np.zeros(len(self._names), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As Gymnasium."""
        super().reset(seed=seed)
        obs, infos = self.env.reset(seed=seed, options=options)
        return self._observation(obs), self._info(obs, infos)

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """As Gymnasium."""
        told = {name: self._own(action, name) for name in self.env.agents}
        obs, rewards, terminated, truncated, infos = self.env.step(told)
        self._rewards = np.array([rewards.get(name, 0.0) for name in self._names], np.float32)
        over = not self.env.agents
        # Behind who came to its end there is nothing, whatever the clock says; others would go on.
        cut = over and any(truncated.get(n, False) and not terminated.get(n, False) for n in told)
        ended = over and not cut
        seen = self._observation(obs)
        return seen, float(sum(rewards.values())), ended, cut, self._info(obs, infos)

    def render(self) -> Any:
        """Of the environment."""
        return self.env.render()

    def close(self) -> None:
        """Of the environment."""
        self.env.close()

    def _own(self, action: dict[str, Any], name: Any) -> Any:
        own = action[str(name)]
        return int(own) if name in self._choices else own

    def _observation(self, obs: dict[Any, Any]) -> dict[str, Any]:
        unknown = set(obs) - set(self._names)
        if unknown:
            raise InvalidStep(
                f"expected agents among possible_agents, got {sorted(map(str, unknown))}: name every "
                "agent that may ever come."
            )
        seen: dict[str, Any] = {
            "agents": {str(name): self._seen[name].of(obs.get(name)) for name in self._names}
        }
        if self._state:
            seen["state"] = self.env.state()
        if self._each:
            seen["rewards"] = self._rewards.copy()
        return seen

    def _info(self, obs: dict[Any, Any], infos: dict[Any, dict[str, Any]]) -> dict[str, Any]:
        """The masks of all agents one after the other, if there ever were any."""
        masks = {
            name: self._seen[name].mask(obs.get(name), infos.get(name)) for name in self._names
        }
        self._masked |= any(mask is not None for mask in masks.values())
        if not self._masked:
            return {}
        parts = []
        for name, mask in masks.items():
            free = np.ones(self._widths[name], np.uint8)
            there = mask is not None and name in self.env.agents
            parts.append(flat_mask({"action_mask": mask}, len(free)) if there else free)
        return {"action_mask": np.concatenate(parts)}


class _Seen:
    """What one agent sees, without the mask that PettingZoo's games put beside it."""

    def __init__(self, space: Space[Any]):
        parts = getattr(space, "spaces", None)
        self._inside = isinstance(space, Dict) and "action_mask" in (parts or ())
        self._alone = self._inside and set(parts or ()) == {"observation", "action_mask"}
        self.space: Space[Any] = space
        if self._alone:
            assert isinstance(space, Dict)
            self.space = space["observation"]
        elif self._inside:
            assert isinstance(space, Dict)
            self.space = Dict({k: v for k, v in space.items() if k != "action_mask"})
        own = as_space(self.space)
        self._nothing = spaces.unflatten(own, [_nothing(leaf) for _, leaf in spaces.leaves(own)])

    def of(self, obs: Any) -> Any:
        """What it sees, or what stands for that where it has left."""
        if obs is None:
            return copy.deepcopy(self._nothing)
        if self._alone:
            return obs["observation"]
        if self._inside:
            return {key: value for key, value in obs.items() if key != "action_mask"}
        return obs

    def mask(self, obs: Any, info: Any) -> Any:
        """Its action mask, or None."""
        if self._inside:
            return None if obs is None else obs["action_mask"]
        return (info or {}).get("action_mask")


def _nothing(leaf: spaces.Leaf) -> np.ndarray:
    """What is seen where nobody is: zero, or what its space has instead."""
    if isinstance(leaf, spaces.Box):
        return np.clip(np.zeros(leaf.shape, leaf.dtype), leaf.low, leaf.high)
    return np.broadcast_to(np.asarray(getattr(leaf, "start", 0), leaf.dtype), leaf.shape)
