"""What a simulator costs the server, from one of them to 512.

Busy: exactly one message is under way at any time, however many simulators take their turns with
it, so that no batch hides what a session costs. Machines change their pace from one second to the
next: another server answers a single simulator meanwhile, by turns of `TURN` messages. All of them
share one core: on a core of its own a server stays awake between two messages for a moment
(`RouterLoop`), which would count as if it were work. Here it gives the core away instead. Idle:
connected, and silent.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

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
from policy_server.bench.resources import allow_many_sockets, available, pin
from policy_server.bench.trial import checked_accounts
from policy_server.bench.workloads import Workload

COUNTS = (1, 4, 16, 64, 256, 512)
IDLE_COUNTS = (1, 64, 512)
IDLE_S = 6.0  # long enough for a heartbeat on every connection
TURN = 64
"""Messages to one server before it is the other's turn: about ten milliseconds."""
WAYS: dict[str, type[AnySimulator]] = {"ZeroMQ": Simulator, "local socket": LocalSimulator}
CROWD = Workload(f"1 to {COUNTS[-1]} simulators", COUNTS[-1], 1, 1, episode_steps=50)


class Speak(NamedTuple):
    """A task of the simulators': how long."""

    seconds: float


class Busy(NamedTuple):
    """CPU microseconds per message of the server with many simulators, and of the other."""

    crowded: float
    alone: float


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
    busy: dict[int, list[Busy]] = {count: [] for count in COUNTS}
    with (
        started(serving.main, plan.bind_for("alone"), CROWD) as quiet,
        started(serving.main, plan.bind_for("crowd"), CROWD) as full,
    ):
        core = available()[-1:]
        for server in (quiet, full):
            pin(server.child.pid, core)
        with _crowd(quiet, full, way, core) as simulators:
            idle = {n: _idle(full, simulators, n, tell) for n in IDLE_COUNTS}
        for repeat in range(plan.repeats):
            with _crowd(quiet, full, way, core) as simulators:
                for count in COUNTS:
                    tell(f"curve, {way}: {count} simulators, {repeat + 1} of {plan.repeats}")
                    busy[count].append(_busy(quiet, full, simulators, count, plan))
    first = idle[IDLE_COUNTS[0]]
    crowded = {count: tuple(cost.crowded for cost in costs) for count, costs in busy.items()}
    alone = {count: tuple(cost.alone for cost in costs) for count, costs in busy.items()}
    ratios = {n: tuple(c.crowded / c.alone for c in costs) for n, costs in busy.items()}
    dearest = max(COUNTS, key=lambda count: median(ratios[count]))
    figures = [
        Figure(
            f"CPU per message, dearest ({dearest} simulators), {way}", "µs",
            crowded[dearest], alone[dearest], "one simulator", at_most(1.2),
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
        f"{way}: CPU µs of the server per message": crowded,
        f"{way}: the same, over one simulator's beside it": ratios,
    }
    return figures, curves


@contextmanager
def _crowd(quiet: Serving, full: Serving, way: str, core: list[int]) -> Iterator[Child]:
    """A process of simulators; see `crowd`."""
    with children(Child(crowd, quiet.address, full.address, way)) as (simulators,):
        pin(simulators.pid, core)
        yield simulators
        simulators.pipe.send(None)


def _idle(server: Serving, simulators: Child, count: int, tell: Tell) -> Idle:
    tell(f"curve: {count} idle simulators")
    simulators.ask(count)
    before = server.books()
    time.sleep(IDLE_S)
    after = server.books()
    return Idle(before["rss_bytes"], (after["cpu_s"] - before["cpu_s"]) / IDLE_S)


def _busy(quiet: Serving, full: Serving, simulators: Child, count: int, plan: Plan) -> Busy:
    simulators.ask(count)
    simulators.ask(Speak(plan.warmup_s))
    servers = (full, quiet)
    before = [server.books() for server in servers]
    each: int = simulators.ask(Speak(plan.seconds))
    after = [server.books() for server in servers]
    costs = []
    for old, new in zip(before, after, strict=True):
        checked_accounts(old, new, each, CROWD)
        costs.append((new["cpu_s"] - old["cpu_s"]) / each * 1e6)
    return Busy(*costs)


def crowd(pipe: Connection, quiet: str, full: str, way: str) -> None:
    """One simulator at one server, more and more at the other, in a process of its own.

    `pipe` says a number (so many are to be connected), `Speak` (answered with the messages that
    each server got), or None.
    """
    allow_many_sockets()
    with connection() as context:
        single = [WAYS[way](context, quiet, CROWD, 0)]
        many: list[AnySimulator] = []
        while (task := pipe.recv()) is not None:
            if isinstance(task, Speak):
                pipe.send(_speak(many, single, task.seconds))
                continue
            while len(many) < task:
                many.append(WAYS[way](context, full, CROWD, len(many)))
            pipe.send("ready")
        farewell(single + many)


def _speak(many: list[AnySimulator], single: list[AnySimulator], seconds: float) -> int:
    """One simulator after the other, by turns of both servers, until all have spoken and the time
    is over. Returns the messages to each server."""
    queues = [itertools.cycle(many), itertools.cycle(single)]
    until = time.perf_counter() + seconds
    sent = 0
    while sent < len(many) or time.perf_counter() < until:
        for queue in queues:
            for simulator in itertools.islice(queue, TURN):
                simulator.send()
                simulator.receive()
        sent += TURN
    return sent
