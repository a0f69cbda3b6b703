"""An algorithm whose first process never gets to give its state away behind an update.

Whoever imports this module makes it known, to the learner's process as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from policy_server import algorithms
from policy_server.networks import build_network
from policy_server.types import PolicyState


@dataclass(frozen=True)
class StubbornTraining(algorithms.Training):
    """`marker` exists once a process has kept its state for itself."""

    marker: str = "marker"
    train_batch_size: int = 64


class Stubborn:
    @staticmethod
    def make_network(spaces, model, training):
        return build_network(spaces, model)

    def __init__(self, spaces, model, config, *, seed, device, reward_scale, reward_clip):
        torch.manual_seed(seed)
        self.network = self.make_network(spaces, model, config)
        self.marker = Path(config.marker)
        self.updates = 0

    def update(self, batch, env_steps):
        self.updates += 1
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter += 1.0
        return {}

    def state(self):
        if self.updates and not self.marker.exists():
            self.marker.touch()
            time.sleep(600)
        network = {name: value.numpy().copy() for name, value in self.network.state_dict().items()}
        return PolicyState(network, {"own updates": self.updates})

    def load(self, state):
        self.network.load_state_dict({n: torch.tensor(v) for n, v in state.tensors.items()})


algorithms.register(
    "Stubborn", "tests.learners.stubborn:StubbornTraining", "tests.learners.stubborn:Stubborn"
)
