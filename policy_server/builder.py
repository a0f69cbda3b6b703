"""`PPOConfig().environment("CartPole-v1").training(lr=3e-4).build()`: settings, link by link.

Every link takes the fields of one section of `policy_server.config` as keywords, checks names
and types at once, and returns the builder. What two sections say together is checked once, by
`settings()`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from policy_server import settings as _settings
from policy_server.config import SECTIONS
from policy_server.config_values import dump, unknown
from policy_server.errors import ConfigError
from policy_server.named import named
from policy_server.settings import Settings

if TYPE_CHECKING:
    from policy_server.algorithm import Algorithm
    from policy_server.callbacks import Callbacks


class AlgorithmConfig:
    """Builds `Settings`, and from them the `Algorithm`.

    Args:
        algorithm: its registered name; None: the one that `from_file` finds.

    Raises:
        ConfigError: from every method: an unknown keyword, or a value of the wrong type.
    """

    def __init__(self, algorithm: str | None = None):
        self._mapping: dict[str, Any] = {}
        self._callbacks: type[Callbacks] | str | None = None
        if algorithm is not None:
            self._set_algorithm(algorithm)

    @property
    def algorithm(self) -> str | None:
        """The name of the algorithm, where it is known yet."""
        return self._mapping.get("algorithm")

    def environment(self, env: str | None = None, **settings: Any) -> Self:
        """What is simulated: `env`, `env_kwargs`, or the spaces of external simulators.

        Takes the fields of `config.EnvironmentConfig`. An environment is named, never handed
        over as an object, because other processes have to make it.
        """
        return self._add("environment", settings if env is None else {"env": env, **settings})

    def simulators(self, num: int | None = None, lanes: int | None = None, **settings: Any) -> Self:
        """Simulators that the server starts: fields of `config.SimulatorsConfig`."""
        given = {"num": num, "lanes": lanes}
        settings |= {name: value for name, value in given.items() if value is not None}
        return self._add("simulators", settings)

    def training(self, **settings: Any) -> Self:
        """Hyperparameters: fields of the training dataclass on the algorithm's page."""
        return self._add("training", settings)

    def multi_agent(self, **settings: Any) -> Self:
        """Who plays by which policy: fields of `config.MultiAgentConfig`.

        `policies` may be names only (list, tuple, set) or name -> overrides. Without a
        `policy_mapping`, one policy plays for all, several for the groups of their own names.
        """
        # Replaced as a whole: patterns of an earlier call would point to policies that are gone.
        if "policies" in settings:
            self._mapping.pop("multi_agent", None)
        return self._add("multi_agent", settings)

    def model(self, **settings: Any) -> Self:
        """The networks: fields of `config.ModelConfig`."""
        return self._add("model", settings)

    def preprocessing(self, **settings: Any) -> Self:
        """What happens to observations and rewards first: `config.PreprocessingConfig`."""
        return self._add("preprocessing", settings)

    def exploration(self, name: str | None = None, **settings: Any) -> Self:
        """Rewards for what is new: fields of `config.ExplorationConfig`."""
        return self._add("exploration", settings if name is None else {"name": name, **settings})

    def collection(self, **settings: Any) -> Self:
        """How steps become batches: fields of `config.CollectionConfig`."""
        return self._add("collection", settings)

    def evaluation(self, **settings: Any) -> Self:
        """Greedy episodes in between: fields of `config.EvaluationConfig`."""
        return self._add("evaluation", settings)

    def checkpointing(self, **settings: Any) -> Self:
        """How often, and how many are kept: fields of `config.CheckpointingConfig`."""
        return self._add("checkpointing", settings)

    def server(self, **settings: Any) -> Self:
        """Address, limits, run folder, seed: fields of `config.ServerConfig`."""
        return self._add("server", settings)

    def learners(self, **settings: Any) -> Self:
        """Device and threads of the learners: fields of `config.LearnersConfig`."""
        return self._add("learners", settings)

    def inference(self, **settings: Any) -> Self:
        """Device and executor of the forward pass: fields of `config.InferenceConfig`."""
        return self._add("inference", settings)

    def metrics(self, **settings: Any) -> Self:
        """Windows of the numbers shown: fields of `config.MetricsConfig`."""
        return self._add("metrics", settings)

    def callbacks(self, callbacks: type[Callbacks] | str | None) -> Self:
        """Who watches: a subclass of `policy_server.Callbacks`, or its "module:Class"."""
        if callbacks is not None and not isinstance(callbacks, (type, str)):
            raise ConfigError(
                'callbacks: expected a class derived from policy_server.Callbacks, or "module:Class"'
                f", got {callbacks!r:.60}: give the class, not an instance."
            )
        self._callbacks = callbacks
        _resolve_callbacks(callbacks)
        return self

    def from_file(self, path: str | Path) -> Self:
        """Puts a settings file (`settings.load_file`) on top of what is set so far."""
        return self.update(_settings.load_file(path))

    def preset(self) -> Self:
        """Puts the tuned preset of this algorithm and environment *below* what is set so far.

        Raises:
            ConfigError: none ships for the two.
        """
        env = self._mapping.get("environment", {}).get("env")
        found = _settings.preset(str(self.algorithm), env)
        if found is None:
            names = ", ".join(_settings.preset_names()) or "none"
            raise ConfigError(f"no preset ships for {self.algorithm} on {env}; there are: {names}.")
        above, self._mapping = self._mapping, {}
        self.update(found)
        self._mapping = _settings.merge(self._mapping, above)
        return self

    def update(self, mapping: Mapping[str, Any]) -> Self:
        """Puts a nested mapping, as a file has it, on top of what is set so far."""
        mapping = dict(mapping)
        if "algorithm" in mapping:
            self._set_algorithm(mapping.pop("algorithm"))
        for section, values in mapping.items():
            self._add(section, values)
        return self

    def settings(self) -> Settings:
        """The settings, complete, checked and frozen."""
        if self.algorithm is None:
            raise ConfigError(
                'algorithm: expected one, got none: AlgorithmConfig("PPO"), or a file that says '
                'algorithm = "PPO".'
            )
        return Settings.from_mapping(self._mapping)

    def copy(self) -> Self:
        """An independent builder with the same contents."""
        other = copy.copy(self)
        other._mapping = copy.deepcopy(self._mapping)
        return other

    def build(self, in_process: bool = False) -> Algorithm:
        """The algorithm, ready to train.

        Args:
            in_process: everything in this process and in lockstep, without sockets and Ray: for
                notebooks, debugging and bit-exact tests.
        """
        from policy_server.algorithm import Algorithm

        callbacks = _resolve_callbacks(self._callbacks)
        return Algorithm(self.settings(), callbacks=callbacks, in_process=in_process)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._mapping!r})"

    def _set_algorithm(self, algorithm: Any) -> None:
        if not isinstance(algorithm, str):
            raise ConfigError(f'algorithm: expected a name such as "PPO", got {algorithm!r}.')
        if self.algorithm not in (None, algorithm):
            raise ConfigError(
                f"algorithm: this is a config of {self.algorithm}, the file or mapping says "
                f"{algorithm}: start from AlgorithmConfig({algorithm!r})."
            )
        _settings.training_class(algorithm)
        self._mapping["algorithm"] = algorithm

    def _add(self, section: str, values: Any) -> Self:
        if section != "training" and section not in SECTIONS:
            raise unknown("", section, ["algorithm", "training", *SECTIONS])
        training = _settings.training_class(self.algorithm) if self.algorithm else None
        checked = dump(_settings.read_section(section, values, training))
        self._mapping = _settings.merge(self._mapping, {section: checked})
        return self


class PGConfig(AlgorithmConfig):
    """The builder, with PG (REINFORCE)."""

    def __init__(self) -> None:
        super().__init__("PG")


class A2CConfig(AlgorithmConfig):
    """The builder, with A2C (advantage actor-critic)."""

    def __init__(self) -> None:
        super().__init__("A2C")


class A3CConfig(AlgorithmConfig):
    """The builder, with A3C (asynchronous A2C)."""

    def __init__(self) -> None:
        super().__init__("A3C")


class PPOConfig(AlgorithmConfig):
    """The builder, with PPO (proximal policy optimisation)."""

    def __init__(self) -> None:
        super().__init__("PPO")


class IMPALAConfig(AlgorithmConfig):
    """The builder, with IMPALA (V-trace)."""

    def __init__(self) -> None:
        super().__init__("IMPALA")


class APPOConfig(AlgorithmConfig):
    """The builder, with APPO (asynchronous PPO)."""

    def __init__(self) -> None:
        super().__init__("APPO")


class DQNConfig(AlgorithmConfig):
    """The builder, with DQN (deep Q-learning)."""

    def __init__(self) -> None:
        super().__init__("DQN")


class RainbowConfig(AlgorithmConfig):
    """The builder, with Rainbow (DQN with all its parts)."""

    def __init__(self) -> None:
        super().__init__("Rainbow")


class ApexDQNConfig(AlgorithmConfig):
    """The builder, with Ape-X DQN (lanes explore by degrees)."""

    def __init__(self) -> None:
        super().__init__("ApexDQN")


class R2D2Config(AlgorithmConfig):
    """The builder, with R2D2 (DQN with a memory)."""

    def __init__(self) -> None:
        super().__init__("R2D2")


class SACConfig(AlgorithmConfig):
    """The builder, with SAC (soft actor-critic)."""

    def __init__(self) -> None:
        super().__init__("SAC")


class DDPGConfig(AlgorithmConfig):
    """The builder, with DDPG (deep deterministic policy gradient)."""

    def __init__(self) -> None:
        super().__init__("DDPG")


class TD3Config(AlgorithmConfig):
    """The builder, with TD3 (twin delayed DDPG)."""

    def __init__(self) -> None:
        super().__init__("TD3")


class TQCConfig(AlgorithmConfig):
    """The builder, with TQC (truncated quantile critics)."""

    def __init__(self) -> None:
        super().__init__("TQC")


class MADDPGConfig(AlgorithmConfig):
    """The builder, with MADDPG (critics that see all agents)."""

    def __init__(self) -> None:
        super().__init__("MADDPG")


class MAPPOConfig(AlgorithmConfig):
    """The builder, with MAPPO (PPO with a value function that sees all agents)."""

    def __init__(self) -> None:
        super().__init__("MAPPO")


class QMIXConfig(AlgorithmConfig):
    """The builder, with QMIX (values of a group's actions)."""

    def __init__(self) -> None:
        super().__init__("QMIX")


class ESConfig(AlgorithmConfig):
    """The builder, with ES (evolution strategies)."""

    def __init__(self) -> None:
        super().__init__("ES")


class ARSConfig(AlgorithmConfig):
    """The builder, with ARS (augmented random search)."""

    def __init__(self) -> None:
        super().__init__("ARS")


def _resolve_callbacks(callbacks: type[Callbacks] | str | None) -> type[Callbacks] | None:
    from policy_server.callbacks import Callbacks

    found = named("callbacks", callbacks) if isinstance(callbacks, str) else callbacks
    if found is not None and not (isinstance(found, type) and issubclass(found, Callbacks)):
        raise ConfigError(
            f"callbacks: expected a class derived from policy_server.Callbacks, got {found!r:.60}."
        )
    return found
