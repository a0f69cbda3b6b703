"""What a simulator costs the server, from one of them to 512.

Busy: 1,000 messages a second in all, however many simulators share them; each is answered before
the next is sent, so that no batch hides what a session costs. Idle: connected, and silent.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from policy_server.bench import serving
from policy_server.bench.child import Child, Serving, children
from policy_server.bench.child import serving as started
from policy_server.bench.figure import Figure, Result, Tell, at_most
from policy_server.bench.generator import Simulator, connection, farewell
from policy_server.bench.plan import Plan
from policy_server.bench.resources import allow_many_sockets
from policy_server.bench.trial import SETTLE_S, Load, Window
from policy_server.bench.workloads import Workload

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OFFERED_PER_S = 1000.0
IDLE_S = 6.0  # long enough for a heartbeat on every connection
CROWD = Workload(f"1 to {COUNTS[-1]} simulators", COUNTS[-1], 1, 1, episode_steps=50)


class Idle(NamedTuple):
    """Of the server's process."""

    rss_bytes: int
    cpu_share: float  # of one core


def curve(plan: Plan, tell: Tell) -> Result:
    """Every repeat goes once through all counts."""
    costs: dict[float, list[float]] = {count: [] for count in COUNTS}
    with started(serving.main, plan.bind_for("curve"), CROWD) as server:
        with children(Child(crowd, server.address)) as (simulators,):
            few, most = (_idle(server, simulators, n, tell) for n in (COUNTS[0], COUNTS[-1]))
            simulators.pipe.send(None)
        for repeat in range(plan.repeats):
            with children(Child(crowd, server.address)) as (simulators,):
                for count in COUNTS:
                    tell(f"curve: {count} simulators, {repeat + 1} of {plan.repeats}")
                    costs[count].append(_busy(server, simulators, count, plan))
                simulators.pipe.send(None)
    more = COUNTS[-1] - COUNTS[0]
    kilobytes = (most.rss_bytes - few.rss_bytes) / more / 1e3
    microseconds = (most.cpu_share - few.cpu_share) / more * 1e6
    medians = {count: float(np.median(of)) for count, of in costs.items()}
    highest = max(medians, key=lambda count: medians[count])
    lowest = min(medians, key=lambda count: medians[count])
    figures = (
        Figure(
            f"CPU per message, dearest ({highest:g} simulators)", "µs", tuple(costs[highest]),
            tuple(costs[lowest]), f"cheapest ({lowest:g})", at_most(1.2),
        ),
        Figure("memory per idle simulator", "kB", (kilobytes,), None, "", None),
        Figure("CPU per idle simulator and second", "µs", (microseconds,), None, "", None),
    )  # fmt: skip
    points = {count: tuple(of) for count, of in costs.items()}
    title = f"{OFFERED_PER_S:,.0f} messages a second, shared by 1 to {COUNTS[-1]} simulators"
    return Result("curve", title, figures, curves={"CPU µs of the server per message": points})


def _idle(server: Serving, simulators: Child, count: int, tell: Tell) -> Idle:
    tell(f"curve: {count} idle simulators")
    simulators.ask(count)
    before = server.books()
    time.sleep(IDLE_S)
    after = server.books()
    return Idle(before["rss_bytes"], (after["cpu_s"] - before["cpu_s"]) / IDLE_S)


def _busy(server: Serving, simulators: Child, count: int, plan: Plan) -> float:
    """CPU microseconds of the server per message."""
    simulators.ask(count)
    before = server.books()
    begin = time.perf_counter() + SETTLE_S
    load: Load = simulators.ask(Window(begin, begin + plan.seconds))
    after = server.books()
    return float((after["cpu_s"] - before["cpu_s"]) / load.answered * 1e6)


def crowd(pipe: Connection, address: str) -> None:
    """More and more simulators in a process of its own.

    `pipe` says a number (so many are to be connected), a window (in which they speak), or None.
    """
    allow_many_sockets()
    with connection() as context:
        simulators: list[Simulator] = []
        while (task := pipe.recv()) is not None:
            if isinstance(task, Window):
                pipe.send(_speak(simulators, task))
                continue
            while len(simulators) < task:
                simulators.append(Simulator(context, address, CROWD, len(simulators)))
            pipe.send("ready")
        farewell(simulators)


def _speak(simulators: list[Simulator], window: Window) -> Load:
    """One after the other, at a constant pace."""
    now = time.perf_counter
    latencies: list[float] = []
    cpu = time.process_time()
    due = window.begin
    while due < window.end:
        time.sleep(max(0.0, due - now()))
        simulator = simulators[len(latencies) % len(simulators)]
        simulator.send()
        simulator.receive()
        latencies.append(now() - simulator.sent_at)
        due += 1 / OFFERED_PER_S
    return Load(len(latencies), np.array(latencies), time.process_time() - cpu)
