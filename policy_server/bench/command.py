"""`policy-server bench`, from flags to files."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from policy_server.bench.conditions import Conditions
from policy_server.bench.document import (
    NUMBERS,
    PAGE,
    PICTURE,
    replace_figures,
    write_numbers,
    write_page,
)
from policy_server.bench.picture import draw
from policy_server.bench.plan import Plan
from policy_server.bench.suite import run
from policy_server.bench.table import print_table
from policy_server.errors import ConfigError


def run_bench(
    given: dict[str, Any],
    numbers: Path | None,
    picture: Path | None,
    folder: Path | None,
    console: Console,
) -> None:
    """Measures, prints, writes.

    Args:
        given: fields of `Plan`; the others have their defaults.
        numbers, picture: files to write; None: not.
        folder: for page, numbers and picture together; None: not.

    Raises:
        ConfigError: the plan is impossible, or a file cannot be written.
    """
    plan = Plan(**given)
    if folder is not None:
        _make(folder)
    for path in (numbers, picture):
        if path is not None:
            _make(path.parent)
            _try(path)
    if folder is not None and (folder / PAGE).exists():
        replace_figures((folder / PAGE).read_text(encoding="utf-8"), "")
    if not sys.stdout.isatty():
        console.width = 180  # a log has no edge
    conditions, began = Conditions.now(), time.monotonic()
    with console.status("") as status:
        results = run(plan, status.update if console.is_terminal else _log)
    conditions = replace(conditions, minutes=(time.monotonic() - began) / 60)
    print_table(console, results, plan, conditions)
    if numbers is not None:
        write_numbers(numbers, results, plan, conditions)
    if picture is not None:
        draw(picture, results, plan, conditions)
    if folder is not None:
        write_numbers(folder / NUMBERS, results, plan, conditions)
        draw(folder / PICTURE, results, plan, conditions)
        write_page(folder / PAGE, results, plan, conditions)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _try(path: Path) -> None:
    """The same for a file."""
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"{path}: expected a file to write to: {error.strerror}.") from None


def _make(folder: Path) -> None:
    """Before anything is measured: ten minutes later would be late to find out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: expected a folder to write to: {error.strerror}.") from None
