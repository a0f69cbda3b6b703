"""Checks of training options, with one wording for all algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from policy_server.algorithms.ops.schedules import Points, check_points
from policy_server.errors import ConfigError

Schedule = tuple[tuple[int, float], ...]
"""[[env step, value], ...], linear in between, constant behind the last; the first is at 0."""

CLIPPINGS = ("global_norm", "norm", "value")
"""What `optimizer.FlatAdam.clip` can limit the gradient by."""


class Options:
    """Checks the fields of one config, by default a training one; every fault is a ConfigError that
    names the field, what was expected and what came."""

    def __init__(self, config: Any, section: str = "training"):
        self.config, self._section = config, section

    def number(
        self,
        name: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        above: bool = False,
        optional: bool = False,
    ) -> None:
        """A finite number in [low, high], or (low, high] if `above`."""
        value = getattr(self.config, name)
        if value is None and optional:
            return
        fine = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (fine and math.isfinite(value) and low <= value <= high) or (above and value == low):
            bracket = "(" if above else "["
            none = " or None" if optional else ""
            raise self._fault(name, f"a number in {bracket}{low:g}, {high:g}]{none}", value)

    def integer(self, name: str, low: int) -> None:
        value = getattr(self.config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise self._fault(name, f"an integer of at least {low}", value)

    def flag(self, name: str) -> None:
        value = getattr(self.config, name)
        if not isinstance(value, bool):
            raise self._fault(name, "True or False", value)

    def one_of(self, name: str, choices: Sequence[str]) -> None:
        value = getattr(self.config, name)
        if value not in choices:
            raise self._fault(name, f"one of {', '.join(choices)}", value)

    def schedule(self, name: str, low: float, high: float = math.inf) -> Points | None:
        """The schedule as tuples, or None; all values in [low, high]."""
        value = getattr(self.config, name)
        if value is None:
            return None
        try:
            return check_points(value, low, high)
        except ValueError as error:
            raise self._fault(name, str(error), value) from None

    def refuse(self, first: str, second: str, why: str) -> None:
        """Two options that contradict each other."""
        one, two = getattr(self.config, first), getattr(self.config, second)
        where = self._section
        raise ConfigError(f"{where}.{first}={one!r} with {where}.{second}={two!r}: {why}.")

    def _fault(self, name: str, expected: str, value: Any) -> ConfigError:
        return ConfigError(f"{self._section}.{name}: expected {expected}, got {value!r}.")
