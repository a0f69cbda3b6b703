"""Metrics of many gradient steps, as their means."""

from __future__ import annotations

import torch


class Means:
    """Collects numbers where they are, and reads them once."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[torch.Tensor]] = {}

    def add(self, **numbers: torch.Tensor) -> None:
        """Scalars of one gradient step."""
        for name, number in numbers.items():
            self._numbers.setdefault(name, []).append(number.detach())

    def take(self) -> dict[str, float]:
        """Their means since last time."""
        found = {name: torch.stack(each).mean().item() for name, each in self._numbers.items()}
        self._numbers.clear()
        return found
