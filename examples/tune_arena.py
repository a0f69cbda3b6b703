"""Searches learning rate and batch size on the MultiAgentArena with Ray Tune.

    python examples/tune_arena.py --trials 4 --steps 40000

Every trial has a server, learners and simulators of its own, on a port of its own.
"""

from __future__ import annotations

import argparse

from ray import tune

from policy_server import PPOConfig
from policy_server.tune import trainable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps of a trial")
    parser.add_argument("--at-once", type=int, default=2, help="trials that run at the same time")
    given = parser.parse_args()

    base = PPOConfig().environment("arena").preset().simulators(num=1)
    search = {
        "training.lr": tune.loguniform(3e-4, 3e-3),
        "training.train_batch_size": tune.choice([1600, 3200, 6400]),
    }
    tuner = tune.Tuner(
        trainable(base),
        param_space=search,
        tune_config=tune.TuneConfig(
            metric="episode_return_mean",
            mode="max",
            num_samples=given.trials,
            max_concurrent_trials=given.at_once,
        ),
        run_config=tune.RunConfig(stop={"env_steps": given.steps}, verbose=0),
    )
    results = tuner.fit()
    print(f"{'return':>8}  {'lr':>8}  {'batch':>6}  {'steps':>7}  address")
    rows = sorted(
        (result.metrics for result in results if result.metrics and "env_steps" in result.metrics),
        key=lambda metrics: -(metrics["episode_return_mean"] or float("-inf")),
    )
    for metrics in rows:
        config = metrics["config"]
        print(
            f"{metrics['episode_return_mean']:8.1f}  {config['training.lr']:8.1e}  "
            f"{config['training.train_batch_size']:6d}  {metrics['env_steps']:7d}  "
            f"{metrics['address']}"
        )
    for error in results.errors:
        print(f"a trial failed: {error}")


if __name__ == "__main__":
    main()
