"""The algorithms by name. Importing this does not import torch: pages load when asked for.

An algorithm is two classes.

*Training* (`training.Training`): a frozen dataclass of its options, each with a default, best in a
file of its own that does without torch. It also says what the algorithm supports, how many steps
an update takes, and how the policy acts.

*Algorithm*: its page.

- `make_network(spaces, model, training)`, static: the network that acts (`networks.ActingNetwork`).
  The gateway makes one, too, and gets the numbers of the learner's.
- It is made as `Algorithm(spaces, model, training, seed=, device=, reward_scale=, reward_clip=)`.
- `network`: the one that acts, and learns.
- `update(batch, env_steps) -> metrics`. Where that takes long it has
  `update_in_steps(batch, env_steps)` instead, or besides, a generator (`stepwise.Steps`) that yields
  where it may be paused and returns the metrics: then the learner can give way to others.
- `state() -> PolicyState` and `load(state)`: all that is needed to go on elsewhere.

`algorithms.ppo` shows one. An algorithm from outside this package is named "module:Algorithm",
with its options as `Algorithm.Training`; or it is registered under a name of its own. "module:loss"
names one of which only the loss is somebody's own (`own_loss`).
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable
from typing import Any

from policy_server.algorithms.contract import check_options, check_page
from policy_server.algorithms.training import Training
from policy_server.errors import ConfigError
from policy_server.named import named

__all__ = ["Training", "get", "names", "register", "register_loss", "registered", "training_class"]

_PAGES: dict[str, tuple[str | type, str | type]] = {
    "PG": (f"{__name__}.pg_options:PGTraining", f"{__name__}.pg:PG"),
    "A2C": (f"{__name__}.a2c_options:A2CTraining", f"{__name__}.a2c:A2C"),
    "A3C": (f"{__name__}.a2c_options:A3CTraining", f"{__name__}.a2c:A2C"),
    "PPO": (f"{__name__}.ppo_options:PPOTraining", f"{__name__}.ppo:PPO"),
    "IMPALA": (f"{__name__}.impala_options:IMPALATraining", f"{__name__}.impala:IMPALA"),
    "APPO": (f"{__name__}.appo_options:APPOTraining", f"{__name__}.appo:APPO"),
    "DQN": (f"{__name__}.dqn_options:DQNTraining", f"{__name__}.dqn:DQN"),
    "Rainbow": (f"{__name__}.dqn_options:RainbowTraining", f"{__name__}.dqn:DQN"),
    "R2D2": (f"{__name__}.r2d2_options:R2D2Training", f"{__name__}.r2d2:R2D2"),
    "ApexDQN": (f"{__name__}.apex_options:ApexDQNTraining", f"{__name__}.apex_dqn:ApexDQN"),
    "DDPG": (f"{__name__}.td3_options:DDPGTraining", f"{__name__}.td3:TD3"),
    "TD3": (f"{__name__}.td3_options:TD3Training", f"{__name__}.td3:TD3"),
    "SAC": (f"{__name__}.sac_options:SACTraining", f"{__name__}.sac:SAC"),
    "TQC": (f"{__name__}.tqc_options:TQCTraining", f"{__name__}.tqc:TQC"),
    "MADDPG": (f"{__name__}.maddpg_options:MADDPGTraining", f"{__name__}.maddpg:MADDPG"),
    "MAPPO": (f"{__name__}.mappo_options:MAPPOTraining", f"{__name__}.mappo:MAPPO"),
    "QMIX": (f"{__name__}.qmix_options:QMIXTraining", f"{__name__}.qmix:QMIX"),
    "ES": (f"{__name__}.es_options:ESTraining", f"{__name__}.es:ES"),
    "ARS": (f"{__name__}.ars_options:ARSTraining", f"{__name__}.ars:ARS"),
}
_OURS = frozenset(_PAGES)


def names() -> list[str]:
    """All known algorithms, in order of registration."""
    return list(_PAGES)


def register(name: str, training: str | type, algorithm: str | type) -> None:
    """Makes an algorithm from outside this package available under `name`.

    Args:
        name: what `get` will find it by.
        training: dataclass of its options, or "module:Class".
        algorithm: the algorithm's class, or "module:Class", which is also found in processes
            that did not run the registration.

    Raises:
        ConfigError: the name is taken by something else.
    """
    known = _PAGES.get(name)
    if known is not None and not all(map(_same, known, (training, algorithm))):
        raise ConfigError(
            f"Algorithm {name!r} is registered already, as {known[1]}: choose another name."
        )
    _PAGES[name] = (training, algorithm)


def register_loss(
    name: str, loss: str | Callable[..., Any], training: str | type | None = None
) -> None:
    """Makes an algorithm of which only the loss is your own available under `name`.

    Args:
        name: what `get` will find it by.
        loss: a function (policy, model, distribution, train_batch) -> scalar, as in
            `own_loss`, or "module:function".
        training: its options, if they are more than `own_loss_options.OwnLossTraining`: a class
            derived from that, or "module:Class".

    Raises:
        ConfigError: the name is taken by something else.
    """
    if not isinstance(loss, str):
        from policy_server.algorithms.own_loss import page_of

        loss = page_of(loss)
    register(name, training or f"{__name__}.own_loss_options:OwnLossTraining", loss)


def get(name: str) -> tuple[type[Any], type[Any]]:
    """(training config class, algorithm class).

    Raises:
        ConfigError: there is none of that name, it cannot be imported, or it is not one.
    """
    training, algorithm = map(_resolve, _entry(name))
    check_options(training)
    check_page(algorithm)
    return training, algorithm


def training_class(name: str) -> type[Any]:
    """The first of the two alone: does not load one of our own pages.

    Raises:
        ConfigError: as `get`.
    """
    if name not in _OURS:
        return get(name)[0]
    training = _resolve(_entry(name)[0])
    check_options(training)
    return training


def registered() -> dict[str, tuple[str, str]]:
    """What was registered beside our own, so that other processes can register it, too.

    Raises:
        ConfigError: a class of it cannot be imported by its name.
    """
    return {
        name: (_path(training), _path(algorithm))
        for name, (training, algorithm) in _PAGES.items()
        if name not in _OURS
    }


def _same(one: str | type, other: str | type) -> bool:
    """Whether both name the same class; what is text here may be a class there."""
    if isinstance(one, type) and isinstance(other, type):
        return one is other
    texts = [e if isinstance(e, str) else f"{e.__module__}:{e.__qualname__}" for e in (one, other)]
    return texts[0] == texts[1]


def _path(entry: str | type) -> str:
    if isinstance(entry, str):
        return entry
    path = f"{entry.__module__}:{entry.__qualname__}"
    if entry.__module__ == "__main__" or "<" in entry.__qualname__:
        raise ConfigError(
            f"algorithm: {path} was registered, but other processes cannot import it: put the "
            "class into a module."
        )
    return path


def _entry(name: str) -> tuple[str | type, str | type]:
    if ":" in str(name):
        own = getattr(_resolve(name), "Training", None)
        if not isinstance(own, type):
            raise ConfigError(
                f"algorithm: expected {name!r} to have its options as an attribute, Training, "
                f"got {own!r}."
            )
        return own, name
    if name not in _PAGES:
        lower = {known.lower(): known for known in _PAGES}
        close = difflib.get_close_matches(str(name).lower(), lower, 1)
        hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
        raise ConfigError(
            f'algorithm: expected one of {", ".join(_PAGES)}, or "module:Class" for one that is '
            f"not registered in this process, got {name!r}.{hint}"
        )
    return _PAGES[name]


def _resolve(entry: str | type) -> type[Any]:
    if isinstance(entry, type):
        return entry
    found = named("algorithm", entry)
    if isinstance(found, types.FunctionType):
        from policy_server.algorithms.own_loss import page_of

        return page_of(found)
    if not isinstance(found, type):
        raise ConfigError(f"algorithm: expected {entry!r} to be a class or a loss, got {found!r}.")
    return found
