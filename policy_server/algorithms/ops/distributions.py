"""The distribution over actions that a head of the network describes.

A head is `[N, W + D]` or `[N, W + 2 D]`: logits of K categoricals one after another (W together),
means of D reals, and their log deviations unless these are a free parameter (held within
`acting.LOG_STD_LIMIT`). All parts are
independent given the observation, so that log-probabilities, entropies and divergences add up.

Reals are in units of the Gaussian: what was drawn, neither scaled nor clipped.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch

from policy_server.acting import LOG_STD_LIMIT
from policy_server.algorithms.ops.masking import masked
from policy_server.types import ActionLayout

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Distribution(Protocol):
    """N distributions over actions, as losses know them."""

    def log_prob(self, categories: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
        """int64 `[N, K]` and float `[N, D]` -> `[N]`."""
        ...

    def entropy(self) -> torch.Tensor:
        """`[N]`, in nats."""
        ...

    def kl(self, new: Any) -> torch.Tensor:
        """KL(self || new), `[N]`, in nats; `new` is of the same kind."""
        ...


class ActionDistribution(NamedTuple):
    """N distributions over actions, ready to be asked.

    Attributes:
        log_probs: `[N, W]`, normalised per categorical; None if W = 0.
        mean, log_std: `[N, D]`; None if D = 0. log_std may be `[D]`, the same for all.
        offsets: int64 `[K]`, where each categorical's options begin.
    """

    log_probs: torch.Tensor | None
    mean: torch.Tensor | None
    log_std: torch.Tensor | None
    offsets: torch.Tensor

    def log_prob(self, categories: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
        """int64 `[N, K]` and float `[N, D]` -> `[N]`."""
        total: torch.Tensor | None = None
        if self.log_probs is not None:
            assert categories.shape == (len(self.log_probs), len(self.offsets)), categories.shape
            chosen = categories if len(self.offsets) == 1 else categories + self.offsets
            total = _sum(self.log_probs.gather(1, chosen))
        if self.mean is not None and self.log_std is not None:
            assert reals.shape == self.mean.shape, (reals.shape, self.mean.shape)
            z = (reals - self.mean) * torch.exp(-self.log_std)
            density = _sum(-0.5 * z * z - self.log_std - _HALF_LOG_TWO_PI)
            total = density if total is None else total + density
        assert total is not None
        return total

    def entropy(self) -> torch.Tensor:
        """`[N]`, in nats; masked options count nothing."""
        total: torch.Tensor | None = None
        if self.log_probs is not None:
            total = -(self.log_probs.exp() * self.log_probs).sum(1)
        if self.mean is not None and self.log_std is not None:
            width = (self.log_std + (0.5 + _HALF_LOG_TWO_PI)).expand_as(self.mean).sum(1)
            total = width if total is None else total + width
        assert total is not None
        return total

    def kl(self, new: ActionDistribution) -> torch.Tensor:
        """KL(self || new), `[N]`, in nats. Both must have been made with the same masks."""
        total: torch.Tensor | None = None
        if self.log_probs is not None:
            assert new.log_probs is not None
            assert new.log_probs.shape == self.log_probs.shape
            total = (self.log_probs.exp() * (self.log_probs - new.log_probs)).sum(1)
        if self.mean is not None and self.log_std is not None:
            assert new.mean is not None
            assert new.log_std is not None
            ratio = torch.exp(2 * (self.log_std - new.log_std))
            distance = ((self.mean - new.mean) * torch.exp(-new.log_std)).square()
            each = new.log_std - self.log_std + 0.5 * (ratio + distance - 1)
            total = each.sum(1) if total is None else total + each.sum(1)
        assert total is not None
        return total

    def sample(self, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """categories int64 `[N, K]` and reals `[N, D]`; carries no gradient.

        Source: for the categoricals, the Gumbel-max trick (Gumbel, 1954).
        """
        with torch.no_grad():
            some = self.log_probs if self.log_probs is not None else self.mean
            assert some is not None
            n, bounds = len(some), self.offsets.tolist()
            categories = self.offsets.new_zeros(n, len(bounds))
            reals = some.new_zeros(n, 0)
            if self.log_probs is not None:
                noise = torch.empty_like(self.log_probs).exponential_(generator=generator)
                keys = self.log_probs - noise.log()
                ends = [*bounds[1:], keys.shape[1]]
                for k, (start, end) in enumerate(zip(bounds, ends, strict=True)):
                    categories[:, k] = keys[:, start:end].argmax(1)
            if self.mean is not None and self.log_std is not None:
                noise = torch.empty_like(self.mean).normal_(generator=generator)
                reals = self.mean + self.log_std.exp() * noise
            return categories, reals


class HeadLayout:
    """Which columns of a head mean what, for one action space on one device.

    Attributes:
        logits: W, columns of logits.
        reals: D, columns of means.
        offsets: int64 `[K]`, where each categorical's options begin.
    """

    def __init__(self, layout: ActionLayout, device: torch.device | str = "cpu"):
        nvec = torch.as_tensor(layout.nvec, dtype=torch.int64, device=device)
        self.logits, self.reals, self.categories = layout.mask_width, layout.reals, len(nvec)
        self.offsets = nvec.cumsum(0) - nvec
        same = len(set(layout.nvec.tolist())) == 1
        self._options = int(layout.nvec[0]) if same else 0  # 0: they differ
        self._segments = torch.repeat_interleave(torch.arange(len(nvec), device=device), nvec)

    def distribution(
        self, head: torch.Tensor, log_std: torch.Tensor | None, mask: torch.Tensor | None
    ) -> ActionDistribution:
        """Reads a head.

        Shapes: head `[N, H]`; log_std `[D]`, or None if the head has it; mask `[N, W]`, 0 =
        forbidden, or None. Every categorical needs an option that is allowed.
        """
        w, d = self.logits, self.reals
        width = w + d if log_std is not None or d == 0 else w + 2 * d
        assert head.shape == (len(head), width), (head.shape, width)
        log_probs = mean = None
        if w:
            log_probs = self._normalize(head[:, :w] if d else head, mask)
        if d:
            mean = head[:, w : w + d]
            if log_std is None:
                log_std = head[:, w + d :].clamp(-LOG_STD_LIMIT, LOG_STD_LIMIT)
            assert log_std.shape[-1] == d, log_std.shape
        return ActionDistribution(log_probs, mean, log_std if d else None, self.offsets)

    def _normalize(self, logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Log-softmax within each categorical. `[N, W]` -> `[N, W]`."""
        logits = masked(logits, mask)
        if self.categories == 1:
            return torch.log_softmax(logits, dim=1)
        if self._options:
            each = logits.reshape(len(logits), self.categories, self._options)
            return torch.log_softmax(each, dim=2).reshape(logits.shape)
        index = self._segments.expand_as(logits)
        low = logits.new_full((len(logits), self.categories), -torch.inf)
        top = low.scatter_reduce(1, index, logits.detach(), "amax")
        shifted = logits - top.gather(1, index)
        total = torch.zeros_like(low).scatter_add(1, index, shifted.exp())
        return shifted - total.log().gather(1, index)

    # -- a distribution as columns, to keep it beside the steps it belongs to --------------------

    def pack(self, distribution: ActionDistribution) -> torch.Tensor:
        """`[N, W + 2 D]`; `unpack` is the inverse."""
        columns = []
        if distribution.log_probs is not None:
            columns.append(distribution.log_probs)
        if distribution.mean is not None and distribution.log_std is not None:
            columns += [distribution.mean, distribution.log_std.expand_as(distribution.mean)]
        return torch.cat(columns, dim=1)

    def unpack(self, columns: torch.Tensor) -> ActionDistribution:
        w, d = self.logits, self.reals
        assert columns.shape[1] == w + 2 * d, (columns.shape, w, d)
        return ActionDistribution(
            columns[:, :w] if w else None,
            columns[:, w : w + d] if d else None,
            columns[:, w + d :] if d else None,
            self.offsets,
        )


def _sum(parts: torch.Tensor) -> torch.Tensor:
    return parts.squeeze(1) if parts.shape[1] == 1 else parts.sum(1)
