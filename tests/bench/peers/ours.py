"""This project's side of the exchange: the benchmark's own server, echo and load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench import echo, generator, serving
from tests.bench.frames import StepFrames, like_actions
from tests.bench.trial import Serving, Trial, measure
from tests.bench.trial import serving as started
from tests.bench.workloads import Workload

BIND = "tcp://127.0.0.1:*"
PACKED = 2
"""Processes that bare simulators are spread over."""


def workload(simulators: int, processes: int) -> Workload:
    title = f"{simulators} simulators, one observation per message"
    return Workload("peers", title, simulators, 1, processes)


def frame_bytes() -> tuple[int, int]:
    """Of a STEP and of its ACTIONS: what an echo has to carry."""
    one = workload(1, 1)
    return len(StepFrames(one, 0).frame(2)), len(like_actions(one))


@dataclass(frozen=True)
class Own:
    """A server of ours with a kind of simulators; measured like a peer."""

    server: Serving
    workload: Workload
    load: Callable[..., None]

    def trial(self, seconds: float, warmup_s: float) -> Trial:
        return measure(self.server, self.workload, self.load, seconds, warmup_s)


@contextmanager
def standing(simulators: int) -> Iterator[dict[str, Any]]:
    """The gateway with bare sockets, the same with the Python client, and the ZeroMQ echo."""
    packed = workload(simulators, min(PACKED, simulators))
    spread = workload(simulators, simulators)
    with (
        started(serving.main, BIND, packed) as gateway,
        started(echo.main, BIND, like_actions(packed)) as limit,
    ):
        yield {
            "bare": Own(gateway, packed, generator.raw),
            "client": Own(gateway, spread, generator.client),
            "echo": Own(limit, packed, generator.raw),
        }
