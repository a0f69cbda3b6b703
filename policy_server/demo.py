"""`policy-server demo`: two policies learn in the arena, and a table says how well."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from policy_server.algorithm import Algorithm
from policy_server.builder import PPOConfig
from policy_server.display import Display, summary_table
from policy_server.metrics.plot import plot_run
from policy_server.metrics.recorder import Recorder
from policy_server.metrics.run_dir import prepare_run_dir
from policy_server.run import Run, Stop

BASELINE_EPISODES = 640


def run_demo(run_dir: Path, stop_steps: int, seed: int, console: Console) -> None:
    """Trains, then prints random against trained returns and where everything lies."""
    from arena_sim.baselines import measure, random

    chance = measure(random, random, BASELINE_EPISODES, seed=seed)
    config = PPOConfig().environment("arena").preset()
    config.server(bind="tcp://127.0.0.1:*", run_dir=str(run_dir), seed=seed)
    settings = config.settings()
    prepare_run_dir(run_dir, settings.to_mapping(), resume=False, force=run_dir.exists())
    began = time.monotonic()
    with Algorithm(settings) as algorithm:
        simulators = settings.simulators
        console.print(
            f"policy server on {algorithm.address}: {simulators.num} simulators with "
            f"{simulators.lanes} arenas each connect to it; policy1 plays agent1, policy2 agent2"
        )
        recorder = Recorder(run_dir)
        run = Run(algorithm, recorder, Display(console, "PPO · arena", stop_steps=stop_steps))
        status = run.until(Stop(env_steps=stop_steps))
        recorder.close()
    rows = [
        _row("agent1 (policy1)", chance.mean("agent1"), status, "policy1"),
        _row("agent2 (policy2)", chance.mean("agent2"), status, "policy2"),
    ]
    rows.append(
        {
            "return per episode": "sum",
            "random": f"{chance.mean('agent1') + chance.mean('agent2'):.1f}",
            "trained": f"{status['episode_return_mean']:.1f}",
        }
    )
    title = f"after {status['env_steps']:,} steps of the arena, newest 64 episodes"
    console.print(summary_table(rows, title=title))
    console.print(f"time        {time.monotonic() - began:.0f} s")
    console.print(f"checkpoint  {run.checkpoint}", soft_wrap=True)
    console.print(f"curves      {plot_run(run_dir)}", soft_wrap=True)


def _row(agent: str, chance: float, status: dict[str, Any], policy: str) -> dict[str, Any]:
    trained = status["policies"][policy]["episode_return_mean"]
    return {"return per episode": agent, "random": f"{chance:.1f}", "trained": f"{trained:.1f}"}
