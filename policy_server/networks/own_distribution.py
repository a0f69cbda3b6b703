"""Distributions over actions of the user's own: what they are derived from, and how they are found.

One is named as `model.distribution = "module:Class"`. The gateway draws actions from it, and the
learner asks it for log-probabilities, entropies and divergences.

Actions are categories, int64 `[N, K]`, each counted from 0, and reals, `[N, D]`: of a Box that is
bounded on both sides -1..1 is its whole range (what lies outside is clipped on its way to the
simulator, and learned from as it was drawn); of any other Box they are the numbers themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from policy_server.errors import ConfigError
from policy_server.named import named
from policy_server.types import ActionLayout

Actions = tuple[torch.Tensor, torch.Tensor]
"""Categories int64 `[N, K]` and reals float32 `[N, D]`."""


class OwnDistribution(ABC):
    """N distributions over actions, as a network's heads describe them.

    Attributes:
        parameters: the heads, `[N, P]`; any numbers.
        mask: `[N, W]`, 0 = forbidden; None where there are no masks. What is forbidden must neither
            be drawn nor be the mode.
        layout: which actions there are.
    """

    def __init__(self, parameters: torch.Tensor, mask: torch.Tensor | None, layout: ActionLayout):
        self.parameters, self.mask, self.layout = parameters, mask, layout

    @staticmethod
    @abstractmethod
    def width(layout: ActionLayout) -> int:
        """P, how many parameters it needs for these actions.

        Raises:
            UnsupportedSpaceError: it cannot describe such actions.
        """

    @abstractmethod
    def log_prob(self, categories: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
        """Of given actions, `[N]`, with a gradient. Of reals the log-density in the units above."""

    @abstractmethod
    def entropy(self) -> torch.Tensor:
        """`[N]`, in nats, with a gradient; an estimate will do."""

    @abstractmethod
    def kl(self, new: OwnDistribution) -> torch.Tensor:
        """KL(self || new), `[N]`, in nats; an estimate will do. PPO asks for it."""

    @abstractmethod
    def sample(self) -> Actions:
        """One action of each, by torch's global generator, which has been seeded."""

    @abstractmethod
    def mode(self) -> Actions:
        """What a greedy action is."""


def find_distribution(name: str, layout: ActionLayout) -> type[OwnDistribution]:
    """The class behind `model.distribution`, tried out on two observations: better now than in the
    first update.

    Raises:
        ConfigError: it cannot be found or used, or answers in the wrong shape.
        UnsupportedSpaceError: it says that it cannot describe such actions.
    """
    found = named("model.distribution", name)
    if not (isinstance(found, type) and issubclass(found, OwnDistribution)):
        raise ConfigError(
            f"model.distribution: expected {name} to be derived from "
            f"{__name__}.OwnDistribution, got {found!r}."
        )
    width = found.width(layout)
    for mask in (None, torch.ones(2, layout.mask_width)) if layout.mask_width else (None,):
        _try_out(name, found, torch.zeros(2, width, requires_grad=True), mask, layout)
    return found


def _try_out(
    name: str,
    found: type[OwnDistribution],
    parameters: torch.Tensor,
    mask: torch.Tensor | None,
    layout: ActionLayout,
) -> None:
    def answer(method: str, *arguments: object) -> tuple[torch.Tensor, ...]:
        try:
            given = getattr(distribution, method)(*arguments)
        except Exception as error:
            raise ConfigError(
                f"model.distribution: {name}.{method} failed on {width} zeros for each of two "
                f"observations: {type(error).__name__}: {error}"
            ) from error
        parts = given if isinstance(given, tuple) else (given,)
        wanted = [(2, layout.categories), (2, layout.reals)] if not arguments else [(2,)]
        wanted = [(2,)] if method == "entropy" else wanted
        came = [tuple(getattr(part, "shape", ("no tensor",))) for part in parts]
        if came != wanted or not all(part.isfinite().all() for part in parts):
            raise ConfigError(
                f"model.distribution: expected {name}.{method} to answer two observations with "
                f"finite numbers of shapes {wanted}, got {came}: {[*parts]}."
            )
        return parts

    width = parameters.shape[1]
    try:
        distribution = found(parameters, mask, layout)
    except TypeError as error:
        raise ConfigError(
            f"model.distribution: {name} cannot be made as {found.__name__}(parameters, mask, "
            f"layout): {error}."
        ) from error
    answer("entropy")
    answer("kl", distribution)
    for method in ("mode", "sample"):
        with torch.random.fork_rng(devices=[]):
            categories, reals = answer(method)
        if categories.dtype != torch.int64:
            raise ConfigError(
                f"model.distribution: expected {name}.{method} to give categories of int64, got "
                f"{categories.dtype}."
            )
        (logp,) = answer("log_prob", categories.detach(), reals.detach())
    if not logp.requires_grad:
        raise ConfigError(
            f"model.distribution: expected {name}.log_prob to carry a gradient to the parameters, "
            "got none: nothing could be learned."
        )
