"""A learner in the gateway's own process and thread: for notebooks and exact tests."""

from __future__ import annotations

import os

from policy_server.learners.learner import Learner
from policy_server.types import Batch, PolicyState, UpdateResult


class LocalLearner:
    """Updates at once, when the batch is handed over."""

    def __init__(self, learner: Learner, state: PolicyState | None = None):
        self._learner = learner
        self._result: UpdateResult | None = None
        if state is not None:
            learner.load(state)

    def submit(self, batch: Batch, env_steps: int) -> None:
        self._result = self._learner.update(batch, env_steps)

    def poll(self) -> UpdateResult | None:
        result, self._result = self._result, None
        return result

    def request_state(self) -> PolicyState:
        """State after the last update that `poll` gave out."""
        return self._learner.state()

    @property
    def state_name(self) -> str:
        return "learning"

    @property
    def ready(self) -> bool:
        return True

    @property
    def pid(self) -> int | None:
        return os.getpid()
