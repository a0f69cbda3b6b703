"""The benchmark's numbers for people: `python -m tests.bench.report [--json FILE] [--write]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.suite import ECHO, Plan, Row, Spread, run
from tests.bench.workloads import WORKLOADS

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEADINGS = (
    "work", "side", "messages/s", "env steps/s", "p50 µs", "p99 µs", "rate / echo",
    "p50 / echo", "CPU µs per message", "CPU s",
)  # fmt: skip


@dataclass(frozen=True)
class Conditions:
    """Where and when; nothing that tells one machine of a kind from another."""

    date: str
    machine: str
    libraries: str
    load: str

    @classmethod
    def now(cls) -> Conditions:
        names = ("pyzmq", "numpy", "torch", "msgpack")
        import zmq

        libraries = ", ".join(f"{name} {version(name)}" for name in names)
        return cls(
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            f"{os.cpu_count()}-core {_kind()}machine, {platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}",
            f"{libraries}, libzmq {zmq.zmq_version()}",
            " ".join(f"{value:.2f}" for value in os.getloadavg()),
        )


def _kind() -> str:
    info = Path("/proc/cpuinfo")
    return "virtual " if info.exists() and " hypervisor" in info.read_text() else ""


def cells(row: Row) -> list[str]:
    """One line of the table. CPU: the server's plus the load's."""
    limit = row.side == ECHO
    return [
        row.workload,
        row.side,
        _count(row.spread("actions_per_s")),
        f"{row.spread('env_steps_per_s').median:,.0f}",
        _count(row.spread("p50_us")),
        _count(row.spread("p99_us")),
        "1" if limit else _ratio(row.rate_ratio),
        "1" if limit else _ratio(row.p50_ratio),
        f"{row.cpu_us('server'):.0f} + {row.cpu_us('generator'):.0f}",
        f"{row.spread('server_cpu_s').median:.1f} + {row.spread('generator_cpu_s').median:.1f}",
    ]


def _count(spread: Spread) -> str:
    return f"{spread.median:,.0f} ({spread.low:,.0f}-{spread.high:,.0f})"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def print_table(rows: list[Row], plan: Plan, conditions: Conditions) -> None:
    """To the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(*HEADINGS, title="the server against a raw echo", caption=_caption(plan))
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.workload != row.workload:
            table.add_section()
        table.add_row(*cells(row))
    console.print(table)
    console.print(f"{conditions.date}; {conditions.machine}; {conditions.libraries}")
    console.print(f"load before (1, 5, 15 min): {conditions.load}")


def _caption(plan: Plan) -> str:
    scheme = plan.bind.partition(":")[0]
    return f"median (lowest-highest) of {plan.repeats} windows of {plan.seconds:g} s, over {scheme}"


def markdown(rows: list[Row], plan: Plan, conditions: Conditions) -> str:
    """The same, for the document."""
    lines = [
        f"Measured {conditions.date} on a {conditions.machine}; {conditions.libraries}; load "
        f"average before: {conditions.load}. {_caption(plan).capitalize()}.",
        "",
        *(f"- **{name}**: {WORKLOADS[name].title}" for name in plan.workloads),
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "| --- | --- |" + " ---: |" * (len(HEADINGS) - 2),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines)


def replace_figures(document: str, figures: str) -> str:
    """Puts `figures` between the two marks.

    Raises:
        ValueError: the marks are not there, once each.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"expected '{BEGIN}' and '{END}' once each in the document.")
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{tail}"


def as_json(rows: list[Row], plan: Plan, conditions: Conditions) -> dict[str, Any]:
    """Every trial, and all that is known about it."""
    return {
        "conditions": asdict(conditions),
        "plan": asdict(plan),
        "rows": [row.as_json() for row in rows],
    }


def main(arguments: list[str] | None = None) -> None:
    default = Plan.from_environment()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.report", description=__doc__)
    parser.add_argument("--workloads", help="with commas; default " + ",".join(default.workloads))
    parser.add_argument("--repeats", type=int, default=default.repeats)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of each window")
    parser.add_argument("--bind", default=default.bind, help="tcp://127.0.0.1:* or ipc://PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every trial")
    parser.add_argument("--write", action="store_true", help=f"updates docs/{DOCUMENT.name}")
    given = parser.parse_args(arguments)
    try:
        names = tuple(given.workloads.split(",")) if given.workloads else default.workloads
        plan = replace(
            default, workloads=names, repeats=given.repeats, seconds=given.seconds, bind=given.bind
        )
    except ValueError as error:
        parser.error(str(error))
    conditions = Conditions.now()
    rows = run(plan, lambda text: print(text, file=sys.stderr, flush=True))
    print_table(rows, plan, conditions)
    if given.json:
        given.json.write_text(json.dumps(as_json(rows, plan, conditions), indent=1) + "\n")
    if given.write:
        figures = markdown(rows, plan, conditions)
        DOCUMENT.write_text(replace_figures(DOCUMENT.read_text(), figures))


if __name__ == "__main__":
    main()
