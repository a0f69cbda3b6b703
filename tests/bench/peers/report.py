"""The figures for people: `python -m tests.bench.peers.report` writes docs/benchmarks/peers.md.

Reads what `exchange` and `learning` wrote beside it; measures nothing.
"""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from policy_server.bench.document import replace_figures
from tests.bench.peers.exchange import RLLIB
from tests.bench.peers.learning import CONTENDERS, OURS, THREADS, verdict
from tests.bench.peers.program import ROOT
from tests.bench.peers.records import load, spread, versions

FOLDER = ROOT / "docs" / "benchmarks"
PAGE, EXCHANGE, LEARNING = "peers.md", "peers-exchange.json", "peers-learning.json"

TO_REACH = {"1": 25, "16": 100}
"""Simulators -> times the actions per second of RLlib's policy server."""

Rows = tuple[tuple[str, ...], list[list[str]]]


def exchange_table(kept: dict[str, Any]) -> Rows:
    """Headings and cells; every side with every number of simulators."""
    headings = (
        "simulators", "side", "actions/s", "p50 µs", "p99 µs", "compared with",
        "Python client / it", "bare local / it", "bare ZeroMQ / it",
    )  # fmt: skip
    lines = []
    for record in sorted(kept.values(), key=lambda record: record["simulators"]):
        for name, side in record["sides"].items():
            peer = "beside" in side
            lines.append(
                [
                    str(record["simulators"]),
                    name,
                    _amount(side["actions_per_s"]),
                    _amount(side["p50_us"]),
                    _amount(side["p99_us"]),
                    side["beside"].removeprefix("ours, ") if peer else "",
                    _ratio(side["client_over_it"]) if peer else "",
                    _ratio(side["local_over_it"]) if peer else "",
                    _ratio(side["bare_over_it"]) if peer else "",
                ]
            )
    return headings, lines


def exchange_words(kept: dict[str, Any]) -> list[str]:
    """What was to be reached, and what is."""
    lines = []
    for simulators, bound in TO_REACH.items():
        ratios = kept[simulators]["sides"][RLLIB]
        lines.append(
            f"- {RLLIB}, simulators: {simulators}. To reach: {bound} times its actions per second; "
            f"the Python client has {_ratio(ratios['client_over_it'])}, bare local sockets "
            f"{_ratio(ratios['local_over_it'])}, bare ZeroMQ sockets "
            f"{_ratio(ratios['bare_over_it'])}."
        )
    return lines


def learning_table(kept: dict[str, Any]) -> Rows:
    """Headings and cells: every seed of every contender, then the medians."""
    headings = ("seed", "contender", "steps to the bar", "from the start of training, s",
                "from the command's start, s")  # fmt: skip
    lines = []
    for seed, runs in sorted(kept["runs"].items(), key=lambda item: int(item[0])):
        for name, run in runs.items():
            over = "" if run["reached"] else "> "
            lines.append(
                [
                    seed,
                    name,
                    f"{over}{run['env_steps']:,}",
                    f"{over}{run['training_s']:.1f}",
                    f"{over}{run['command_s']:.1f}",
                ]
            )
    medians = verdict(kept["runs"])["medians"]
    for name in CONTENDERS:
        steps = [
            run[name]["env_steps"] if run[name]["reached"] else math.inf
            for run in kept["runs"].values()
        ]
        own = medians[name]
        lines.append(
            ["median", name, _steps(spread(steps)[0]), _seconds(own["training_s"]),
             _seconds(own["command_s"])]
        )  # fmt: skip
    return headings, lines


def learning_words(kept: dict[str, Any]) -> str:
    """The comparison in a sentence."""
    result = verdict(kept["runs"])
    training, command = (result["ratio"][clock] for clock in ("training_s", "command_s"))
    return (
        f"Median over {len(kept['runs'])} seeds, {OURS} over {result['faster_peer']}, which is the "
        f"faster peer: {training:.2f} from the start of training (to reach: at most 0.33), "
        f"{command:.2f} from the command's start."
    )


def print_table(title: str, headings: tuple[str, ...], lines: list[list[str]]) -> None:
    """To the terminal."""
    table = Table(*headings, title=title)
    for line in lines:
        table.add_row(*line)
    Console(width=160).print(table)


def _markdown(headings: tuple[str, ...], lines: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(headings) + " |",
        "| --- " * len(headings) + "|",
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def _where(record: dict[str, Any]) -> str:
    return (
        f"{record['date']}; {record['machine']}; ours: {record['libraries']}; load average at the "
        f"end (1, 5, 15 minutes): {record['load']}"
    )


def figures(exchange: dict[str, Any], learning: dict[str, Any]) -> str:
    """Everything measured, as markdown."""
    lines = ["### Actions per second", ""]
    for record in exchange.values():
        lines.append(
            f"- Simulators: {record['simulators']}; median (lowest-highest) of {record['repeats']} "
            f"windows of {record['seconds']:g} s. Measured {_where(record)}."
        )
    lines += ["", *exchange_words(exchange)]
    lines += ["", *_markdown(*exchange_table(exchange)), "", "### Seconds to CartPole-v1 475", ""]
    lines += [f"Measured {_where(learning)}. {learning_words(learning)}", ""]
    lines += [*_markdown(*learning_table(learning)), ""]
    threads = ", ".join(f"{name} {count}" for name, count in THREADS.items())
    lines += [f"Threads of torch: {threads}. Versions of the peers:", ""]
    lines += [f"- {name}: {versions(name)}" for name in ("rllib-2.30", "grpc", "learning")]
    return "\n".join(lines)


def _amount(three: list[float]) -> str:
    middle, low, high = three
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f})"


def _ratio(three: list[float]) -> str:
    middle, low, high = (f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in three)
    return f"{middle} ({low}-{high})"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "not reached"


def _steps(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not reached"


def main() -> None:
    path = FOLDER / PAGE
    text = figures(load(FOLDER / EXCHANGE), load(FOLDER / LEARNING))
    path.write_text(replace_figures(path.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
