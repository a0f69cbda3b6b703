"""Parts of losses, per step: the caller weighs them and takes the mean."""

from __future__ import annotations

import torch


def clipped_surrogate(
    ratio: torch.Tensor, advantages: torch.Tensor, clip_param: float
) -> torch.Tensor:
    """min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t), to be maximised.

    Shapes: r_t `[N]`, A_t `[N]` -> `[N]`.

    Source: Schulman et al., https://arxiv.org/abs/1707.06347, equation 7.
    """
    assert ratio.shape == advantages.shape == (len(ratio),), (ratio.shape, advantages.shape)
    clipped = ratio.clamp(1.0 - clip_param, 1.0 + clip_param)
    return torch.minimum(ratio * advantages, clipped * advantages)


def clipped_squared_error(
    values: torch.Tensor, returns: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """min((V(s_t) - R_t)^2, clip), to be minimised: no gradient where the error is above.

    Shapes: V(s_t) `[N]`, R_t `[N]` -> `[N]`.
    """
    assert values.shape == returns.shape == (len(values),), (values.shape, returns.shape)
    error = (values - returns).square()
    return error if clip is None else error.clamp(max=clip)


def normalized(numbers: torch.Tensor) -> torch.Tensor:
    """To mean 0 and deviation 1; numbers that hardly differ stay small. `[N]` -> `[N]`."""
    deviation = numbers.std(unbiased=False).clamp(min=1e-4)
    return (numbers - numbers.mean()) / deviation


def adapted_kl_coeff(coeff: float, kl: float, target: float) -> float:
    """The penalty's coefficient for the next update, after a mean KL divergence of `kl`.

    Source: Schulman et al., https://arxiv.org/abs/1707.06347, section 4, with the wider band of
    2 and 0.5 and the gentler factors of 1.5 and 0.5 that RLlib made customary.
    """
    if kl > 2.0 * target:
        return coeff * 1.5
    if kl < 0.5 * target:
        return coeff * 0.5
    return coeff
