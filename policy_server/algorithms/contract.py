"""What an algorithm must have, looked at before anything starts."""

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
    "acting": (Acting, "one of the classes in policy_server.acting"),
}
"""What its options say beside their fields: name -> kind, and that in words."""
_LATER = ("mode", "batch_steps", "fragment_length")
"""More of it."""

_CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "make_network": (("spaces",), ("model", "training")),
    "update": (("batch", "env_steps"), ()),
    "update_in_steps": (("batch", "env_steps"), ()),
    "state": ((), ()),
    "load": (("state",), ()),
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
    decorated = "__dataclass_fields__" in vars(training)
    own = vars(training).get("__annotations__", {})
    if not decorated and (
        not dataclasses.is_dataclass(training)
        or any("ClassVar" not in str(kind) for kind in own.values())
    ):
        raise ConfigError(
            f"algorithm: expected its options {name} to be a dataclass, got a class that is not: "
            "write @dataclass(frozen=True) above it."
        )


def check_values(options: Training, path: str = "training") -> None:
    """What they say beside their fields, where the settings have them at `path`.

    Raises:
        ConfigError: it is of another kind than the server can use.
    """
    name = type(options).__qualname__
    try:
        said = {attribute: getattr(options, attribute) for attribute in (*_KINDS, *_LATER)}
    except PolicyServerError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path}: {name} failed: {type(error).__name__}: {error}{line(error)}. Is "
            "train_batch_size among its options? If it has none, batch_steps must say how many "
            "steps an update takes."
        ) from error
    for attribute, (kind, words) in _KINDS.items():
        if not isinstance(said[attribute], kind):
            raise _wrong(path, name, attribute, words, said[attribute])
    if said["mode"] not in ("sync", "async"):
        raise _wrong(path, name, "mode", "'sync' or 'async'", said["mode"])
    if not _whole(said["batch_steps"]):
        raise _wrong(path, name, "batch_steps", "an integer", said["batch_steps"])
    if said["fragment_length"] is not None and not _whole(said["fragment_length"]):
        words = "an integer or None"
        raise _wrong(path, name, "fragment_length", words, said["fragment_length"])


def check_page(page: type[Any]) -> None:
    """Raises:
    ConfigError: this class is not an algorithm's page.
    """
    name = page.__qualname__
    needed = ["make_network", "state", "load"]
    needed += [] if callable(getattr(page, "update_in_steps", None)) else ["update"]
    missing = [method for method in needed if not callable(getattr(page, method, None))]
    if missing and not ("make_network" not in missing and _delegates(page)):
        raise ConfigError(
            f"algorithm: expected {name} to have the methods {', '.join(needed)}, got none named "
            f"{', '.join(missing)}."
        )
    if inspect.isgeneratorfunction(getattr(page, "update", None)):
        raise ConfigError(
            f"algorithm: expected {name}.update to return a dict of numbers by their names, got a "
            "generator: call it `update_in_steps`, or let it yield nothing."
        )
    for method, (by_position, by_name) in _CALLS.items():
        found = inspect.getattr_static(page, method, None)
        # Of the class, not of the instance that there is not yet; make_network is asked of it.
        bound = isinstance(found, staticmethod | classmethod) or not hasattr(found, "__get__")
        bound = bound or method == "make_network"
        if callable(getattr(page, method, None)):
            arguments = by_position if bound else ("self", *by_position)
            _check_call(f"{name}.{method}", getattr(page, method), arguments, by_name)
    names = ("seed", "device", "reward_scale", "reward_clip")
    _check_call(name, page, ("spaces", "model", "training"), names)


def _delegates(page: type[Any]) -> bool:
    """It may have more than it says; that of torch modules is for their own parts."""
    found = getattr(page, "__getattr__", None)
    return found is not None and not str(getattr(found, "__module__", "")).startswith("torch.")


def _check_call(
    name: str, function: Callable[..., Any], by_position: tuple[str, ...], by_name: tuple[str, ...]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # that of compiled code nobody knows
        return
    try:
        signature.bind(*by_position, **dict.fromkeys(by_name))
    except TypeError as error:
        told = [each for each in by_position if each != "self"] + [f"{each}=" for each in by_name]
        raise ConfigError(
            f"algorithm: expected {name} to take ({', '.join(told)}), got something else: {error}."
        ) from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(path: str, name: str, attribute: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{path}: expected {name}.{attribute} to be {expected}, got {value!r:.60}.")
