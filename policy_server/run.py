"""A run: an algorithm that learns until something says stop, watched and written down.

What `policy-server serve` and `policy-server train` do after their flags are read.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from policy_server.algorithm import Algorithm
from policy_server.display import Display
from policy_server.metrics.recorder import Recorder

POLL_S = 0.05
"""How late a run may stop."""
LOOK_S = 0.25
"""Between two lines of metrics, two pictures on the display."""


@dataclass(frozen=True)
class Stop:
    """When a run is over; None: never for that reason.

    Attributes:
        env_steps: environment steps in all, those before a resume included.
        episode_return: mean over a full window of the newest episodes, summed over policies.
        wall_s: seconds of this run.
    """

    env_steps: int | None = None
    episode_return: float | None = None
    wall_s: float | None = None


class Run:
    """Drives one algorithm.

    Args:
        algorithm: built; its learners are at rest.
        recorder: where numbers go; None: nowhere.
        display: what the operator sees.
    """

    def __init__(self, algorithm: Algorithm, recorder: Recorder | None, display: Display):
        self.algorithm = algorithm
        self.recorder = recorder
        self.display = display
        self.reached = False
        self.interrupted = False
        self.checkpoint: str | None = None
        self._learned = False  # since the last line of metrics
        self._saved_at = self._updates(algorithm.status())

    def until(self, stop: Stop) -> dict[str, Any]:
        """Learns until `stop`, SIGINT or SIGTERM; then drains. Returns the last status."""
        began = time.monotonic()
        self.display.start()
        try:
            with self._signals():
                self.algorithm.train_freely()
                status = self.algorithm.status()
                looked = began
                while not self._over(status, stop, began):
                    time.sleep(POLL_S)
                    status = self.algorithm.status()
                    self._learned = self._learned or bool(self.algorithm.new_results)
                    if time.monotonic() - looked >= LOOK_S:
                        looked = time.monotonic()
                        self._look(status)
                return self._end(time.monotonic() - began, status["stepping_s"])
        finally:
            self.display.stop()

    def _look(self, status: dict[str, Any]) -> None:
        self.display.update(status)
        if self._learned:
            self._learned = False
            self._record(status)
        every = self.algorithm.settings.checkpointing.every
        updates = self._updates(status)
        if every and updates - self._saved_at >= every and self.recorder is not None:
            self.checkpoint = self.algorithm.save()
            self._saved_at = updates

    def _record(self, status: dict[str, Any]) -> None:
        if self.recorder is not None:
            self.recorder.record(status["env_steps"], self.algorithm.progress.flat(status))

    def _over(self, status: dict[str, Any], stop: Stop, began: float) -> bool:
        if self.interrupted:
            return True
        if stop.episode_return is not None and self.algorithm.progress.window_full:
            mean = status["episode_return_mean"]
            self.reached = mean is not None and mean >= stop.episode_return
        if self.reached or (stop.env_steps is not None and status["env_steps"] >= stop.env_steps):
            return True
        return stop.wall_s is not None and time.monotonic() - began >= stop.wall_s

    def _end(self, wall_s: float, stepping_s: float) -> dict[str, Any]:
        checkpoint = self.algorithm.drain()
        self.checkpoint = checkpoint or self.checkpoint
        status = self.algorithm.status()
        status["train_wall_s"], status["train_stepping_s"] = wall_s, stepping_s
        self._record(status)
        self.display.update(status)
        return status

    @staticmethod
    def _updates(status: dict[str, Any]) -> int:
        return max((p["updates"] for p in status["policies"].values()), default=0)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop; a second one is obeyed at once."""
        before: dict[int, Any] = {}

        def stop(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)

        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for handled, handler in before.items():
                signal.signal(handled, handler)


def summary(run: Run, status: dict[str, Any], stop: Stop, total_wall_s: float) -> dict[str, Any]:
    """What `--json` prints: one flat object, with the policies inside."""
    wall_s = status["train_wall_s"]
    return {
        "env_steps": status["env_steps"],
        "episodes": status["episodes"],
        "episode_return_mean": status["episode_return_mean"],
        "policies": {
            name: {
                "episode_return_mean": entry["episode_return_mean"],
                "episodes": entry["episodes"],
                "version": entry["version"],
            }
            for name, entry in status["policies"].items()
        },
        "reached": run.reached if stop.episode_return is not None else None,
        "interrupted": run.interrupted,
        "wall_s": round(wall_s, 3),
        "stepping_s": round(status["train_stepping_s"], 3),
        "total_wall_s": round(total_wall_s, 3),
        "steps_per_s": round(run.algorithm.progress.new_steps / wall_s, 1) if wall_s else None,
        "checkpoint": run.checkpoint,
        "run_dir": _text(run.algorithm.settings.server.run_dir),
        "accounting": status["accounting"],
        "evaluation": status["evaluation"],
    }


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
