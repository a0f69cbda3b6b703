"""n-step returns within sequences."""

from __future__ import annotations

import torch


def sequence_returns(
    rewards: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    terminated: torch.Tensor,
    *,
    gamma: float,
    n_step: int,
) -> torch.Tensor:
    """R_t = sum of gamma^k r_{t+k} for k < m, plus gamma^m V_{t+m}, where m = min(n_step, steps
    that are left) and V behind a last step that terminated the episode is 0.

    Shapes: rewards `[L, n]`; values `[L + 1, n]`, V_t of what is seen at t; lengths int64 `[n]`,
    1..L; terminated bool `[n]` -> `[L, n]`, 0 where there is no step.
    """
    steps, n = rewards.shape
    assert values.shape == (steps + 1, n)
    assert lengths.shape == terminated.shape == (n,)
    t = torch.arange(steps, device=rewards.device)[:, None]
    valid = t < lengths
    returns = torch.zeros_like(rewards)
    for k in range(n_step):
        at = t + k
        inside = (at < lengths).expand_as(rewards)
        returns = returns + gamma**k * rewards.gather(
            0, at.clamp(max=steps - 1).expand_as(rewards)
        ).where(inside, 0.0)
    left = (lengths - t).clamp(min=0, max=n_step)  # [L, n], m
    reached = (t + left).clamp(max=steps)
    bootstraps = ~(terminated & (reached == lengths))
    behind = values.gather(0, reached) * gamma**left
    return (returns + behind.where(bootstraps, 0.0)).where(valid, 0.0)
