"""Measurements in files, and where they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

from policy_server.bench.conditions import Conditions

REQUIREMENTS = Path(__file__).parent / "requirements"
TOLD = ("ray", "torch", "numpy", "stable_baselines3", "gymnasium", "grpcio", "protobuf", "requests")
"""Packages of a peer's environment that its figures depend on most."""


def spread(values: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [median(values), min(values), max(values)]


def load(path: Path | None) -> dict[str, Any]:
    """What a file holds; nothing, where there is none."""
    if path is None or not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def save(path: Path | None, content: dict[str, Any]) -> None:
    """Writes it, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stamp() -> dict[str, str]:
    """Date, machine and our versions."""
    now = Conditions.now()
    return {"date": now.date, "machine": now.machine, "libraries": now.libraries, "load": now.load}


def versions(environment: str) -> str:
    """Of a peer's environment, as pinned."""
    lines = (REQUIREMENTS / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if re.match(r"^[\w.-]+==", line))
    return ", ".join(f"{name} {pins[name]}" for name in TOLD if name in pins)
