"""W1, W1', W3 and W4: simulators ask as fast as they are answered; the limit is an echo."""

from __future__ import annotations

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

ECHO, SERVER, CLIENT = "echo", "server", "server, Python client"


def many(plan: Plan, tell: Tell) -> Result:
    """W1: what a server is for."""
    trials = _measure("W1", MANY, plan, tell, client=False)
    ours, limit = trials[SERVER], trials[ECHO]
    figures = (
        _rate(ours, limit, at_least(0.75)),
        _p50(ours, limit, at_most(1.4)),
    )
    return Result("W1", MANY.title, figures, trials)


def one(plan: Plan, tell: Tell) -> Result:
    """W1': the round trip itself, on bare sockets and through the Python client."""
    trials = _measure("W1'", ONE, plan, tell, client=True)
    limit = trials[ECHO]
    figures = (
        _p50(trials[SERVER], limit, at_most(1.3)),
        _p50(trials[CLIENT], limit, at_most(1.3), "p50, Python client"),
    )
    return Result("W1'", ONE.title, figures, trials)


def wide(plan: Plan, tell: Tell) -> Result:
    """W3: many environments per message. What counts is environment steps."""
    trials = _measure("W3", WIDE, plan, tell, client=False)
    ours = trials[SERVER]
    steps = tuple(trial.env_steps_per_s for trial in ours)
    share = Spread.of([trial.client_share for trial in ours]).median
    figures = (
        Figure("environment steps", "/s", steps, None, "", at_least(1e6), share),
        _rate(ours, trials[ECHO], None),
    )
    return Result("W3", WIDE.title, figures, trials)


def frames(plan: Plan, tell: Tell) -> Result:
    """W4: images, whole stacks of them or only the newest."""
    with (
        started(echo.main, plan.bind_for("echo"), like_actions(FRAMES)) as limit,
        started(serving.main, plan.bind_for("stacks"), FRAMES) as stacks,
        started(serving.main, plan.bind_for("newest"), NEWEST) as newest,
    ):
        sides = {
            ECHO: lambda: measure(limit, FRAMES, generator.raw, plan),
            SERVER: lambda: measure(stacks, FRAMES, generator.raw, plan),
            "server that stacks": lambda: measure(newest, NEWEST, generator.raw, plan),
        }
        trials = by_turns("W4", sides, plan, tell)
    whole, stacked = trials[SERVER], trials["server that stacks"]
    figures = (
        _rate(whole, trials[ECHO], at_least(0.8), "stacks of 4 frames", "echo of as many bytes"),
        _rate(stacked, whole, at_least(2.5), "newest frame, stacked by the server", "stacks sent"),
    )
    return Result("W4", FRAMES.title, figures, trials)


def _measure(
    work: str, workload: Workload, plan: Plan, tell: Tell, client: bool
) -> dict[str, list[Trial]]:
    with (
        started(echo.main, plan.bind_for("echo"), like_actions(workload)) as limit,
        started(serving.main, plan.bind_for("gateway"), workload) as ours,
    ):
        sides = {
            ECHO: lambda: measure(limit, workload, generator.raw, plan),
            SERVER: lambda: measure(ours, workload, generator.raw, plan),
        }
        if client:
            sides[CLIENT] = lambda: measure(ours, workload, generator.client, plan)
        return by_turns(work, sides, plan, tell)


def _rate(
    ours: list[Trial],
    limit: list[Trial],
    target: Target | None,
    what: str = "messages",
    beside: str = "raw echo",
) -> Figure:
    return compare(what, "messages_per_s", "/s", ours, limit, beside, target)


def _p50(
    ours: list[Trial], limit: list[Trial], target: Target | None, what: str = "round trip, p50"
) -> Figure:
    return compare(what, "p50_us", "µs", ours, limit, "raw echo", target)
