"""The loop every runner has: send, receive, until a limit is reached."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sim_clients.client import Client
from sim_clients.command import UsageError

FAREWELL_S = 2.0
"""Seconds that a runner waits for the answer to its last step."""
_RETURNS_KEPT = 1000
_GLANCE_S = 0.005  # after so long, whoever waits for one half looks whether the other can go on


@dataclass
class Summary:
    """What a runner did.

    Attributes:
        steps: actions taken, of all agents together.
        episodes: finished ones, of environments.
        returns: undiscounted, of the newest 1000 episodes, oldest first; all agents together.
    """

    steps: int
    episodes: int
    returns: list[float]


class Runner(ABC):
    """Environments as a simulator. `run` drives it; where something else must run in between,
    call `send`, then `receive` until it returns True, and so on.

    Attributes:
        client: its connection; closed by `close`, as are `envs`.
        steps, episodes, returns: as in `Summary`, so far.
    """

    def __init__(self, client: Client, envs: Sequence[Any]):
        self.client = client
        self.envs = list(envs)
        self.steps = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=_RETURNS_KEPT)

    @abstractmethod
    def send(self) -> None:
        """Resets what has ended and asks for the next actions. Does nothing while it waits."""

    @abstractmethod
    def receive(self, timeout_s: float | None = None) -> bool:
        """Steps the environments once their actions are there; False where none came in time."""

    @abstractmethod
    def finish(self) -> None:
        """Tells the server what the last actions led to; all lanes go idle."""

    def run(
        self,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        max_seconds: float | None = None,
    ) -> Summary:
        """Goes on until one of the limits is reached (None: for ever), then reports the last
        outcomes and leaves. Steps count over all environments."""
        until = math.inf if max_seconds is None else time.monotonic() + max_seconds
        step_limit = math.inf if steps is None else steps
        episode_limit = math.inf if episodes is None else episodes
        while self.steps < step_limit and self.episodes < episode_limit:
            left = until - time.monotonic()
            if left <= 0:
                break
            self.send()
            if not self.receive(None if left == math.inf else left):
                break
        self.finish()
        return self.summary()

    def count_episode(self, total: float) -> None:
        """An environment's episode ended with this return."""
        self.episodes += 1
        self.returns.append(total)

    def summary(self) -> Summary:
        return Summary(self.steps, self.episodes, list(self.returns))

    def close(self, reason: str = "done") -> None:
        """Ends the session and the environments. Idempotent."""
        self.client.close(reason)
        for env in self.envs:
            env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.close("done" if kind is None else kind.__name__)


class InTurn(Runner):
    """Runners of which one steps its environments while the others wait for their actions.

    Each has a client, and so a session, of its own: to the server they are simulators like any
    other, whose STEPs hold all of their lanes.
    """

    def __init__(self, runners: Sequence[Runner]):
        super().__init__(runners[0].client, [env for runner in runners for env in runner.envs])
        self.runners = deque(runners)

    def send(self) -> None:
        for runner in self.runners:
            runner.send()

    def receive(self, timeout_s: float | None = None) -> bool:
        """Steps the environments of one runner: of the one whose turn it is, unless the server
        keeps that waiting, as it does until it has heard enough of the others."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            for _ in range(len(self.runners)):
                runner = self.runners[0]
                self.runners.rotate(-1)
                left = _GLANCE_S if timeout_s is None else until - time.monotonic()
                if self._received(runner, min(_GLANCE_S, max(0.0, left))):
                    return True
            if time.monotonic() >= until:
                return False

    def _received(self, runner: Runner, timeout_s: float) -> bool:
        before = runner.episodes
        if not runner.receive(timeout_s):
            return False
        self.steps = sum(each.steps for each in self.runners)
        ended = runner.episodes - before
        if ended:
            for total in list(runner.returns)[-ended:]:
                self.count_episode(total)
        return True

    def finish(self) -> None:
        for runner in self.runners:
            runner.finish()

    def close(self, reason: str = "done") -> None:
        for runner in self.runners:
            runner.close(reason)


def in_halves(
    make: Callable[[Sequence[Any], int | None, str | None], Runner],
    envs: Sequence[Any],
    seed: int | None,
    identity: str | None,
) -> InTurn:
    """Two runners of half of the environments each, in turn.

    Args:
        make: a runner from environments, seed and identity.

    Raises:
        UsageError: there is only one environment.
    """
    if len(envs) < 2:
        raise UsageError("pipelined: expected at least two environments to halve, got one.")
    half = (len(envs) + 1) // 2
    return InTurn(
        [
            make(envs[:half], seed, identity),
            make(
                envs[half:],
                None if seed is None else seed + half,
                # Two runs of one name would take each other for its restart.
                None if identity is None else f"{identity}-2",
            ),
        ]
    )
