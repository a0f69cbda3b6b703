"""What is measured: who speaks, how many of them, and how much they say at a time."""

from __future__ import annotations

from dataclasses import dataclass

from sim_clients.protocol import Box, Discrete

OBSERVATION = Box(-float("inf"), float("inf"), (8,), "float32")
ACTION = Discrete(5)
HIDDEN = (64, 64)
EPISODE_STEPS = 200
FRAGMENT_STEPS = 64
"""Steps of an unroll where nobody waits for the learner (`collection.mode = "async"`)."""


@dataclass(frozen=True)
class Workload:
    """Simulators in lockstep: each has one request under way, and sends the next at its answer.

    Attributes:
        lanes: environments per simulator, all of them in every message.
        processes: that the simulators are spread over, each with one thread.
    """

    name: str
    title: str
    simulators: int
    lanes: int
    processes: int

    @property
    def batch_steps(self) -> int:
        """Steps of a training batch: never less than what all lanes finish at the same time."""
        return max(2048, FRAGMENT_STEPS * self.simulators * self.lanes)

    def shares(self) -> list[range]:
        """The simulators of each process."""
        n, k = self.simulators, self.processes
        return [range(i * n // k, (i + 1) * n // k) for i in range(k)]


WORKLOADS = {
    work.name: work
    for work in (
        Workload("W1", "16 simulators, one observation per message", 16, 1, 2),
        Workload("W1'", "one simulator, one observation per message", 1, 1, 1),
        Workload("W3", "4 simulators, 256 observations per message", 4, 256, 2),
    )
}
