"""This project's side of the exchange: the benchmark's own server, echo and load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from policy_server.bench import echo, generator, serving
from policy_server.bench.child import Serving
from policy_server.bench.child import serving as started
from policy_server.bench.frames import StepFrames, like_actions
from policy_server.bench.plan import Plan
from policy_server.bench.trial import Trial, measure
from policy_server.bench.workloads import Workload

BIND = "tcp://127.0.0.1:*"
PACKED = 2
"""Processes that bare simulators are spread over."""

Measure = Callable[[float, float], Trial]
"""Takes the seconds of a window, and of the load before it."""


def workload(simulators: int, processes: int) -> Workload:
    title = f"{simulators} simulators, one observation per message"
    return Workload(title, simulators, 1, processes)


def frame_bytes() -> tuple[int, int]:
    """Of a STEP and of its ACTIONS: what an echo has to carry."""
    one = workload(1, 1)
    return len(StepFrames(one, 0).frame(2)), len(like_actions(one))


@contextmanager
def standing(simulators: int) -> Iterator[dict[str, Measure]]:
    """The gateway with bare sockets of both kinds, the same with the Python client, which takes a
    local socket, and the ZeroMQ echo."""
    packed = workload(simulators, min(PACKED, simulators))
    spread = workload(simulators, simulators)
    with (
        started(serving.main, BIND, packed) as gateway,
        started(echo.main, BIND, like_actions(packed)) as limit,
    ):
        yield {
            "bare": partial(_measure, gateway, packed, generator.raw),
            "local": partial(_measure, gateway, packed, generator.local),
            "client": partial(_measure, gateway, spread, generator.client),
            "echo": partial(_measure, limit, packed, generator.raw),
        }


def _measure(
    server: Serving,
    work: Workload,
    load: Callable[..., None],
    seconds: float,
    warmup_s: float,
) -> Trial:
    return measure(server, work, load, Plan(seconds=seconds, warmup_s=warmup_s))
