"""What an algorithm from outside this package must have, looked at before anything starts."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from policy_server.acting import Acting
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training
from policy_server.errors import ConfigError, PolicyServerError
from policy_server.named import line

_KINDS: dict[str, tuple[Any, str]] = {
    "supports": (Supports, "a policy_server.algorithms.supports.Supports"),
    "off_policy": (bool, "True or False"),
    "one_version": (bool, "True or False"),
    "title": (str, "text"),
}
"""What the class of its options says: name -> kind, and that in words."""

_CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "make_network": (("spaces",), ("model", "training")),
    "update": (("self", "batch", "env_steps"), ()),
    "update_in_steps": (("self", "batch", "env_steps"), ()),
    "state": (("self",), ()),
    "load": (("self", "state"), ()),
}
"""What its page has: name -> arguments by position, and by name."""


def check_options(training: type[Any]) -> None:
    """Raises:
    ConfigError: this is no class of options.
    """
    name = training.__qualname__
    if not issubclass(training, Training):
        raise ConfigError(
            f"algorithm: expected its options {name} to be derived from "
            "policy_server.algorithms.Training, got a class that is not."
        )
    fields = getattr(training, "__dataclass_fields__", {})
    own = vars(training).get("__annotations__", {})
    left = [
        option
        for option, kind in own.items()
        if option not in fields and "ClassVar" not in str(kind)
    ]
    if left or not dataclasses.is_dataclass(training):
        raise ConfigError(
            f"algorithm: expected its options {name} to be a dataclass, got a class that is not: "
            "write @dataclass(frozen=True) above it."
        )
    nothing = dataclasses.MISSING
    bare = [
        field.name
        for field in dataclasses.fields(training)
        if field.init and field.default is nothing and field.default_factory is nothing
    ]
    if bare:
        raise ConfigError(
            f"algorithm: expected a default for every option of {name}, got none for "
            f"{', '.join(bare)}."
        )
    for attribute, (kind, words) in _KINDS.items():
        value = getattr(training, attribute)
        if not isinstance(value, kind):
            raise _wrong(name, attribute, words, value)
    if training.mode not in ("sync", "async"):
        raise _wrong(name, "mode", "'sync' or 'async'", training.mode)
    try:
        options = training()
        steps, fragment, acting = options.batch_steps, options.fragment_length, options.acting
    except PolicyServerError:
        raise
    except Exception as error:
        raise ConfigError(
            f"algorithm: {name} with its defaults failed: {type(error).__name__}: {error}"
            f"{line(error)}. Is train_batch_size among its options? If it has "
            "none, batch_steps must say how many steps an update takes."
        ) from error
    if not _whole(steps):
        raise _wrong(name, "batch_steps", "an integer", steps)
    if not (fragment is None or _whole(fragment)):
        raise _wrong(name, "fragment_length", "an integer or None", fragment)
    if not isinstance(acting, Acting):
        raise _wrong(name, "acting", "one of the classes in policy_server.acting", acting)


def check_page(page: type[Any]) -> None:
    """Raises:
    ConfigError: this class is not an algorithm's page.
    """
    name = page.__qualname__
    needed = ["make_network", "state", "load"]
    needed += [] if callable(getattr(page, "update_in_steps", None)) else ["update"]
    missing = [method for method in needed if not callable(getattr(page, method, None))]
    if missing:
        raise ConfigError(
            f"algorithm: expected {name} to have the methods {', '.join(needed)}, got none named "
            f"{', '.join(missing)}."
        )
    for method, (by_position, by_name) in _CALLS.items():
        if callable(getattr(page, method, None)):
            _check_call(f"{name}.{method}", getattr(page, method), by_position, by_name)
    positions, names = ("spaces", "model", "training"), (
        "seed", "device", "reward_scale", "reward_clip",
    )  # fmt: skip
    _check_call(name, page, positions, names)


def _check_call(
    name: str, function: Callable[..., Any], by_position: tuple[str, ...], by_name: tuple[str, ...]
) -> None:
    try:
        inspect.signature(function).bind(*by_position, **dict.fromkeys(by_name))
    except TypeError as error:
        told = [each for each in by_position if each != "self"] + [f"{each}=" for each in by_name]
        raise ConfigError(
            f"algorithm: expected {name} to take ({', '.join(told)}), got something else: {error}."
        ) from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(name: str, attribute: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(
        f"algorithm: expected {name}.{attribute} to be {expected}, got {value!r:.60}."
    )
