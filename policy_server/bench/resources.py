"""What the operating system gives a process, and what it takes: cores, files, memory."""

from __future__ import annotations

import os
import resource
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


def allow_many_sockets() -> None:
    """As many open files as the system grants this process: hundreds of sockets need them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident_bytes() -> int:
    """Memory that this process occupies (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_seconds(pid: int) -> float:
    """CPU time of another process so far (Linux)."""
    # Behind the name, which may have spaces in it; fields 14 and 15 of proc(5), user and system.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
