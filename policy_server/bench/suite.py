"""All the work in a plan, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from policy_server.bench import (
    curve,
    exchange,
    learning,
    parts,
    publication,
    slow_simulators,
    updates,
)
from policy_server.bench.figure import Result, Tell
from policy_server.bench.plan import Plan

WORKS: dict[str, Callable[[Plan, Tell], Result]] = {
    "W1": exchange.many,
    "W1'": exchange.one,
    "W2": slow_simulators.slow,
    "W3": exchange.wide,
    "W4": exchange.frames,
    "W5": learning.learning,
    "W7": updates.updates,
    "W8": publication.publication,
    "curve": curve.curve,
    "parts": parts.parts,
}


def run(plan: Plan, tell: Tell = lambda text: None) -> list[Result]:
    """Measures everything in the plan. `tell` hears what is being done."""
    return [WORKS[name](plan, tell) for name in plan.work]
