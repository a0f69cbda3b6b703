"""Seconds to CartPole-v1 475: ours over sockets, Stable-Baselines3 and RLlib in one process.

    python -m tests.bench.peers.learning [--seeds 5 | --seed 3] [--json FILE]

All three count alike (`programs/criterion.py`): the mean return of the newest 20 training episodes.
Each seed runs the contenders one behind the other; what FILE holds of other seeds stays in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.peers.program import PROGRAMS, ROOT, python, surroundings
from tests.bench.peers.programs.criterion import BAR, ENV
from tests.bench.peers.records import load, save, stamp

OURS, SB3, RLLIB = "ours, over sockets", "Stable-Baselines3", "RLlib"
STEPS = 100_000
"""Ours and Stable-Baselines3 have so many; the zoo's schedules are made for them."""
THREADS = {SB3: 1, RLLIB: 1}
"""Of torch; 1 or 2, whichever was faster here."""
STARTUP_S = 60.0


def ours(seed: int, limit_s: float) -> dict[str, Any]:
    """One run of the command, as an operator types it.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "policy_server.cli", "train", "--run", "PPO", "--env", ENV]
    command += ["--stop-return", f"{BAR:g}", "--stop-steps", str(STEPS), "--seed", str(seed)]
    command += ["--stop-seconds", f"{limit_s:g}", "--json"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        result, whole_s = _last_line(command, {**os.environ, "PYTHONPATH": path}, limit_s, folder)
    return {
        "reached": result["reached"],
        "env_steps": result["env_steps"],
        "training_s": result["stepping_s"],
        "command_s": whole_s,
        "episode_return_mean": result["episode_return_mean"],
    }


def peer(name: str, program: str) -> Callable[[int, float], dict[str, Any]]:
    def run(seed: int, limit_s: float) -> dict[str, Any]:
        command = [str(python("learning")), "-W", "ignore", str(PROGRAMS / program)]
        command += [str(seed), f"{limit_s:g}"]
        with tempfile.TemporaryDirectory() as folder:
            result, whole_s = _last_line(command, surroundings(THREADS[name]), limit_s, folder)
        return {**result, "command_s": whole_s}

    return run


CONTENDERS: dict[str, Callable[[int, float], dict[str, Any]]] = {
    OURS: ours,
    SB3: peer(SB3, "sb3_ppo.py"),
    RLLIB: peer(RLLIB, "rllib_ppo.py"),
}


def _last_line(
    command: list[str], environment: dict[str, str], limit_s: float, folder: str
) -> tuple[dict[str, Any], float]:
    """The object that a command prints last, and the seconds that the whole command took."""
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=limit_s + STARTUP_S,
    )
    whole_s = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]), whole_s


def verdict(runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the seeds, and ours over that of the faster peer.

    A run that did not reach the bar counts as endless, so that a median is only a number where
    more than half of the runs did.

    Args:
        runs: seed -> contender -> what it did.
    """
    medians = {
        name: {
            clock: median(
                run[name][clock] if run[name]["reached"] else float("inf") for run in runs.values()
            )
            for clock in ("training_s", "command_s")
        }
        for name in CONTENDERS
    }
    faster = min((SB3, RLLIB), key=lambda name: medians[name]["training_s"])
    return {
        "medians": medians,
        "faster_peer": faster,
        "ratio": {
            clock: medians[OURS][clock] / medians[faster][clock]
            for clock in ("training_s", "command_s")
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers.learning")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, default=5, help="1 to this; default 5")
    seeds.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of training per run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every run")
    given = parser.parse_args(arguments)
    kept = load(given.json)
    for seed in [given.seed] if given.seed is not None else range(1, given.seeds + 1):
        runs = {}
        for name, run in CONTENDERS.items():
            runs[name] = run(seed, given.limit)
            print(f"seed {seed}, {name}: {runs[name]}", file=sys.stderr, flush=True)
        kept.setdefault("runs", {})[str(seed)] = runs
        kept |= {"limit_s": given.limit, **stamp()}
        save(given.json, kept)
    from tests.bench.peers.report import learning_table, print_table

    print_table(f"seconds to {ENV} {BAR:g}", *learning_table(kept))


if __name__ == "__main__":
    main()
