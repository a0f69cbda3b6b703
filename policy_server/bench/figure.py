"""What a benchmark says: figures of ours beside their limits, and what was to be reached.

Machines are noisy and clocks drift: no figure stands alone. Each repeat measures all sides one
behind the other; a ratio is taken within its repeat, and the median of these is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, NamedTuple

from policy_server.bench.plan import Plan
from policy_server.bench.trial import Trial

Tell = Callable[[str], None]
"""Hears what is being done now."""


def number(value: float) -> str:
    """Three digits, thousands in full."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Spread(NamedTuple):
    """Median and extremes over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(median(values)), float(min(values)), float(max(values)))


@dataclass(frozen=True)
class Target:
    """What is to be reached: at least, or at most, so much."""

    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.bound)}"


def at_least(bound: float) -> Target:
    return Target(bound, True)


def at_most(bound: float) -> Target:
    return Target(bound, False)


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: is measured.
        unit: of `ours` and `limit`.
        ours: one value per repeat.
        limit: the other side's in the same repeats; None where the target is in `unit`.
        beside: what the limit is.
        client_share: of the CPU time of client and server, in the median repeat of ours.
        always: the target is to be met in every repeat, not in the median one.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    limit: tuple[float, ...] | None
    beside: str
    target: Target | None
    client_share: float | None = None
    always: bool = False

    @property
    def verdicts(self) -> tuple[float, ...]:
        """What the target speaks of: ratios, or values of ours."""
        if self.limit is None:
            return self.ours
        return tuple(a / b for a, b in zip(self.ours, self.limit, strict=True))

    @property
    def met(self) -> bool | None:
        """None: nothing was asked for."""
        if self.target is None:
            return None
        judged = self.verdicts if self.always else (median(self.verdicts),)
        return all(self.target.met(value) for value in judged)


def compare(
    what: str,
    field_of_trial: str,
    unit: str,
    ours: Sequence[Trial],
    limit: Sequence[Trial],
    beside: str,
    target: Target | None,
) -> Figure:
    """A figure from the trials of two sides."""
    return Figure(
        what,
        unit,
        tuple(getattr(trial, field_of_trial) for trial in ours),
        tuple(getattr(trial, field_of_trial) for trial in limit),
        beside,
        target,
        median(trial.client_share for trial in ours),
    )


Curves = Mapping[str, Mapping[int, tuple[float, ...]]]
"""Label -> x -> one y per repeat."""


@dataclass(frozen=True)
class Result:
    """Everything that one piece of work gave.

    Attributes:
        trials: of each side, in the order of the repeats; empty where no messages flow.
        curves: figures over something, for the picture.
        notes: what a reader must know to judge the figures.
    """

    work: str
    title: str
    figures: tuple[Figure, ...]
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "work": self.work,
            "title": self.title,
            "figures": [
                {**asdict(figure), "verdicts": figure.verdicts, "met": figure.met}
                for figure in self.figures
            ],
            "trials": {side: [asdict(t) for t in done] for side, done in self.trials.items()},
            "curves": self.curves,
            "notes": self.notes,
        }


def by_turns(
    work: str, sides: Mapping[str, Callable[[], Trial]], plan: Plan, tell: Tell
) -> dict[str, list[Trial]]:
    """A B A B ..., so that what changes on the machine meanwhile meets all sides alike."""
    trials: dict[str, list[Trial]] = {side: [] for side in sides}
    for repeat in range(plan.repeats):
        for side, measured in sides.items():
            tell(f"{work}: {side}, {repeat + 1} of {plan.repeats}")
            trials[side].append(measured())
    return trials
