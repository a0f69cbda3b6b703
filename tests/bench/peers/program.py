"""A peer's program, run with the Python of its own virtual environment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
ENVIRONMENTS = ROOT / ".venv-peers"
OWN = ""
"""In place of a virtual environment's name: this one."""
PATIENCE_S = 90.0
"""For a server to stand, or its simulators to be connected; RLlib needs ten seconds and more."""


def missing(environments: set[str]) -> list[str]:
    """Those that `make peers` has not made yet."""
    return sorted(n for n in environments - {OWN} if not (ENVIRONMENTS / n / "ready").exists())


def python(environment: str) -> Path:
    """Its interpreter.

    Raises:
        FileNotFoundError: it has not been made.
    """
    if environment == OWN:
        return Path(sys.executable)
    if missing({environment}):
        raise FileNotFoundError(f".venv-peers/{environment} is not there: run `make peers`.")
    return ENVIRONMENTS / environment / "bin" / "python"


def surroundings(threads: int = 1) -> dict[str, str]:
    """Environment variables of a peer: nothing of ours on its path, so many threads for torch."""
    ours = ("PYTHONPATH", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
    }


class Program:
    """One that speaks `programs/lockstep.py`, and all the processes that it starts."""

    def __init__(self, environment: str, name: str, *arguments: object, threads: int = 1):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._name = name
        self._process = subprocess.Popen(
            [python(environment), PROGRAMS / name, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=surroundings(threads),
            start_new_session=True,
        )

    def hear(self, patience_s: float = PATIENCE_S) -> Any:
        """What it says next.

        Raises:
            RuntimeError: it died or said nothing; with its last words.
        """
        assert self._process.stdout is not None
        watch = threading.Timer(patience_s, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{self._name} died, or said nothing for {patience_s} s:\n{words}")
        return json.loads(line)

    def tell(self, thing: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(thing) + "\n")
        self._process.stdin.flush()

    def end(self, patience_s: float = 15.0) -> None:
        """Its input ends, and so should it; what is left of its session is then killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._errors.close()
