"""Where and when something was measured; nothing that tells one machine of a kind from another."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("pyzmq", "numpy", "numba", "torch", "msgpack", "ray")


@dataclass(frozen=True)
class Conditions:
    """What figures depend on besides the code.

    Attributes:
        load: averages of the last 1, 5 and 15 minutes before.
        minutes: that everything took.
    """

    date: str
    machine: str
    libraries: str
    load: str
    minutes: float = 0.0

    @classmethod
    def now(cls) -> Conditions:
        import zmq

        libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        return cls(
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            f"{os.cpu_count()}-core {_kind()}machine, {platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}",
            f"{libraries}, libzmq {zmq.zmq_version()}",
            " ".join(f"{value:.2f}" for value in os.getloadavg()),
        )

    def __str__(self) -> str:
        return (
            f"{self.date}; {self.machine}; {self.libraries}; load average before (1, 5, 15 "
            f"minutes): {self.load}; took {self.minutes:.1f} minutes"
        )


def _kind() -> str:
    info = Path("/proc/cpuinfo")
    return "virtual " if info.exists() and " hypervisor" in info.read_text() else ""
