"""The server's side: policies, their learners, and the door that simulators come through.

    from policy_server import PPOConfig

    algorithm = PPOConfig().environment("CartPole-v1").simulators(2, lanes=8).build()

Reading order: `types` (the nouns), `config` (every setting), `builder` (how they are given),
`algorithm` (build, train, evaluate, save), `server` (how the rooms are wired).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policy_server.algorithm import Algorithm
    from policy_server.algorithms import register_loss
    from policy_server.builder import (
        A2CConfig,
        A3CConfig,
        AlgorithmConfig,
        ApexDQNConfig,
        APPOConfig,
        ARSConfig,
        DDPGConfig,
        DQNConfig,
        ESConfig,
        IMPALAConfig,
        MADDPGConfig,
        MAPPOConfig,
        PGConfig,
        PPOConfig,
        QMIXConfig,
        R2D2Config,
        RainbowConfig,
        SACConfig,
        TD3Config,
        TQCConfig,
    )
    from policy_server.callbacks import Callbacks
    from policy_server.errors import (
        AddressError,
        CheckpointError,
        ConfigError,
        LearnerError,
        PolicyServerError,
        RunDirError,
        SimulatorError,
        UnsupportedSpaceError,
    )
    from policy_server.settings import Settings

__all__ = [
    "A2CConfig",
    "A3CConfig",
    "APPOConfig",
    "ARSConfig",
    "AddressError",
    "Algorithm",
    "AlgorithmConfig",
    "ApexDQNConfig",
    "Callbacks",
    "CheckpointError",
    "ConfigError",
    "DDPGConfig",
    "DQNConfig",
    "ESConfig",
    "IMPALAConfig",
    "LearnerError",
    "MADDPGConfig",
    "MAPPOConfig",
    "PGConfig",
    "PPOConfig",
    "PolicyServerError",
    "QMIXConfig",
    "R2D2Config",
    "RainbowConfig",
    "RunDirError",
    "SACConfig",
    "Settings",
    "SimulatorError",
    "TD3Config",
    "TQCConfig",
    "UnsupportedSpaceError",
    "register_loss",
]

# Resolved on first use, so that `import policy_server` costs nothing and needs no extra.
_HOMES = {
    "Algorithm": "algorithm",
    "A2CConfig": "builder",
    "A3CConfig": "builder",
    "APPOConfig": "builder",
    "ARSConfig": "builder",
    "AlgorithmConfig": "builder",
    "DDPGConfig": "builder",
    "DQNConfig": "builder",
    "ESConfig": "builder",
    "IMPALAConfig": "builder",
    "MADDPGConfig": "builder",
    "MAPPOConfig": "builder",
    "PGConfig": "builder",
    "PPOConfig": "builder",
    "QMIXConfig": "builder",
    "R2D2Config": "builder",
    "RainbowConfig": "builder",
    "ApexDQNConfig": "builder",
    "SACConfig": "builder",
    "TD3Config": "builder",
    "TQCConfig": "builder",
    "Callbacks": "callbacks",
    "Settings": "settings",
    "register_loss": "algorithms",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'policy_server' has no attribute {name!r}")
    return getattr(import_module(f"policy_server.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
