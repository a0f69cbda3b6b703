"""A simulator in ten lines: sixteen points on a line, each of which shall find its goal.

Start a server first: policy-server serve examples/serve.toml
"""

import numpy as np

from sim_clients import Client, Group
from sim_clients.protocol.spaces import Box, Discrete

random = np.random.default_rng()
with Client("tcp://127.0.0.1:5555", Group(Box(-3, 3, (2,)), Discrete(2), lanes=16)) as client:
    world = random.uniform(-1, 1, (16, 2))  # position and goal of each point
    actions = client.step(world)
    for tick in range(1, 5_001):
        world[:, 0] += 0.2 * actions - 0.1  # 0: to the left, 1: to the right
        rewards, final = -abs(world[:, 0] - world[:, 1]), world.copy()
        if over := tick % 20 == 0:
            world = random.uniform(-1, 1, (16, 2))
        actions = client.step(world, rewards, truncated=[over] * 16, final_obs=final)
