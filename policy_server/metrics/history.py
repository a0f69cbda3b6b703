"""What a run recorded, read back: the records that led to where the run is now."""

from __future__ import annotations

import json
from pathlib import Path

from policy_server.errors import RunDirError
from policy_server.metrics.recorder import JSONL, STEP

Record = dict[str, float]


def read_history(run_dir: str | Path) -> list[Record]:
    """All records of a run, env_steps never falling.

    A run that went back to an earlier checkpoint wrote over the same steps again: of the records
    it left behind, those beyond the step it resumed from are not part of the history any more.
    Numbers that were not finite are absent; a last line that a crash cut short is passed over.

    Raises:
        RunDirError: there are no metrics, or the file is damaged.
    """
    path = Path(run_dir) / JSONL
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RunDirError(
            f"{run_dir}: there are no metrics here, {JSONL} is missing: expected the folder of a "
            "run."
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirError(f"{path}: the metrics cannot be read: {error}.") from None
    history: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            step = row[STEP]
            record = {k: v for k, v in row.items() if type(v) in (int, float)}
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                continue
            raise RunDirError(
                f"{path}: line {number} is damaged, expected a JSON map with {STEP!r}: delete it."
            ) from None
        while history and history[-1][STEP] > step:
            history.pop()
        history.append(record)
    if not history:
        raise RunDirError(
            f"{path}: there are no metrics yet: the first ones come with the first update."
        )
    return history


def series(history: list[Record], name: str) -> tuple[list[float], list[float]]:
    """(env steps, values) of the records that have this number."""
    points = [(record[STEP], record[name]) for record in history if name in record]
    return [x for x, _ in points], [y for _, y in points]


def policies_of(history: list[Record]) -> list[str]:
    """Names of the policies, in the order in which they turn up."""
    names: dict[str, None] = {}
    for record in history:
        for key in record:
            policy, _, metric = key.partition("/")
            if metric == "version":
                names[policy] = None
    return list(names)
