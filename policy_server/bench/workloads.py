"""Who speaks, how many of them, and how much they say at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim_clients.protocol import Box, Discrete

OBSERVATION = Box(-float("inf"), float("inf"), (8,), "float32")
ACTION = Discrete(5)
MLP = {"hidden": [64, 64], "activation": "tanh"}
FRAGMENT_STEPS = 64
"""Steps of an unroll where nobody waits for the learner (`collection.mode = "async"`)."""


@dataclass(frozen=True)
class Workload:
    """Simulators and the policy that they ask.

    Attributes:
        lanes: environments per simulator, all of them in every message.
        processes: that the simulators are spread over.
        observation: of one lane, as sent.
        episode_steps: length of every episode.
        sections: settings of the server, on top of `settings`.
    """

    title: str
    simulators: int
    lanes: int
    processes: int
    observation: Box = OBSERVATION
    episode_steps: int = 200
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def batch_steps(self) -> int:
        """Steps of a training batch: never less than what all lanes finish at the same time."""
        return max(2048, FRAGMENT_STEPS * self.simulators * self.lanes)

    def shares(self) -> list[range]:
        """The simulators of each process."""
        n, k = self.simulators, self.processes
        return [range(i * n // k, (i + 1) * n // k) for i in range(k)]

    def settings(self, bind: str) -> dict[str, Any]:
        """What `Settings.from_mapping` reads."""
        steps = self.batch_steps
        return {
            "algorithm": "PPO",
            "training": {"train_batch_size": steps, "minibatch_size": steps},
            "environment": {"observation_space": self.observation, "action_space": ACTION},
            "model": MLP,
            "collection": {"mode": "async"},
            "server": {"bind": bind, "seed": 1},
            **self.sections,
        }


MANY = Workload("16 simulators, one observation per message", 16, 1, 2)
ONE = Workload("one simulator, one observation per message", 1, 1, 1)
WIDE = Workload("4 simulators, 256 observations per message", 4, 256, 2)

GLANCE = {"custom": "policy_server.bench.glance:Glance"}
FRAMES = Workload(
    "16 simulators, one frame of 84x84x4 bytes per message",
    16, 1, 2, Box(0, 255, (84, 84, 4), "uint8"), 64, {"model": GLANCE},
)  # fmt: skip
NEWEST = Workload(
    "the same; only the newest 84x84 bytes are sent, the server stacks",
    16, 1, 2, Box(0, 255, (84, 84, 1), "uint8"), 64,
    {"model": GLANCE, "preprocessing": {"frame_stack": 4}},
)  # fmt: skip
