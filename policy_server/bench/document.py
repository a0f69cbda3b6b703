"""What stays of a benchmark: numbers, a picture, a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from policy_server.bench.conditions import Conditions
from policy_server.bench.figure import Result
from policy_server.bench.plan import Plan
from policy_server.bench.table import markdown
from policy_server.errors import ConfigError

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PAGE, NUMBERS, PICTURE = "README.md", "results.json", "results.png"


def write_numbers(
    path: Path, results: Sequence[Result], plan: Plan, conditions: Conditions
) -> None:
    """Every trial of every side as JSON."""
    content = {
        "conditions": asdict(conditions),
        "plan": asdict(plan),
        "results": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_page(path: Path, results: Sequence[Result], plan: Plan, conditions: Conditions) -> None:
    """The figures, into a page that has two marks for them; without a page there is a new one."""
    before = f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    if path.exists():
        before = path.read_text(encoding="utf-8")
    figures = f"{markdown(results, plan, conditions)}\n\n![the figures]({PICTURE})"
    path.write_text(replace_figures(before, figures), encoding="utf-8")


def replace_figures(document: str, figures: str) -> str:
    """Puts `figures` between the two marks.

    Raises:
        ConfigError: the marks are not there, once each.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ConfigError(f"expected '{BEGIN}' and '{END}' once each in {PAGE}.")
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{tail}"
