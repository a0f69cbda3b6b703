"""A module with one line of it changed: proof that a test would notice."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any


def broken(module: ModuleType, line: str, instead: str) -> dict[str, Any]:
    """What the module would define if `line`, which occurs in it once, were `instead`."""
    source = inspect.getsource(module)
    assert source.count(line) == 1, f"{module.__name__} has it {source.count(line)} times: {line}"
    namespace: dict[str, Any] = {"__name__": f"broken.{module.__name__}"}
    exec(compile(source.replace(line, instead), f"broken {module.__name__}", "exec"), namespace)
    return namespace
