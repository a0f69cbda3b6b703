"""Results as lines of text, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from policy_server.bench.conditions import Conditions
from policy_server.bench.figure import Figure, Result, Spread, number
from policy_server.bench.plan import Plan
from policy_server.bench.trial import Trial

HEADINGS = ("work", "figure", "ours", "limit", "ours / limit", "target", "met", "client's CPU")
DETAILS = (
    "work", "side", "messages/s", "env steps/s", "p50 µs", "p99 µs", "CPU µs per message",
    "client's CPU",
)  # fmt: skip


def cells(work: str, figure: Figure) -> list[str]:
    """One line of the table."""
    verdict = Spread.of(figure.verdicts)
    return [
        work,
        figure.what,
        _amount(Spread.of(figure.ours), figure.unit),
        f"{_amount(Spread.of(figure.limit), figure.unit)}, {figure.beside}"
        if figure.limit
        else figure.beside,
        _amount(verdict, "") if figure.limit else "",
        "" if figure.target is None else f"{figure.target}{', always' if figure.always else ''}",
        {True: "yes", False: "no", None: ""}[figure.met],
        "" if figure.client_share is None else f"{figure.client_share:.0%}",
    ]


def details(work: str, side: str, trials: Sequence[Trial]) -> list[str]:
    """One side of one piece of work. CPU: the server's plus the client's."""

    def spread(field: str) -> Spread:
        return Spread.of([getattr(trial, field) for trial in trials])

    client_us = Spread.of([trial.client_cpu_s / trial.answered * 1e6 for trial in trials])
    return [
        work,
        side,
        _amount(spread("messages_per_s"), ""),
        number(spread("env_steps_per_s").median),
        _amount(spread("p50_us"), ""),
        _amount(spread("p99_us"), ""),
        f"{spread('server_us').median:.0f} + {client_us.median:.0f}",
        f"{spread('client_share').median:.0%}",
    ]


def _amount(spread: Spread, unit: str) -> str:
    space = " " if unit and unit[0] not in "/" else ""
    text = f"{number(spread.median)}{space}{unit}"
    if spread.low == spread.high:  # measured once
        return text
    return f"{text} ({number(spread.low)}-{number(spread.high)})"


def print_table(
    console: Console, results: Sequence[Result], plan: Plan, conditions: Conditions
) -> None:
    """To the terminal."""
    table = Table(title="the server against its limits", caption=plan.caption)
    for heading in HEADINGS:  # on a narrow terminal a number goes on in the next line
        table.add_column(heading, overflow="fold")
    for result in results:
        for figure in result.figures:
            row = cells(result.work, figure)
            row[6] = {"yes": "[green]yes[/]", "no": "[red]no[/]"}.get(row[6], "")
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for result in results:
        for note in result.notes:
            console.print(f"{result.work}: {note}", highlight=False)
    console.print(str(conditions), highlight=False)


def markdown(results: Sequence[Result], plan: Plan, conditions: Conditions) -> str:
    """The same for a document, and every side of it."""
    lines = [
        f"Measured {conditions}. {plan.caption.capitalize()}.",
        "",
        *(f"- **{result.work}**: {result.title}" for result in results),
        "",
        *_markdown_table(
            HEADINGS, [cells(result.work, f) for result in results for f in result.figures]
        ),
        "",
        *(f"- {result.work}: {note}" for result in results for note in result.notes),
        "",
        *_markdown_table(
            DETAILS,
            [
                details(result.work, side, trials)
                for result in results
                for side, trials in result.trials.items()
            ],
        ),
    ]
    return "\n".join(lines)


def _markdown_table(headings: Sequence[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(headings) + " |",
        "| --- | --- |" + " ---: |" * (len(headings) - 2),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
