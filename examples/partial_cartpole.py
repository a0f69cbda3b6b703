"""CartPole without velocities: where the cart and the pole are, not how fast they move. It takes a
memory to balance the pole.

From this folder:

    policy-server train --run PPO --env partial_cartpole:PartialCartPole-v1 --config partial_cartpole_ppo.toml
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation

POSITIONS = [0, 2]
"""Of the cart, in m, and the angle of the pole, in rad."""


def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    """What the id below stands for."""
    env = gymnasium.make("CartPole-v1", **kwargs)
    space = env.observation_space
    assert isinstance(space, Box)
    seen = Box(space.low[POSITIONS], space.high[POSITIONS], dtype=np.float32)
    return TransformObservation(env, lambda obs: obs[POSITIONS], seen)


gymnasium.register("PartialCartPole-v1", make)
