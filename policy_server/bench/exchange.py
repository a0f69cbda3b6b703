"""W1, W1', W3 and W4: simulators ask as fast as they are answered; the limit is an echo."""

from __future__ import annotations

from functools import partial

from policy_server.bench import echo, generator, serving
from policy_server.bench.child import serving as started
from policy_server.bench.figure import (
    Figure,
    Result,
    Spread,
    Target,
    Tell,
    at_least,
    at_most,
    by_turns,
    compare,
)
from policy_server.bench.frames import like_actions
from policy_server.bench.plan import Plan
from policy_server.bench.trial import Trial, measure
from policy_server.bench.workloads import FRAMES, MANY, NEWEST, ONE, WIDE, Workload

ECHO, SERVER = "echo", "server"
LOCAL_ECHO, LOCAL_SERVER = "local echo", "server, local socket"
CLIENT = "server, Python client"
ZEROMQ_ECHO = "ZeroMQ echo"
WAYS = (("ZeroMQ", SERVER), ("local socket", LOCAL_SERVER))
"""How simulators may come in, and the side that measures it."""


def many(plan: Plan, tell: Tell) -> Result:
    """W1: what a server is for."""
    trials = _measure("W1", MANY, plan, tell, client=False)
    figures = []
    for way, ours in WAYS:
        figures += [
            _rate(trials[ours], trials[ECHO], at_least(0.75), f"messages, {way}"),
            _p50(trials[ours], trials[ECHO], at_most(1.4), f"round trip, p50, {way}"),
        ]
    figures.append(_rate(trials[LOCAL_SERVER], trials[LOCAL_ECHO], None, *_LOCAL))
    return Result("W1", MANY.title, tuple(figures), trials)


def one(plan: Plan, tell: Tell) -> Result:
    """W1': the round trip itself, on bare sockets and through the Python client."""
    trials = _measure("W1'", ONE, plan, tell, client=True)
    limit = trials[ECHO]
    figures = [
        _p50(trials[ours], limit, at_most(1.3), f"round trip, p50, {way}") for way, ours in WAYS
    ]
    figures.append(_p50(trials[CLIENT], limit, at_most(1.3), "p50, Python client"))
    return Result("W1'", ONE.title, tuple(figures), trials)


def wide(plan: Plan, tell: Tell) -> Result:
    """W3: many environments per message. What counts is environment steps."""
    trials = _measure("W3", WIDE, plan, tell, client=False)
    figures = []
    for way, side in WAYS:
        ours = trials[side]
        steps = tuple(trial.env_steps_per_s for trial in ours)
        share = Spread.of([trial.client_share for trial in ours]).median
        figures += [
            Figure(f"environment steps, {way}", "/s", steps, None, "", at_least(1e6), share),
            _rate(ours, trials[ECHO], None, f"messages, {way}"),
        ]
    return Result("W3", WIDE.title, tuple(figures), trials)


def frames(plan: Plan, tell: Tell) -> Result:
    """W4: images, whole stacks of them or only the newest."""
    answer = like_actions(FRAMES)
    with (
        started(echo.main, plan.bind_for("echo"), answer) as limit,
        started(echo.local, answer) as local_limit,
        started(serving.main, plan.bind_for("stacks"), FRAMES) as stacks,
        started(serving.main, plan.bind_for("newest"), NEWEST) as newest,
    ):
        sides = {}
        for way, load, bare in (
            ("ZeroMQ", generator.raw, limit),
            ("local socket", generator.local, local_limit),
        ):
            sides[f"echo, stacks, {way}"] = partial(measure, bare, FRAMES, load, plan)
            sides[f"echo, newest, {way}"] = partial(measure, bare, NEWEST, load, plan)
            sides[f"stacks, {way}"] = partial(measure, stacks, FRAMES, load, plan)
            sides[f"newest, {way}"] = partial(measure, newest, NEWEST, load, plan)
        trials = by_turns("W4", sides, plan, tell)
    figures = []
    for way, _ in WAYS:
        whole, stacked = trials[f"stacks, {way}"], trials[f"newest, {way}"]
        beside = "ZeroMQ echo of as many bytes"
        figures += [
            _rate(whole, trials["echo, stacks, ZeroMQ"], at_least(0.8), f"stacks of 4 frames, {way}", beside),
            _rate(stacked, whole, at_least(2.5), f"newest frame, {way}", "stacks sent"),
            _rate(
                trials[f"echo, newest, {way}"], trials[f"echo, stacks, {way}"], None,
                f"bare echo: newest frame, {way}", "bare echo: stacks",
            ),
        ]  # fmt: skip
    return Result("W4", FRAMES.title, tuple(figures), trials)


_LOCAL = "messages, local socket", "echo over local sockets"


def _measure(
    work: str, workload: Workload, plan: Plan, tell: Tell, client: bool
) -> dict[str, list[Trial]]:
    answer = like_actions(workload)
    with (
        started(echo.main, plan.bind_for("echo"), answer) as limit,
        started(echo.local, answer) as local_limit,
        started(serving.main, plan.bind_for("gateway"), workload) as ours,
    ):
        sides = {
            ECHO: lambda: measure(limit, workload, generator.raw, plan),
            SERVER: lambda: measure(ours, workload, generator.raw, plan),
            LOCAL_ECHO: lambda: measure(local_limit, workload, generator.local, plan),
            LOCAL_SERVER: lambda: measure(ours, workload, generator.local, plan),
        }
        if client:
            sides[CLIENT] = lambda: measure(ours, workload, generator.client, plan)
        return by_turns(work, sides, plan, tell)


def _rate(
    ours: list[Trial],
    limit: list[Trial],
    target: Target | None,
    what: str,
    beside: str = ZEROMQ_ECHO,
) -> Figure:
    return compare(what, "messages_per_s", "/s", ours, limit, beside, target)


def _p50(ours: list[Trial], limit: list[Trial], target: Target | None, what: str) -> Figure:
    return compare(what, "p50_us", "µs", ours, limit, ZEROMQ_ECHO, target)
