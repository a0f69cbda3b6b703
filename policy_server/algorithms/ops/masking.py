"""Options that are not allowed."""

from __future__ import annotations

import torch

FORBIDDEN = -1e30
"""Value, or logit, of what is not allowed: so low that its probability is 0, and still a number, of
which a gradient is one, too."""


def masked(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Values of options, `FORBIDDEN` where they are not allowed. Shapes: values `[..., W]`; mask
    uint8 `[..., W]`, or None or W = 0 where there are no masks."""
    if mask is None or not mask.shape[-1]:
        return values
    assert mask.shape == values.shape, (mask.shape, values.shape)
    return torch.where(mask != 0, values, FORBIDDEN)
