"""Training as a trainable of Ray Tune: many trials, each with a server and simulators of its own.

    from ray import tune
    from policy_server import PPOConfig
    from policy_server.tune import trainable

    base = PPOConfig().environment("arena").preset()
    space = {"training.lr": tune.loguniform(1e-4, 3e-3)}
    tune.Tuner(trainable(base), param_space=space).fit()

Needs the extra `tune`. A key of the search space is a setting's path, as in `--set`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ray import tune

from policy_server.builder import AlgorithmConfig

if TYPE_CHECKING:
    from policy_server.algorithm import Algorithm

ANY_PORT = "tcp://127.0.0.1:*"
"""Trials must not meet."""


class Trial(tune.Trainable):
    """One trial. An iteration is `Algorithm.train`, whose result is what Tune is told: stop and
    compare by `env_steps`, `episode_return_mean` and the like.

    Attributes:
        base: settings that all trials share.
        cpus, gpus: what Tune reserves for one of them.
    """

    base: ClassVar[AlgorithmConfig]
    cpus: ClassVar[float]
    gpus: ClassVar[float]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": cls.cpus, "GPU": cls.gpus}])

    def setup(self, config: dict[str, Any]) -> None:
        """Raises ConfigError where the trial's settings make no sense."""
        builder = self.base.copy().update(nested(config))
        builder.server(bind=ANY_PORT, run_dir=str(self.logdir))
        if not self.gpus:
            builder.learners(device="cpu").inference(device="cpu")
        self.algorithm: Algorithm = builder.build()

    def step(self) -> dict[str, Any]:
        return self.algorithm.train() | {"address": self.algorithm.address}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.algorithm.save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.algorithm.restore(checkpoint)

    def cleanup(self) -> None:
        self.algorithm.stop(final=False)


def trainable(base: AlgorithmConfig, cpus: float = 1.0, gpus: float = 0.0) -> type[Trial]:
    """What `ray.tune.Tuner` takes: trials that share the settings of `base`.

    Args:
        cpus, gpus: what Tune reserves for each; without GPUs, a trial's learners stay on the CPU.
    """
    return type("Trial", (Trial,), {"base": base.copy(), "cpus": cpus, "gpus": gpus})


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """{"training.lr": 1e-3, "model": {…}} -> {"training": {"lr": 1e-3}, "model": {…}}"""
    found: dict[str, Any] = {}
    for path, value in config.items():
        *sections, name = path.split(".")
        section = found
        for part in sections:
            section = section.setdefault(part, {})
        if isinstance(value, dict) and isinstance(section.get(name), dict):
            section[name] |= value
        else:
            section[name] = value
    return found
