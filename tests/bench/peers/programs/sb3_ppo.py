"""Stable-Baselines3's PPO on CartPole-v1, with the tuned settings of rl-baselines3-zoo.

    python sb3_ppo.py SEED STOP_SECONDS

From the zoo's `hyperparams/ppo.yml`, CartPole-v1; its `lin_x` falls from x to 0 over the run's
100,000 steps.
"""

from __future__ import annotations

import sys
import time

from criterion import ENV, Criterion
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

STEPS = 100_000


class Watch(BaseCallback):
    def __init__(self, criterion: Criterion, seconds: float):
        super().__init__()
        self._criterion, self._until = criterion, time.perf_counter() + seconds

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            episode = info.get("episode")
            if episode and self._criterion.episode(episode["r"], self.num_timesteps):
                return False
        return time.perf_counter() < self._until


def main() -> None:
    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    model = PPO(
        "MlpPolicy",
        make_vec_env(ENV, n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: left * 0.001,
        clip_range=lambda left: left * 0.2,
        seed=seed,
        device="cpu",
    )
    criterion = Criterion()
    criterion.start()
    model.learn(STEPS, callback=Watch(criterion, seconds))
    criterion.report(model.num_timesteps)


if __name__ == "__main__":
    main()
