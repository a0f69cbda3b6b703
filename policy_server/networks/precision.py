"""Mixed precision: weights in float32, what is computed with them in less.

It needs no scaling of the loss where the exponent is as wide as float32's.

Source: Micikevicius et al., https://arxiv.org/abs/1710.03740.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def computed_in(precision: str, obs: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    """Within, layers compute in `precision` (of `model.precision`) on the device of `obs`; what
    comes out is to be made `float()` again."""
    if precision == "float32":
        return nullcontext()
    # Without a cache a recorded graph casts the weights as they are when it is replayed.
    return torch.autocast(obs[0].device.type, dtype=torch.bfloat16, cache_enabled=False)
