"""A learner as a Ray actor of its own, and the gateway's end of it.

A batch goes once into the object store. Weights come back as soon as they are there, as one flat
array that the gateway reads where it lies; the learner's whole state follows behind them and
stays in the object store until somebody needs it.

When the actor dies, a new one begins from the state that came with the last update, and gets the
same batch again: nothing is trained on twice, since what the dead one had learned from it died
too. If it died between an update's weights and their state, its successor begins from these
weights, with the rest of the state of before.

Importing this does not import torch: only the actors do.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from policy_server import algorithms
from policy_server.errors import LearnerError
from policy_server.types import Batch, PolicyState, UpdateResult

if TYPE_CHECKING:
    from policy_server.learners.learner import Learner

log = logging.getLogger(__name__)


class LearnerActor:
    """Runs a `Learner` in a process of its own. With a `niceness` above 0 it lets the gateway and
    the simulators go first.

    Can be started before it is known what is to be learned: most of a start is importing torch.
    """

    def __init__(self, niceness: int, registered: dict[str, tuple[str, str]]):
        os.nice(niceness)
        self._stands_back = niceness > 0
        for name, classes in registered.items():
            algorithms.register(name, *classes)
        import policy_server.learners.learner  # noqa: F401

    def build(
        self, arguments: dict[str, Any], state: PolicyState | None, newer: UpdateResult | None
    ) -> tuple[int, PolicyState]:
        """The process's id, and the state it begins with.

        Args:
            arguments: of `Learner`.
            state: where to begin; None: the seed says it all.
            newer: whose weights are newer than `state`.
        """
        from policy_server.learners import idle_first
        from policy_server.learners.learner import SMALL_NETWORK, Learner
        from policy_server.stepwise import at_once

        self._learner: Learner = Learner(**arguments)
        self._drive: Any = at_once
        # What one thread of torch, or a GPU, waits for is not in our hands.
        alone = self._learner.threads == 1 and self._learner.device.type == "cpu"
        # Steps of a large one would take minutes where others leave no core.
        alone = alone and self._learner.parameters < SMALL_NETWORK
        if self._stands_back and alone and idle_first.supported:
            self._drive = idle_first.IdleFirst()
        if state is not None:
            self._learner.load(state)
        if newer is not None:
            self._learner.adopt(newer)
        return os.getpid(), self._learner.state()

    def update(self, batch: Batch, env_steps: int) -> UpdateResult:
        # Ray copies the result into its store before anything else runs here.
        return self._learner.update(batch, env_steps, self._drive, lend=True)

    def state(self) -> tuple[None, PolicyState]:
        """A sign that the state is there, which costs nothing to look at; and the state."""
        return None, self._learner.state()


def start_process(resources: dict[str, Any], niceness: int) -> Any:
    """A `LearnerActor` that starts now.

    Args:
        resources: of Ray, for example {"num_gpus": 1}.
    """
    factory: Any = ray.remote(LearnerActor).options(max_restarts=0, **resources)
    return factory.remote(niceness, algorithms.registered())


class RayLearner:
    """The gateway's end: never blocks, restarts the actor when it dies.

    Args:
        arguments: of `Learner`.
        state: where to begin.
        resources: Ray resources of the actor, for example {"num_gpus": 1}.
        max_restarts: in a row, without an update in between.
        wake: called from another thread when a result is there.
        process: one of `start_process` that has nothing to do yet; None: a new one.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        state: PolicyState | None,
        resources: dict[str, Any],
        max_restarts: int,
        niceness: int,
        wake: Callable[[], None],
        process: Any = None,
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
        self._came: deque[tuple[Any, str, Callable[[Any], Any], Future[Any]]] = deque()
        self._in_a_row = 0
        self._restarting = False
        self._published: UpdateResult | None = None
        self._state: Any = None  # reference to that of after `_published`
        self._kept: Any = state  # the newest that the actor cannot take with it when it dies
        self._start(process)

    def _start(self, process: Any) -> None:
        self.pid = None
        self._actor = process or start_process(self._resources, self._niceness)
        newer = self._published if self._kept is not self._state else None
        pid, self._state = self._actor.build.options(num_returns=2).remote(
            self._arguments, self._kept, newer
        )
        self._watch(pid, "its learner cannot start", self._started)

    def _watch(self, reference: Any, fault: str, then: Callable[[Any], Any]) -> None:
        """`then(value)` by a later `poll`; where it went wrong, `fault` says what did."""
        actor = self._actor

        def done(future: Future[Any]) -> None:
            self._came.append((actor, fault, then, future))
            self._wake()

        reference.future().add_done_callback(done)

    def _started(self, pid: int) -> None:
        self.pid, self._kept = pid, self._state
        self._wake()  # requests wait for just this

    # -- batches -----------------------------------------------------------------------------

    def submit(self, batch: Batch, env_steps: int) -> None:
        """Sends a batch; at most one is under way."""
        self._task = (ray.put(batch), env_steps)
        self._send()

    def _send(self) -> None:
        assert self._task is not None
        result = self._actor.update.remote(*self._task)
        self._watch(result, "its update failed", self._updated)

    def _updated(self, result: UpdateResult) -> UpdateResult:
        self._task = None
        self._in_a_row, self._restarting = 0, False
        self._published = result
        sign, state = self._actor.state.options(num_returns=2).remote()
        self._state = state
        self._watch(sign, "its state could not be had", lambda _: self._keep(state))
        return result

    def poll(self) -> UpdateResult | None:
        """The result, if it is there.

        Raises:
            LearnerError: the learner cannot be kept alive, or its update failed.
        """
        while self._came:
            actor, fault, then, future = self._came.popleft()
            if actor is not self._actor:
                continue  # one that died, and was replaced when its first sign came
            error = future.exception()
            if isinstance(error, RayActorError):
                self._restart(error)
            elif error is not None:
                cause = error.cause if isinstance(error, RayTaskError) else error
                raise LearnerError(f"{fault}: {cause}") from error
            elif (result := then(future.result())) is not None:
                return result
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
        self._start(None)
        if self._task is not None:
            self._send()

    # -- state -------------------------------------------------------------------------------

    def _keep(self, state: Any) -> None:
        self._kept = state

    def request_state(self) -> Any:
        """Reference to the state after the last update that `poll` gave out. Lost if the actor
        dies before the state is there: ask again for its successor's."""
        return self._state

    @property
    def ready(self) -> bool:
        """The actor has started: batches would be learned from, not only kept."""
        return self.pid is not None

    @property
    def state_name(self) -> str:
        return "restarting" if self._restarting else "learning"
