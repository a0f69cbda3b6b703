"""A learner as a Ray actor of its own, and the gateway's end of it.

The batch goes once into the object store; weights and the learner's whole state come back the
same way. When the actor dies, a new one begins from the state that came with the last update,
and gets the same batch again: nothing is trained on twice, since what the dead one had learned
from it died too.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from policy_server.errors import LearnerError
from policy_server.learners.learner import Learner
from policy_server.types import Batch, PolicyState, UpdateResult

log = logging.getLogger(__name__)


class LearnerActor:
    """Runs a `Learner` in a process of its own; `niceness` lets the gateway go first."""

    def __init__(self, arguments: dict[str, Any], state: PolicyState | None, niceness: int):
        os.nice(niceness)
        self._learner = Learner(**arguments)
        if state is not None:
            self._learner.load(state)

    def update(self, batch: Batch, env_steps: int) -> tuple[UpdateResult, PolicyState]:
        return self._learner.update(batch, env_steps), self._learner.state()

    def state(self) -> PolicyState:
        return self._learner.state()

    def pid(self) -> int:
        return os.getpid()


class RayLearner:
    """The gateway's end: never blocks, restarts the actor when it dies.

    Args:
        arguments: of `Learner`.
        state: where to begin.
        resources: Ray resources of the actor, for example {"num_gpus": 1}.
        max_restarts: in a row, without an update in between.
        wake: called from another thread when a result is there.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        state: PolicyState | None,
        resources: dict[str, Any],
        max_restarts: int,
        niceness: int,
        wake: Callable[[], None],
    ):
        self.name = arguments["policy_name"]
        self.pid: int | None = None
        self.restarts = 0
        self._arguments = arguments
        self._resources = resources
        self._max_restarts = max_restarts
        self._niceness = niceness
        self._wake = wake
        self._task: tuple[Any, int] | None = None  # batch reference, env steps
        self._finished: deque[tuple[Any, Future[Any]]] = deque()  # (actor, its future)
        self._in_a_row = 0
        self._restarting = False
        self._state: Any = state  # None before the first update: the seed says it all
        self._first_state: Any = None
        self._next_state: Any = None
        self._start(None if state is None else ray.put(state))

    def _start(self, state: Any) -> None:
        factory: Any = ray.remote(LearnerActor).options(max_restarts=0, **self._resources)
        actor = self._actor = factory.remote(self._arguments, state, self._niceness)
        if self._state is None:
            self._first_state = actor.state.remote()
        actor.pid.remote().future().add_done_callback(lambda future: self._started(actor, future))

    def _started(self, actor: Any, future: Future[Any]) -> None:
        if future.exception() is None:
            self.pid = future.result()
        else:
            self._finished.append((actor, future))
        self._wake()

    # -- batches -----------------------------------------------------------------------------

    def submit(self, batch: Batch, env_steps: int) -> None:
        """Sends a batch; at most one is under way."""
        self._task = (ray.put(batch), env_steps)
        self._send()

    def _send(self) -> None:
        assert self._task is not None
        reference, env_steps = self._task
        result, self._next_state = self._actor.update.options(num_returns=2).remote(
            reference, env_steps
        )
        actor = self._actor
        result.future().add_done_callback(lambda future: self._done(actor, future))

    def _done(self, actor: Any, future: Future[Any]) -> None:
        self._finished.append((actor, future))
        self._wake()

    def poll(self) -> UpdateResult | None:
        """The result, if it is there.

        Raises:
            LearnerError: the learner cannot be kept alive, or its update failed.
        """
        if not self._finished:
            return None
        actor, future = self._finished.popleft()
        if actor is not self._actor:
            return None  # one that died, and was replaced when its first sign came
        error = future.exception()
        if error is None:
            self._state, self._task = self._next_state, None
            self._in_a_row, self._restarting = 0, False
            result: UpdateResult = future.result()
            return result
        if isinstance(error, RayTaskError):
            raise LearnerError(f"its update failed: {error.cause}") from error
        if not isinstance(error, RayActorError):
            raise LearnerError(f"its result was lost: {error}") from error
        self._restart(error)
        return None

    def _restart(self, error: Exception) -> None:
        reason = str(error).strip().splitlines()[-1]
        if "creation task" in str(error):  # it will fail in the same way again
            raise LearnerError(f"its learner cannot start: {reason}") from error
        self._in_a_row += 1
        self.restarts += 1
        if self._in_a_row > self._max_restarts:
            raise LearnerError(
                f"its learner died {self._in_a_row} times in a row; the last time: {reason}"
            )
        log.warning("learner of policy %s died and is restarted from its last state", self.name)
        self._restarting = True
        state = self._state
        self._start(ray.put(state) if isinstance(state, PolicyState) else state)
        if self._task is not None:
            self._send()

    # -- state -------------------------------------------------------------------------------

    def request_state(self) -> Any:
        """Reference to the state after the last update that `poll` gave out."""
        return self._first_state if self._state is None else self._state

    @property
    def ready(self) -> bool:
        """The actor has started: batches would be learned from, not only kept."""
        return self.pid is not None

    @property
    def state_name(self) -> str:
        return "restarting" if self._restarting else "learning"
