"""One thread: simulators and gateway take turns, learners work at once. No socket, no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from policy_server.callbacks import Callbacks
from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.errors import ConfigError, LearnerError
from policy_server.gateway.session import Frames, Peer
from policy_server.learners.learner import Learner
from policy_server.learners.local import LocalLearner
from policy_server.server.build import build_gateway
from policy_server.server.state import collect, join_state
from policy_server.settings import Settings
from policy_server.types import PolicyState


class InProcess:
    """A client's transport without a wire: frames lie here until the next tick."""

    capabilities: tuple[str, ...] = ()

    def __init__(self, peer: Peer, outbox: Frames):
        self.peer = peer
        self.replies: deque[bytes] = deque()
        self._outbox = outbox

    def send(self, frame: bytes) -> None:
        self._outbox.append((self.peer, frame))

    def receive(self, timeout_s: float | None) -> bytes | None:
        return self.replies.popleft() if self.replies else None

    def move(self, path: str) -> None:
        """There is nowhere to move to."""

    def reconnect(self) -> None:
        self.replies.clear()

    def close(self) -> None:
        self.replies.clear()


class LocalServer:
    """The same parts in this thread: simulators and gateway take turns, learners work at once.

    Nothing depends on the time of day or on how fast the machine is: the clock counts ticks.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        for name in settings.trained_policies:
            shards = getattr(settings.policy_settings(name).training, "replay_shards", 0)
            if shards:
                raise ConfigError(
                    f"training.replay_shards = {shards} expects processes of its own, which a server "
                    "in one process has none of: leave it out (0), or build without in_process=True."
                )

        def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> LocalLearner:
            return LocalLearner(Learner(**arguments), state)

        self.address = "in process"
        self.ticks = 0
        self._inbox: Frames = []
        self._transports: dict[Peer, InProcess] = {}
        observer = callbacks() if callbacks else None
        num = settings.simulators.num
        self._gateway = build_gateway(settings, make_learner, observer, checkpoint, num)
        self._gateway.clock = self.clock
        self._simulators: list[Any] = []

    def ready(self) -> None:
        """It was when it was made."""

    def clock(self) -> float:
        """Seconds, one millisecond a tick."""
        return self.ticks * 1e-3

    def transport(self) -> InProcess:
        """For one more simulator in this process."""
        transport = InProcess(b"peer-%d" % len(self._transports), self._inbox)
        self._transports[transport.peer] = transport
        return transport

    def add_simulator(self, simulator: Any) -> None:
        """Anything with `send()` and `receive(timeout_s) -> bool`."""
        simulator.send()
        self._simulators.append(simulator)

    def _tick(self) -> None:
        self.ticks += 1
        now = self.clock()
        inbox = self._inbox[:]
        self._inbox.clear()
        for peer, frame in self._gateway.answer(inbox, now):
            self._transports[peer].replies.append(frame)
        self._gateway.finish(now)
        for simulator in self._simulators:
            if simulator.receive(0.0):
                simulator.send()

    def _expect_simulators(self) -> None:
        if not self._simulators:
            raise ConfigError(
                "simulators.num = 0 in one process, where none can connect: expected at least 1, "
                "as in .simulators(num=1), or build() without in_process=True."
            )

    def _run(self, done: Callable[[], bool], check: Callable[[], None]) -> None:
        while not done():
            if self._gateway.failure is not None:
                raise LearnerError(self._gateway.failure)
            self._tick()
            if self.ticks % 256 == 0:
                check()

    def train(self, updates: int | None, check: Callable[[], None]) -> None:
        """Until every learner has made `updates` more.

        Raises:
            ConfigError: nobody is here to act.
        """
        self._expect_simulators()
        self._gateway.train(updates)
        if updates:
            self._run(self._gateway.trained, check)

    def evaluate(self, episodes: int, check: Callable[[], None]) -> None:
        """Until the evaluation episodes are over.

        Raises:
            ConfigError: nobody is here to act.
        """
        self._expect_simulators()
        self._gateway.evaluate(episodes)
        self._run(self._gateway.evaluated, check)

    def report(self) -> dict[str, Any]:
        report = self._gateway.report()
        report["address"] = self.address
        return report

    def checkpoint(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        state = collect(self._gateway)
        policies = {name: join_state(*both) for name, both in state["policies"].items()}
        return Checkpoint(state["step"], policies, state["spaces"], settings, data)

    def drain(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        self._gateway.draining = True
        self._gateway.train(0)
        return self.checkpoint(settings, data)

    def stop(self, final: bool) -> None:
        self._simulators.clear()
