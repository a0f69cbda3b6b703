"""Which cores a process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keeps a process, with all threads that it has now and those it starts later, on `cores`
    (Linux)."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def available() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0))
