"""Plug-ins by name. Importing this does not import torch: pages load when asked for."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import Any

from policy_server.config import ExplorationConfig
from policy_server.config_values import coerce_fields
from policy_server.errors import ConfigError
from policy_server.exploration.options import SECTION, ICMOptions, RE3Options, RNDOptions
from policy_server.named import named

NONE = "none"
OPTIONS: dict[str, type] = {"ICM": ICMOptions, "RND": RNDOptions, "RE3": RE3Options}
"""Those that ship."""


def options_of(config: ExplorationConfig, path: str = "exploration") -> Any:
    """What `config.options` says, checked; `path`: of the section.

    Raises:
        ConfigError: no such plug-in, or none of its options.
    """
    name, where = config.name, f"{path}.options"
    type_ = OPTIONS.get(name) or getattr(_own(name, path), "Options", None)
    if not (isinstance(type_, type) and dataclasses.is_dataclass(type_)):
        raise ConfigError(
            f"{path}.name: expected {name!r} to have its options as an attribute, Options, a "
            f"dataclass, got {type_!r}."
        )
    try:
        return type_(**coerce_fields(type_, config.options, where))
    except ConfigError as error:
        raise ConfigError(str(error).replace(SECTION, where)) from None


def explorer_class(name: str) -> type[Any]:
    """The class of a plug-in, an `explorer.Explorer`.

    Raises:
        ConfigError: there is none of that name, or it cannot be imported.
    """
    if name not in OPTIONS:
        return _own(name, "exploration")
    page = importlib.import_module(f"policy_server.exploration.{name.lower()}")
    found: type[Any] = getattr(page, name)
    return found


def _own(name: str, path: str) -> type[Any]:
    """A user's, by "module:Class"."""
    if ":" not in name:
        lower = {known.lower(): known for known in OPTIONS}
        close = difflib.get_close_matches(name.lower(), lower, 1)
        hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
        raise ConfigError(
            f'{path}.name: expected one of {NONE}, {", ".join(OPTIONS)}, or "module:Class", got '
            f"{name!r}.{hint}"
        )
    found = named(f"{path}.name", name)
    if not isinstance(found, type):
        raise ConfigError(f"{path}.name: expected {name!r} to be a class, got {found!r:.60}.")
    return found
