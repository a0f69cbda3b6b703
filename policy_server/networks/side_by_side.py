"""Actors that act side by side as one policy, each on what it alone sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork
from policy_server.networks.policy import ActingNetwork, Observations
from policy_server.networks.turns import Turns
from policy_server.types import ActionLayout, PolicySpaces


class Share(NamedTuple):
    """What one actor sees and does.

    Attributes:
        spaces: its own.
        leaves: of the whole observation that are its own.
    """

    spaces: PolicySpaces
    leaves: slice


class SideBySide(ActingNetwork):
    """One actor for each share, or one for all of them, which is told whose turn it is.

    The heads of all are laid out as one policy has them: logits, means, log deviations, each actor
    after actor. No number of an actor's head depends on what another one sees.

    Attributes:
        shares: who sees and does what.
        widths: columns of each actor's head.
        actors: the networks; a single one where it is for all.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        model: ModelConfig,
        *,
        squash: bool = False,
        gaussian: bool = False,
        one_for_all: bool = False,
    ):
        """`squash`: heads are actions in -1..1; `gaussian`: they describe reals by means and log
        deviations, of which `model` says where they are; else reals have one column each.
        `one_for_all`: shares must have equal spaces."""
        super().__init__()
        self.shares = tuple(shares)
        layouts = [ActionLayout(share.spaces.action) for share in self.shares]
        reals = sum(layout.reals for layout in layouts)
        deviations = gaussian and not model.free_log_std
        if gaussian and model.free_log_std and reals:
            self.log_std = nn.Parameter(torch.full((reals,), model.initial_log_std))
        parts = [(own.mask_width, own.reals, own.reals if deviations else 0) for own in layouts]
        self.widths = [sum(part) for part in parts]
        self._turns = Turns(
            [share.spaces for share in self.shares],
            [share.leaves for share in self.shares],
            one_for_all,
        )
        each = [
            ActorNetwork(own, model, width, squash)
            for own, width in zip(self._turns.spaces, self.widths, strict=False)
        ]
        if deviations:
            for actor, own in zip(each, layouts, strict=False):
                with torch.no_grad():
                    actor.head.bias[own.mask_width + own.reals :] = model.initial_log_std
        self.actors = nn.ModuleList(each)
        order = torch.tensor(_order(parts), dtype=torch.int64)
        self._order: torch.Tensor | None
        plain = torch.equal(order, torch.arange(len(order)))
        self.register_buffer("_order", None if plain else order, persistent=False)

    def heads(self, obs: Observations) -> list[torch.Tensor]:
        """Each actor's own, `[n, H_i]`: its logits, means, log deviations."""
        seen = self._turns.seen(obs)
        return self._turns.apart(
            [_head(actor, own) for actor, own in zip(self.actors, seen, strict=True)]
        )

    def policy(self, obs: Observations) -> torch.Tensor:
        heads = torch.cat(self.heads(obs), dim=1)
        return heads if self._order is None else heads.index_select(1, self._order)


def _head(actor: nn.Module, seen: Observations) -> torch.Tensor:
    assert isinstance(actor, ActorNetwork)
    return actor.policy(seen)


def _order(parts: Sequence[tuple[int, ...]]) -> list[int]:
    """Columns of heads one after another -> kind after kind. `parts`: of each head, how many columns
    of each kind."""
    kinds: list[list[int]] = [[] for _ in parts[0]]
    column = 0
    for part in parts:
        for kind, width in zip(kinds, part, strict=True):
            kind.extend(range(column, column + width))
            column += width
    return [column for kind in kinds for column in kind]
