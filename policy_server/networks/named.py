"""Classes of the user's own, by name."""

from __future__ import annotations

import importlib
from typing import Any

from policy_server.errors import ConfigError


def named(option: str, name: str) -> Any:
    """What "module:Class" names; `option` is the setting that says so.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f'{option}: expected "module:Class", got {name!r}.')
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{option}: {name!r} cannot be imported: {error}.") from error
