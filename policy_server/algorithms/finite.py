"""Whether an update's numbers broke, and what may have broken them."""

from __future__ import annotations

import math

import numpy as np
import torch

from policy_server.errors import LearnerError
from policy_server.types import Batch


def check_finite(
    algorithm: str, batch: Batch, metrics: dict[str, float], weights: torch.Tensor
) -> None:
    """Raises:
    LearnerError: a metric or a weight is not finite; names the likely cause.
    """
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    spoilt = not math.isfinite(float(torch.linalg.vector_norm(weights)))
    if spoilt:
        broken.append("weights")
    if not broken:
        return
    culprits = [
        name
        for name, column in (("rewards", batch.rewards), ("logp", batch.logp))
        if not np.isfinite(column[batch.valid]).all()
    ]
    cause = (
        f"the batch's {' and '.join(culprits)} were not finite"
        if culprits
        else "observations may hold NaN, or lr is too large, or something divides by zero"
    )
    raise LearnerError(
        f"{algorithm}: expected finite numbers after the update, got {', '.join(broken)} that are "
        f"not: {cause}. "
        + (
            "The weights are spoilt; go on from the last state."
            if spoilt
            else "The weights are finite."
        )
    )
