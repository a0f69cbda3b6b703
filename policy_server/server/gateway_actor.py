"""The gateway in a process of its own, as a Ray actor."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from policy_server import algorithms
from policy_server.callbacks import Callbacks
from policy_server.errors import PolicyServerError
from policy_server.settings import Settings
from policy_server.types import PolicyState
from sim_clients.protocol import EventKind

if TYPE_CHECKING:
    from policy_server.checkpoints.checkpoint import Checkpoint

log = logging.getLogger(__name__)

LEARNER_NICENESS = 5
"""On a machine with few cores the learner yields to the gateway and the simulators."""


class GatewayActor:
    """The gateway in a process of its own. Its loop has a thread for itself; the methods below
    run on others and hand over to it."""

    def open(
        self,
        settings: Settings,
        gpus_per_learner: float,
        registered: dict[str, tuple[str, str]],
    ) -> str:
        """Opens the door; whoever knocks waits for `serve`. Returns the address. `registered`:
        algorithms from outside this package (`algorithms.registered`).

        Raises:
            AddressError: it cannot be opened.
        """
        from policy_server.gateway.loop import RouterLoop
        from policy_server.learners.remote import start_process

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        for name, classes in registered.items():
            algorithms.register(name, *classes)
        # The door first: an address that is taken must not cost a learner's start.
        self._loop = RouterLoop(settings.server)
        self._thread: threading.Thread | None = None
        self._settings = settings
        # Where simulators wait for the learner anyway, it need not stand back.
        modes = {
            settings.policy_settings(name).collection.mode for name in settings.trained_policies
        }
        self._niceness = LEARNER_NICENESS if "async" in modes else 0
        self._resources = {"num_cpus": 0, "num_gpus": gpus_per_learner}
        # What they will learn is known when simulators have come; torch can be imported before.
        self._processes = [
            start_process(self._resources, self._niceness) for _ in settings.trained_policies
        ]
        return self._loop.address

    def serve(
        self,
        callbacks: type[Callbacks] | None,
        checkpoint: Checkpoint | None,
        expected_sessions: int,
    ) -> None:
        """Builds the gateway and lets it answer.

        Raises:
            CheckpointError, ConfigError: there is nothing to serve.
        """
        from policy_server.learners.remote import RayLearner
        from policy_server.server.build import build_gateway

        restarts = self._settings.learners.max_restarts

        def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> RayLearner:
            process = self._processes.pop() if self._processes else None
            return RayLearner(
                arguments, state, self._resources, restarts, self._niceness, self._loop.wake,
                process,
            )  # fmt: skip

        self._gateway = build_gateway(
            self._settings,
            make_learner,
            callbacks() if callbacks else None,
            checkpoint,
            expected_sessions,
        )
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run(self._gateway)
        except Exception as error:
            # Ours or a user's callback or network: the run ends, and says why. Sessions survive
            # it: simulators come back when the server does.
            log.exception("the gateway's loop ended")
            self._gateway.failure = f"the gateway's loop ended: {type(error).__name__}: {error}"

    def pid(self) -> int:
        return os.getpid()

    def _on_loop(self, command: Callable[[], Any]) -> Any:
        future = self._gateway.submit(command)
        self._loop.wake()
        return self._result(future, None)

    def _result(self, future: Future[Any], timeout_s: float | None) -> Any:
        """Of something that the loop's thread will do, as long as that lives."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return future.result(min(1.0, max(0.0, until - time.monotonic())))
            except TimeoutError:
                if self._thread is None or not self._thread.is_alive():
                    failure = self._gateway.failure or "the gateway has stopped"
                    raise PolicyServerError(failure) from None
                if time.monotonic() >= until:
                    raise

    def _wait(
        self, begin: Callable[[], Any], done: Callable[[], bool], timeout_s: float | None
    ) -> bool:
        gateway = self._gateway

        def command() -> Any:
            begin()
            return gateway.when(lambda: gateway.failure is not None or done())

        waiting = self._on_loop(command)
        try:
            self._result(waiting, timeout_s)
        except TimeoutError:
            waiting.cancel()
            return False
        return True

    def train(self, updates: int | None, timeout_s: float | None = None) -> bool:
        """Lets the learners make `updates` more; None: as many as they can, returns at once.
        False: the time ran out first; the learners go on."""
        gateway = self._gateway
        if updates is None or updates == 0:
            self._on_loop(lambda: gateway.train(updates))
            return True
        return self._wait(lambda: gateway.train(updates), gateway.trained, timeout_s)

    def keep_training(self, timeout_s: float) -> bool:
        """Waits on for what `train` asked for."""
        return self._wait(lambda: None, self._gateway.trained, timeout_s)

    def evaluate(self, episodes: int, timeout_s: float | None) -> bool:
        """Plays evaluation episodes; True when they are over."""
        gateway = self._gateway
        return self._wait(lambda: gateway.evaluate(episodes), gateway.evaluated, timeout_s)

    def keep_evaluating(self, timeout_s: float) -> bool:
        return self._wait(lambda: None, self._gateway.evaluated, timeout_s)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self._on_loop(self._gateway.report)
        report["address"] = self._loop.address
        report["messages"]["stray_frames"] = self._loop.stray_frames
        report["messages"]["undeliverable"] = self._loop.undeliverable
        return report

    def collect(self) -> dict[str, Any]:
        from policy_server.server.state import collect

        state: dict[str, Any] = self._on_loop(lambda: collect(self._gateway))
        return state

    def drain(self, timeout_s: float) -> dict[str, Any]:
        """No new sessions, no new batches, no more actions; waits for what is with the learners,
        and gives the last state."""
        gateway = self._gateway

        def begin() -> None:
            gateway.draining = True
            gateway.train(0)
            self._loop.send(gateway.broadcast(EventKind.DRAIN, {}))

        def idle() -> bool:
            return not any(desk.collector.learning for desk in gateway.desks.values())

        self._wait(begin, idle, timeout_s)
        return self.collect()

    def stop(self, final: bool) -> None:
        """Tells the simulators, and gives the address back. `final`: they need not come back."""
        self._loop.stop()
        if self._thread is not None:
            self._thread.join(5.0)
            data = {"reason": "the server stops", "final": final}
            self._loop.send(self._gateway.broadcast(EventKind.SHUTDOWN, data))
        self._loop.close()
