"""RLlib's PPO on CartPole-v1, in one process, with the settings of its own tuned example.

    python rllib_ppo.py SEED STOP_SECONDS

After `rllib/examples/algorithms/ppo/cartpole_ppo.py` of the same release; there four runners with
16 environments each and a learner are processes of their own, here one runner and the learner live
in this process (`num_env_runners=0`), which costs fewest hand-overs where cores are few.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import ray
from criterion import ENV, Criterion
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

ENVIRONMENTS = 16


def main() -> None:
    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    criterion = Criterion()
    ended = 0  # steps of episodes that are over

    def on_episode_end(
        *, episode: Any, prev_episode_chunks: list[Any] | None = None, **kwargs: Any
    ) -> None:
        nonlocal ended
        # An episode that was cut at the end of a batch comes in pieces.
        whole = [*(prev_episode_chunks or []), episode]
        ended += sum(len(piece) for piece in whole)
        criterion.episode(sum(piece.get_return() for piece in whole), ended)

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    algorithm = (
        PPOConfig()
        .environment(ENV)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVIRONMENTS)
        .learners(num_learners=0)
        .training(lr=0.0003, num_epochs=6, vf_loss_coeff=0.01)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[32], fcnet_activation="linear", vf_share_layers=True
            )
        )
        .callbacks(on_episode_end=on_episode_end)
        .debugging(seed=seed, log_level="ERROR")
        .build_algo()
    )
    criterion.start()
    until = time.perf_counter() + seconds
    while criterion.reached_s is None and time.perf_counter() < until:
        algorithm.train()
    criterion.report(ended)


if __name__ == "__main__":
    main()
