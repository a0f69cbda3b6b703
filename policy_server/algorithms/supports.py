"""What an algorithm can work with, and the sentence for what it cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy_server.algorithms.groups import GroupSpaces
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.types import ActionLayout, PolicySpaces


@dataclass(frozen=True)
class Supports:
    """Attributes:
    discrete: one choice (Discrete).
    several: several choices at once (MultiDiscrete, MultiBinary, nested ones).
    continuous: numbers (Box).
    hybrid: choices and numbers at once.
    bounded: numbers need bounds on both sides.
    mask: choices may be masked.
    recurrent: networks with a memory (`model.memory`).
    precision: networks in another precision than float32 (`model.precision`).
    heads: heads of another kind than the plain ones (`model.autoregressive`,
        `model.distribution`).
    intrinsic: rewards of exploration plug-ins (`exploration`) may be added to those of the steps.
    groups: it is for groups of agents, and for nothing else. What is said above holds for each agent
        of a group then.
    """

    discrete: bool = True
    several: bool = True
    continuous: bool = True
    hybrid: bool = True
    bounded: bool = False
    mask: bool = True
    recurrent: bool = True
    precision: bool = True
    heads: bool = False
    intrinsic: bool = True
    groups: bool = False

    @property
    def all_kinds(self) -> bool:
        """Actions of every kind."""
        kinds = (self.discrete, self.several, self.continuous, self.hybrid)
        return all(kinds) and not self.bounded

    @property
    def any_space(self) -> bool:
        """No space can be refused."""
        return self.all_kinds and self.mask and not self.groups

    @property
    def actions(self) -> str:
        """In words: "Discrete, Box"."""
        kinds = {
            "Discrete": self.discrete,
            "MultiDiscrete": self.several,
            "Box (bounded)" if self.bounded else "Box": self.continuous,
            "both at once" if self.several else "one of each at once": self.hybrid,
        }
        return ", ".join(kind for kind, can in kinds.items() if can)

    def fits(self, spaces: PolicySpaces) -> bool:
        """Whether an algorithm can act so."""
        try:
            self.check_spaces("", spaces)
        except UnsupportedSpaceError:
            return False
        return True

    def _kind_fits(self, layout: ActionLayout) -> bool:
        if layout.categories and layout.reals:
            return self.hybrid and (self.several or layout.categories == 1)
        if layout.reals:
            return self.continuous
        return self.several if layout.categories > 1 else self.discrete

    def check_spaces(self, algorithm: str, spaces: PolicySpaces) -> None:
        """Raises:
        UnsupportedSpaceError: the algorithm cannot act in these spaces.
        """
        if spaces.mask and not ActionLayout(spaces.action).categories:
            raise UnsupportedSpaceError(
                f"{algorithm}: expected choices where there is an action mask, got {spaces.action}: "
                "switch the mask off (environment.action_mask = false)."
            )
        if self.groups:
            try:
                members = GroupSpaces.of(spaces).members
            except UnsupportedSpaceError as error:
                raise UnsupportedSpaceError(f"{algorithm}: {error}") from None
            for one in members:
                own = PolicySpaces(one.observation, one.action, spaces.mask)
                self._check_actions(f"{algorithm}, agent {one.name!r}", own)
            whole = ActionLayout(spaces.action)
            if whole.categories and whole.reals and not self.hybrid:
                raise UnsupportedSpaceError(
                    f"{algorithm}: expected agents that all choose or all give numbers, got "
                    f"{spaces.action}: put them into groups of their own."
                )
        else:
            self._check_actions(algorithm, spaces)

    def _check_actions(self, algorithm: str, spaces: PolicySpaces) -> None:
        layout = ActionLayout(spaces.action)
        if not self._kind_fits(layout):
            raise UnsupportedSpaceError(
                f"{algorithm}: expected an action space of {self.actions}, got {spaces.action}: "
                "`policy-server algorithms` lists what each algorithm supports."
            )
        if spaces.mask and not self.mask:
            raise UnsupportedSpaceError(
                f"{algorithm}: expected actions without masks, got an action mask with every "
                "observation: switch the mask off, or choose an algorithm that supports masks."
            )
        if self.bounded and not _bounded(layout):
            raise UnsupportedSpaceError(
                f"{algorithm}: expected a Box with finite bounds on both sides for actions, got "
                f"{spaces.action}: give the simulator's action space its bounds."
            )

    def check_model(self, algorithm: str, model: ModelConfig, prefix: str = "") -> None:
        """`prefix`: of the path of these settings.

        Raises:
            ConfigError: the algorithm has no use for something that is asked for.
        """
        if model.precision != "float32" and not self.precision:
            raise ConfigError(
                f"{prefix}model.precision = {model.precision!r} with algorithm {algorithm!r}: "
                "expected 'float32', in which all of its networks are computed."
            )
        asked = {"autoregressive": model.autoregressive, "distribution": model.distribution}
        for name, value in asked.items():
            if value and not self.heads:
                raise ConfigError(
                    f"{prefix}model.{name} = {value!r} with algorithm {algorithm!r}: expected an "
                    "algorithm that draws its actions from a distribution over them, such as PPO; "
                    "leave it out, or choose another algorithm."
                )


def _bounded(layout: ActionLayout) -> bool:
    return bool(np.isfinite(layout.low).all() and np.isfinite(layout.high).all())
