"""Learning bars, through the command line: real sockets, real processes, Ray.

    make slow

Every bar is tried with seeds 1 to 5 and has to be reached by at least four of them. What was
measured stands in docs/learning.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policy_server.settings import merge, preset

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
COMMAND = Path(sys.executable).with_name("policy-server")
SEEDS = (1, 2, 3, 4, 5)
ENOUGH = 4
CARTS = "pettingzoo:tests.learning.worlds:two_carts"


class Bar(NamedTuple):
    """A mean return to reach, as `--stop-return` counts it, within so many environment steps.

    Attributes:
        settings: on top of those that the algorithm ships for CartPole-v1; or the name of a file
            with all of them, in `examples`; None: those that it ships for `env`.
        minutes: that one run may take.
    """

    name: str
    algorithm: str
    env: str
    stop_return: float
    stop_steps: int
    settings: dict[str, Any] | str | None = None
    minutes: int = 15


PARTIAL = "partial_cartpole:PartialCartPole-v1"
SHARED = {
    "multi_agent": {"policies": ["both"], "policy_mapping": {"cart_*": "both"}},
    "metrics": {"window_episodes": 40},
}
TWO = {
    "multi_agent": {
        "policies": ["left", "right"],
        "policy_mapping": {"cart_0": "left", "cart_1": "right"},
    }
}
BARS = [
    Bar("PPO CartPole-v1", "PPO", "CartPole-v1", 475, 100_000),
    Bar("PPO Pendulum-v1", "PPO", "Pendulum-v1", -300, 400_000),
    # One policy's episodes are those of both carts, so that 450 each are 900 together.
    Bar("PPO two carts, one policy", "PPO", CARTS, 450, 400_000, SHARED),
    Bar("PPO two carts, two policies", "PPO", CARTS, 900, 400_000, TWO),
    Bar("PPO LunarLander-v3", "PPO", "LunarLander-v3", 200, 1_000_000),
    Bar("PPO Hopper-v5", "PPO", "Hopper-v5", 2200, 1_000_000),
    Bar("PPO Walker2d-v5", "PPO", "Walker2d-v5", 3000, 1_000_000),
    Bar("PPO HalfCheetah-v5", "PPO", "HalfCheetah-v5", 5000, 1_000_000),
    Bar("PG CartPole-v1", "PG", "CartPole-v1", 195, 100_000),
    Bar("A2C CartPole-v1", "A2C", "CartPole-v1", 475, 500_000),
    Bar("A3C CartPole-v1", "A3C", "CartPole-v1", 475, 500_000),
    Bar("IMPALA CartPole-v1", "IMPALA", "CartPole-v1", 475, 500_000),
    Bar("APPO CartPole-v1", "APPO", "CartPole-v1", 475, 500_000),
    Bar("DQN CartPole-v1", "DQN", "CartPole-v1", 475, 100_000),
    Bar("DQN LunarLander-v3", "DQN", "LunarLander-v3", 150, 300_000, minutes=30),
    Bar("Rainbow CartPole-v1", "Rainbow", "CartPole-v1", 450, 150_000),
    Bar("ApexDQN CartPole-v1", "ApexDQN", "CartPole-v1", 475, 250_000),
    Bar("SAC CartPole-v1", "SAC", "CartPole-v1", 450, 100_000),
    Bar("SAC Pendulum-v1", "SAC", "Pendulum-v1", -200, 20_000),
    Bar("SAC LunarLander", "SAC", "LunarLanderContinuous-v3", 250, 500_000, minutes=120),
    Bar("TQC Pendulum-v1", "TQC", "Pendulum-v1", -200, 20_000),
    Bar("TD3 Pendulum-v1", "TD3", "Pendulum-v1", -200, 30_000),
    Bar("DDPG Pendulum-v1", "DDPG", "Pendulum-v1", -300, 30_000),
    Bar("ES CartPole-v1", "ES", "CartPole-v1", 150, 500_000),
    Bar("ARS CartPole-v1", "ARS", "CartPole-v1", 150, 500_000),
    Bar(
        "PPO with an LSTM, no velocities",
        "PPO",
        PARTIAL,
        350,
        1_000_000,
        "partial_cartpole_ppo.toml",
    ),
    Bar("R2D2, no velocities", "R2D2", PARTIAL, 350, 2_000_000, "partial_cartpole_r2d2.toml"),
    # With `mixer = "vdn"` it takes 15,104 steps or more.
    Bar(
        "QMIX two-step game", "QMIX", "two_step_game:TwoStep-v0", 7.5, 12_000, "two_step_game.toml"
    ),
    Bar(
        "MADDPG speaker and listener",
        "MADDPG",
        "mpe_groups:SpeakerListenerReals-v0",
        -20,
        200_000,
        "mpe_maddpg.toml",
    ),
    Bar("MAPPO spread", "MAPPO", "mpe_groups:Spread-v0", -58, 300_000, "mpe_mappo.toml"),
    Bar("PPO arena", "PPO", "arena", 12, 80_000),
    Bar("PPO against DQN, arena", "PPO", "arena", 12, 80_000, "arena_ppo_dqn.toml"),
    Bar("PPO against a random agent2, arena", "PPO", "arena", 55, 500_000, "arena_explorer.toml"),
    Bar("PPO against a random agent1, arena", "PPO", "arena", 40, 900_000, "arena_chaser.toml"),
]


def run(bar: Bar, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the command; the object that it prints last."""
    arguments = ["--run", bar.algorithm, "--env", bar.env, "--seed", str(seed), "--json"]
    arguments += ["--stop-return", str(bar.stop_return), "--stop-steps", str(bar.stop_steps)]
    if isinstance(bar.settings, str):
        arguments += ["--config", str(EXAMPLES / bar.settings)]
    elif bar.settings is not None:
        path = folder / "settings.json"
        path.write_text(json.dumps(merge(preset(bar.algorithm, "CartPole-v1") or {}, bar.settings)))
        arguments += ["--config", str(path)]
    done = subprocess.run(
        [str(COMMAND), "train", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLES}"},
        capture_output=True,
        text=True,
        timeout=60 * bar.minutes,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.timeout(0)  # each run has a limit of its own
@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.name)
def test_the_bar_is_reached(bar, tmp_path, capsys):
    reached = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        result = run(bar, seed, folder)
        assert result["accounting"]["balance"] == 0
        assert not result["interrupted"]
        reached.append(result["reached"])
        with capsys.disabled():
            print(
                f"\n{bar.name}, seed {seed}: {'reached' if result['reached'] else 'MISSED'} "
                f"{bar.stop_return:g} with {result['episode_return_mean']:.1f} at "
                f"{result['env_steps']} steps, {result['wall_s']:.0f} s",
                end="",
                flush=True,
            )
    assert sum(reached) >= ENOUGH, reached
