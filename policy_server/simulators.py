"""Simulator processes that the server starts for the user, and watches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from policy_server.errors import ConfigError, SimulatorError
from policy_server.settings import Settings

STOP_S = 5.0
"""Seconds to say goodbye in before a simulator is killed."""
GUARD = "sim_clients.guard"
"""Runs a simulator's module until that ends, or we do."""
ARENA_OPTIONS = {"size": "--size", "steps": "--steps", "agent1": "--agent1", "agent2": "--agent2"}


def command(settings: Settings, index: int, address: str) -> list[str]:
    """What starts simulator number `index`."""
    env, kwargs = settings.environment.env, settings.environment.env_kwargs
    assert env is not None
    seed = (settings.server.seed or 0) + 1000 * (index + 1)
    lanes = str(settings.simulators.lanes)
    common = ["--address", address, "--seed", str(seed), "--identity", f"sim-{index}"]
    if env == "arena":
        own = [
            part
            for key, flag in ARENA_OPTIONS.items()
            if key in kwargs
            for part in (flag, str(kwargs[key]))
        ]
        return [sys.executable, "-m", "arena_sim", "--arenas", lanes, *own, *common]
    options = ["--num-envs", lanes, *common]
    if kwargs:
        options += ["--env-kwargs", json.dumps(kwargs)]
    if settings.environment.action_mask:
        options.append("--action-mask")
    if env.startswith("pettingzoo:"):
        return [
            sys.executable,
            "-m",
            "sim_clients.pettingzoo",
            env.removeprefix("pettingzoo:"),
            *options,
        ]
    return [sys.executable, "-m", "sim_clients.gymnasium", env, *options]


class SimulatorFleet:
    """The simulators of one run, each a process of its own; restarted when they die.

    None outlives this process, however it ends: each holds the other end of a pipe of ours.

    Args:
        log_dir: their output goes to `sim-N.log` there; None: to our standard error.
    """

    def __init__(self, settings: Settings, address: str, log_dir: Path | None):
        self._settings = settings
        self._address = address
        self._log_dir = log_dir
        self._processes: list[subprocess.Popen[bytes]] = []
        self._restarts = [0] * settings.simulators.num
        for index in range(settings.simulators.num):
            self._processes.append(self._start(index))

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        # One thread each: simulators share the cores with the learner.
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
        log: IO[bytes] | None = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            log = (self._log_dir / f"sim-{index}.log").open("ab")
        python, option, *module = command(self._settings, index, self._address)
        try:
            return subprocess.Popen(
                [python, option, GUARD, *module],
                env=environment,
                # Nothing is ever written: its end tells the guard that we are gone.
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=log if log else sys.stderr,
                stderr=log if log else sys.stderr,
                # A Ctrl-C is ours: we end them when the server has drained.
                start_new_session=True,
            )
        finally:
            if log is not None:
                log.close()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def check(self) -> None:
        """Restarts those that died.

        Raises:
            SimulatorError: one did so too often, or was started wrongly (exit code 2).
        """
        for index, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            _close_pipe(process)
            self._restarts[index] += 1
            if code == 2 or self._restarts[index] > self._settings.simulators.max_restarts:
                raise SimulatorError(
                    f"simulator {index} ended with exit code {code}"
                    f"{self._last_words(index)} It was started as: "
                    f"{' '.join(command(self._settings, index, self._address))}"
                )
            self._processes[index] = self._start(index)

    def _last_words(self, index: int) -> str:
        if self._log_dir is None:
            return "."
        path = self._log_dir / f"sim-{index}.log"
        lines = path.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else f" and said nothing in {path}."

    def stop(self) -> None:
        """Ends them politely, then firmly."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Only now: its end is a second SIGTERM, which would interrupt the goodbye.
            _close_pipe(process)
        self._processes.clear()


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def local_simulator(settings: Settings, index: int, transport: Any, clock: Any) -> Any:
    """The same simulator in this process, for the in-process wiring."""
    from sim_clients.client import Client, Group

    env, kwargs = settings.environment.env, settings.environment.env_kwargs
    lanes = settings.simulators.lanes
    seed = (settings.server.seed or 0) + 1000 * (index + 1)
    identity = f"sim-{index}"
    if env == "arena":
        from arena_sim.arenas import Arenas
        from arena_sim.simulator import ArenaSimulator, groups

        size = int(kwargs.get("size", 10))
        arenas = Arenas(lanes, size, size, int(kwargs.get("steps", 100)))
        players = {agent: str(kwargs.get(agent, "policy")) for agent in ("agent1", "agent2")}
        declared = groups(arenas, **players)
        client = Client(None, declared, identity=identity, transport=transport, clock=clock)
        return ArenaSimulator(client, arenas, **players, seed=seed)
    assert env is not None
    if env.startswith("pettingzoo:"):
        raise ConfigError(
            f"environment.env = '{env}': the in-process wiring runs Gymnasium environments and the "
            "arena; build with in_process=False for PettingZoo."
        )
    from sim_clients.gymnasium import GymnasiumSimulator, make_environments

    def connect(group: Group) -> Client:
        return Client(None, group, identity=identity, transport=transport, clock=clock)

    mask = settings.environment.action_mask
    envs = make_environments(env, lanes, kwargs)
    return GymnasiumSimulator(connect, envs, seed, action_mask=mask)
