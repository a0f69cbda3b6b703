"""A squashing of returns that can be undone, instead of clipped rewards.

Source: Pohlen et al., https://arxiv.org/abs/1805.11593, section 3.2 and appendix A.
"""

from __future__ import annotations

import torch

EPSILON = 1e-3


def rescaled(x: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + epsilon * x


def unscaled(y: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """The inverse of h. With u = sqrt(|x| + 1), |y| = (u - 1) (1 + epsilon (u + 1)); the positive
    root of that in u, in a form that does not cancel where |y| is small."""
    size = y.abs()
    root = (1 + 4 * epsilon * (size + 1 + epsilon)).sqrt()
    u = 2 * (size + 1 + epsilon) / (1 + root)
    return y.sign() * (u.square() - 1)
