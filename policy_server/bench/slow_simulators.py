"""W2: simulators that take 5 ms per step. They should not notice that they are served.

The limit is the same loop without a request. A step is slept, not computed, so that the cores
are free for the server: on real machines simulators have their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from policy_server.bench import serving
from policy_server.bench.child import serving as started
from policy_server.bench.figure import Figure, Result, Tell, at_least, by_turns, compare
from policy_server.bench.generator import LocalSimulator, connection, farewell
from policy_server.bench.plan import Plan
from policy_server.bench.trial import Load, Trial, Window, measure
from policy_server.bench.workloads import Workload

STEP_S = 0.005
COUNTS = (1, 8, 32)
PER_PROCESS = 8


class Nobody:
    """Where simulators go that ask for nothing."""

    address = ""

    def books(self) -> dict[str, Any]:
        return {"cpu_s": 0.0}


def slow(plan: Plan, tell: Tell) -> Result:
    """By turns with a server and without."""
    figures: list[Figure] = []
    trials: dict[str, list[Trial]] = {}
    for count in COUNTS:
        title = f"{count} simulators of 5 ms per step"
        workload = Workload(title, count, 1, -(-count // PER_PROCESS))
        with started(serving.main, plan.bind_for("slow"), workload) as server:
            alone, served = f"{count} alone", f"{count} served"
            sides = {
                alone: partial(measure, Nobody(), workload, sleeping, plan),
                served: partial(measure, server, workload, sleeping, plan),
            }
            trials |= by_turns("W2", sides, plan, tell)
        what = f"steps, {count} simulator{'s' if count > 1 else ''}"
        figures.append(
            compare(
                what, "messages_per_s", "/s", trials[served], trials[alone], "no server",
                at_least(0.9),
            )
        )  # fmt: skip
    return Result("W2", "simulators that take 5 ms per step", tuple(figures), trials)


def sleeping(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """Simulators, each a thread: a `trial.LoadMain`."""
    with connection() as context:
        simulators = [
            LocalSimulator(context, address, workload, number) if address else None
            for number in numbers
        ]
        pipe.send("ready")
        while (window := pipe.recv()) is not None:
            pipe.send(_all_step(simulators, window))
        farewell(simulator for simulator in simulators if simulator)


def _all_step(simulators: Sequence[LocalSimulator | None], window: Window) -> Load:
    n = len(simulators)
    steps: list[list[float]] = [[] for _ in simulators]
    threads = [
        threading.Thread(target=_step, args=(simulator, window, at / n, mine))
        for at, (simulator, mine) in enumerate(zip(simulators, steps, strict=True))
    ]
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu = time.process_time() - cpu
    within = [s for mine in steps for s in mine if s > 0]
    return Load(sum(map(len, steps)), np.array(within), cpu)


def _step(
    simulator: LocalSimulator | None, window: Window, phase: float, steps: list[float]
) -> None:
    """Until the window ends. Seconds of each step go to `steps`; those outside the window, which
    only count as answered, as 0."""
    sleep, now = time.sleep, time.perf_counter
    sleep(phase * STEP_S)  # simulators of the real world are not in step, either
    at = now()
    while at < window.end:
        before = at
        sleep(STEP_S)
        if simulator is not None:
            simulator.send()
            simulator.receive()
        at = now()
        steps.append(at - before if window.begin <= at < window.end else 0.0)
