"""The loop every runner has: send, receive, until a limit is reached."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sim_clients.client import Client

FAREWELL_S = 2.0
"""Seconds that a runner waits for the answer to its last step."""
_RETURNS_KEPT = 1000


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
