"""The server under test: the real loop and gateway, as `build` wires them, without learning.

What stands for the learner takes every batch and gives the same weights back, so that steps are
stored, batches gathered and weights taken over as ever, and no learner competes for the cores.
"""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from policy_server.bench.resources import allow_many_sockets, resident_bytes
from policy_server.bench.workloads import Workload
from policy_server.types import Batch, PolicyState, UpdateResult


class Swallower:
    """A learner handle that learns nothing. Lives on the gateway's thread."""

    state_name = "learning"
    pid = None
    ready = True

    def __init__(self, policy: str, weights: np.ndarray):
        self._policy, self._weights = policy, weights
        self._steps = 0
        self.updates = 0

    def submit(self, batch: Batch, env_steps: int) -> None:
        self._steps = batch.steps

    def poll(self) -> UpdateResult | None:
        if not self._steps:
            return None
        self.updates += 1
        steps, self._steps = self._steps, 0
        return UpdateResult(self._policy, self.updates, self._weights, {}, steps)

    def request_state(self) -> PolicyState:
        return PolicyState({}, {})


def build(workload: Workload, bind: str) -> Any:
    """A gateway as the server builds it, with a `Swallower` for a learner."""
    from policy_server import server
    from policy_server.learners.learner import Learner
    from policy_server.settings import Settings

    settings = Settings.from_mapping(workload.settings(bind))

    def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> Swallower:
        weights = Learner(**{**arguments, "threads": 1}).weights()
        return Swallower(arguments["policy_name"], weights)

    gateway = server.build_gateway(settings, make_learner, None, None, 0)
    gateway.train(None)
    return gateway


def main(pipe: Connection, bind: str, workload: Workload) -> None:
    """A process of its own. `pipe` says "books" and "stop"; see `child.Serving`."""
    from policy_server.gateway.loop import RouterLoop
    from policy_server.settings import Settings

    allow_many_sockets()
    loop = RouterLoop(Settings.from_mapping(workload.settings(bind)).server)
    gateway = build(workload, bind)

    def run() -> None:
        try:
            loop.run(gateway)
        except BaseException:
            # Whoever waits for an answer sees the pipe close.
            os._exit(1)

    thread = threading.Thread(target=run, name="gateway", daemon=True)
    thread.start()
    pipe.send(loop.address)
    while pipe.recv() == "books":
        future = gateway.submit(gateway.report)
        loop.wake()
        report = future.result(20)
        pipe.send({"cpu_s": time.process_time(), "rss_bytes": resident_bytes(), **report})
    loop.stop()
    thread.join(10)
    loop.close()
