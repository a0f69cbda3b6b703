"""What a simulator costs the server, from one of them to 512.

Busy: exactly one message is under way at any time, however many simulators take their turns with
it, so that no batch hides what a session costs. Machines change their pace from one second to the
next: beside every count, by turns, another server answers a single simulator. Idle: connected,
and silent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

import numpy as np

from policy_server.bench import serving
from policy_server.bench.child import Child, Serving, children
from policy_server.bench.child import serving as started
from policy_server.bench.figure import Curves, Figure, Result, Tell, at_most
from policy_server.bench.generator import (
    AnySimulator,
    LocalSimulator,
    Simulator,
    connection,
    farewell,
)
from policy_server.bench.plan import Plan
from policy_server.bench.resources import allow_many_sockets
from policy_server.bench.trial import SETTLE_S, Load, Window
from policy_server.bench.workloads import Workload

COUNTS = (1, 2, 4, 16, 64, 256, 512)
IDLE_COUNTS = (1, 64, 512)
IDLE_S = 6.0  # long enough for a heartbeat on every connection
WAYS: dict[str, type[AnySimulator]] = {"ZeroMQ": Simulator, "local socket": LocalSimulator}
CROWD = Workload(f"1 to {COUNTS[-1]} simulators", COUNTS[-1], 1, 1, episode_steps=50)


class Idle(NamedTuple):
    """Of the server's process."""

    rss_bytes: int
    cpu_share: float  # of one core


def curve(plan: Plan, tell: Tell) -> Result:
    """Both ways in, one after the other."""
    figures: list[Figure] = []
    curves: dict[str, Mapping[int, tuple[float, ...]]] = {}
    for way in WAYS:
        more_figures, more_curves = _one_way(way, plan, tell)
        figures += more_figures
        curves |= more_curves
    title = f"one message under way at any time, 1 to {COUNTS[-1]} simulators take turns with it"
    return Result("curve", title, tuple(figures), curves=curves)


def _one_way(way: str, plan: Plan, tell: Tell) -> tuple[list[Figure], Curves]:
    """Every repeat goes once through all counts, each by turns with one simulator elsewhere."""
    crowded: dict[int, list[float]] = {count: [] for count in COUNTS}
    alone: dict[int, list[float]] = {count: [] for count in COUNTS}
    with (
        started(serving.main, plan.bind_for("alone"), CROWD) as quiet,
        started(serving.main, plan.bind_for("crowd"), CROWD) as busy,
    ):
        with children(Child(crowd, busy.address, way)) as (simulators,):
            idle = {n: _idle(busy, simulators, n, tell) for n in IDLE_COUNTS}
            simulators.pipe.send(None)
        for repeat in range(plan.repeats):
            with children(
                Child(crowd, quiet.address, way), Child(crowd, busy.address, way)
            ) as both:
                one, many = both
                for count in COUNTS:
                    tell(f"curve, {way}: {count} simulators, {repeat + 1} of {plan.repeats}")
                    alone[count].append(_busy(quiet, one, 1, plan))
                    crowded[count].append(_busy(busy, many, count, plan))
                for simulators in both:
                    simulators.pipe.send(None)
    first = idle[IDLE_COUNTS[0]]
    ratios = {
        count: tuple(a / b for a, b in zip(crowded[count], alone[count], strict=True))
        for count in COUNTS
    }
    dearest = max(COUNTS, key=lambda count: median(ratios[count]))
    figures = [
        Figure(
            f"CPU per message, dearest ({dearest} simulators), {way}", "µs",
            tuple(crowded[dearest]), tuple(alone[dearest]), "one simulator", at_most(1.2),
        ),
    ]  # fmt: skip
    for n in IDLE_COUNTS[1:]:
        kilobytes = (idle[n].rss_bytes - first.rss_bytes) / (n - IDLE_COUNTS[0]) / 1e3
        figures += [
            Figure(f"memory per idle simulator of {n}, {way}", "kB", (kilobytes,), None, "", None),
            Figure(
                f"CPU per second, {n} idle simulators, {way}", "ms",
                (idle[n].cpu_share * 1e3,), (first.cpu_share * 1e3,), "one idle simulator", None,
            ),
        ]  # fmt: skip
    curves: Curves = {
        f"{way}: CPU µs of the server per message": {n: tuple(of) for n, of in crowded.items()},
        f"{way}: the same, over one simulator's beside it": ratios,
    }
    return figures, curves


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
    load: Load = simulators.ask(Window(begin, begin + plan.seconds / 2))
    after = server.books()
    return float((after["cpu_s"] - before["cpu_s"]) / load.answered * 1e6)


def crowd(pipe: Connection, address: str, way: str) -> None:
    """More and more simulators in a process of its own, which come in by this way.

    `pipe` says a number (so many are to be connected), a window (in which they speak), or None.
    """
    allow_many_sockets()
    with connection() as context:
        simulators: list[AnySimulator] = []
        while (task := pipe.recv()) is not None:
            if isinstance(task, Window):
                pipe.send(_speak(simulators, task))
                continue
            while len(simulators) < task:
                simulators.append(WAYS[way](context, address, CROWD, len(simulators)))
            pipe.send("ready")
        farewell(simulators)


def _speak(simulators: list[AnySimulator], window: Window) -> Load:
    """One after the other."""
    now = time.perf_counter
    latencies: list[float] = []
    cpu = time.process_time()
    while now() < window.end:
        simulator = simulators[len(latencies) % len(simulators)]
        simulator.send()
        simulator.receive()
        latencies.append(now() - simulator.sent_at)
    return Load(len(latencies), np.array(latencies), time.process_time() - cpu)
