"""All workloads, the server and the echo by turns, and what follows from the numbers.

Machines are noisy and clocks drift: no figure stands alone. Each repeat measures both sides one
behind the other; a ratio is taken within its repeat, and the median of these is reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.bench import echo, generator, serving
from tests.bench.frames import like_actions
from tests.bench.trial import Trial, measure
from tests.bench.trial import serving as started
from tests.bench.workloads import WORKLOADS, Workload

ECHO, SERVER, CLIENT = "echo", "server", "server, Python client"


@dataclass(frozen=True)
class Plan:
    """How long and how often. The defaults take about two minutes.

    Attributes:
        seconds: of each window.
        bind: "tcp://127.0.0.1:*", or an "ipc://" path without suffix.
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    repeats: int = 3
    seconds: float = 3.0
    warmup_s: float = 0.5
    bind: str = "tcp://127.0.0.1:*"

    @classmethod
    def from_environment(cls) -> Plan:
        """`BENCH_WORKLOADS` (with commas), `BENCH_REPEATS`, `BENCH_SECONDS`, `BENCH_BIND`."""
        given = os.environ
        default = cls()
        names = given.get("BENCH_WORKLOADS")
        return cls(
            tuple(names.split(",")) if names else default.workloads,
            int(given.get("BENCH_REPEATS", default.repeats)),
            float(given.get("BENCH_SECONDS", default.seconds)),
            default.warmup_s,
            given.get("BENCH_BIND", default.bind),
        )

    def __post_init__(self) -> None:
        for name in self.workloads:
            if name not in WORKLOADS:
                raise ValueError(f"workloads: expected some of {list(WORKLOADS)}, got '{name}'.")
        if self.repeats < 1 or self.seconds <= 0:
            raise ValueError("expected at least one repeat of more than 0 seconds.")


@dataclass(frozen=True)
class Spread:
    """Median and extremes over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One side of one workload. Ratios are to the echo of the same repeat."""

    workload: str
    side: str
    trials: list[Trial]
    rate_ratio: Spread
    p50_ratio: Spread

    def spread(self, field: str) -> Spread:
        """Of a field of `Trial`."""
        return Spread.of([getattr(trial, field) for trial in self.trials])

    def cpu_us(self, who: str) -> float:
        """Median CPU microseconds per message of "server" or "generator"."""
        field = f"{who}_cpu_s"
        return float(median(getattr(trial, field) / trial.answered for trial in self.trials) * 1e6)

    def as_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "side": self.side,
            "rate_ratio": asdict(self.rate_ratio),
            "p50_ratio": asdict(self.p50_ratio),
            "trials": [asdict(trial) for trial in self.trials],
        }


def run(plan: Plan, tell: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Measures everything in the plan."""
    # As Ray has it for an actor without cores of its own, where the gateway lives.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    for name in plan.workloads:
        rows += _run_workload(plan, WORKLOADS[name], tell)
    return rows


def _run_workload(plan: Plan, workload: Workload, tell: Callable[[str], None]) -> list[Row]:
    trials: dict[str, list[Trial]] = {ECHO: [], SERVER: []}
    if workload.simulators == 1:
        trials[CLIENT] = []
    with (
        started(echo.main, _bind(plan, "echo"), like_actions(workload)) as limit,
        started(serving.main, _bind(plan, "gateway"), workload) as ours,
    ):
        for repeat in range(plan.repeats):
            for side, done in trials.items():
                tell(f"{workload.name}: {side}, {repeat + 1} of {plan.repeats}")
                server = limit if side == ECHO else ours
                load = generator.client if side == CLIENT else generator.raw
                done.append(measure(server, workload, load, plan.seconds, plan.warmup_s))
    return [_row(workload, side, done, trials[ECHO]) for side, done in trials.items()]


def _row(workload: Workload, side: str, trials: list[Trial], echoes: list[Trial]) -> Row:
    pairs = list(zip(trials, echoes, strict=True))
    return Row(
        workload.name,
        side,
        trials,
        Spread.of([ours.actions_per_s / limit.actions_per_s for ours, limit in pairs]),
        Spread.of([ours.p50_us / limit.p50_us for ours, limit in pairs]),
    )


def _bind(plan: Plan, name: str) -> str:
    return f"{plan.bind}-{name}" if plan.bind.startswith("ipc://") else plan.bind
