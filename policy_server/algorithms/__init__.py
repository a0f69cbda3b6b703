"""The algorithms by name. Importing this does not import torch: pages load when asked for.

An algorithm is two classes. *Training*: a frozen dataclass of its options, each with a default,
best in a file of its own that does without torch.
*Algorithm*: made as `Algorithm(spaces, model, training, seed=, device=, reward_scale=,
reward_clip=)`, with the attribute `network` (a `networks.PolicyNetwork`) and the methods
`update(batch, env_steps) -> metrics`, `state() -> PolicyState` and `load(state)`. Where an update
takes long it also has `update_in_steps(batch, env_steps)`, a generator (`stepwise.Steps`) that
yields where it may be paused and returns the metrics: then the learner can give way to others.
`algorithms.ppo` shows one.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from policy_server.errors import ConfigError

_PAGES: dict[str, tuple[str | type, str | type]] = {
    "PPO": ("policy_server.algorithms.ppo_options:PPOTraining", "policy_server.algorithms.ppo:PPO"),
}


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
    if known is not None and known != (training, algorithm):
        raise ConfigError(
            f"Algorithm {name!r} is registered already, as {known[1]}: choose another name."
        )
    _PAGES[name] = (training, algorithm)


def get(name: str) -> tuple[type[Any], type[Any]]:
    """(training config class, algorithm class).

    Raises:
        ConfigError: there is none of that name, or it cannot be imported.
    """
    training, algorithm = _entry(name)
    return _resolve(training), _resolve(algorithm)


def training_class(name: str) -> type[Any]:
    """The first of the two alone: does not load the page.

    Raises:
        ConfigError: as `get`.
    """
    return _resolve(_entry(name)[0])


def _entry(name: str) -> tuple[str | type, str | type]:
    if name not in _PAGES:
        lower = {known.lower(): known for known in _PAGES}
        close = difflib.get_close_matches(str(name).lower(), lower, 1)
        hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
        raise ConfigError(f"algorithm: expected one of {', '.join(_PAGES)}, got {name!r}.{hint}")
    return _PAGES[name]


def _resolve(entry: str | type) -> type[Any]:
    if isinstance(entry, type):
        return entry
    module, _, attribute = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"algorithm: {entry!r} cannot be imported: {error}.") from error
    if not isinstance(found, type):
        raise ConfigError(f"algorithm: expected {entry!r} to be a class, got {found!r}.")
    return found
