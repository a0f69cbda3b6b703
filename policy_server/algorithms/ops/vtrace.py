"""V-trace: values and advantages of one policy from steps of another."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class VTrace(NamedTuple):
    """targets (of the value function, v_t) and advantages (of the policy), each `[T, B]`; 0 in
    padding."""

    targets: torch.Tensor
    advantages: torch.Tensor


def vtrace(
    log_ratio: torch.Tensor,
    rewards: torch.Tensor,
    values: torch.Tensor,
    final_values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    valid: torch.Tensor,
    *,
    gamma: float,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> VTrace:
    """With rho_t = min(clip_rho, pi(a_t | s_t) / mu(a_t | s_t)), rho'_t alike with clip_pg_rho, c_t
    alike with clip_c and lambda in front, and V'_t the value behind step t as in `ops.gae` (0 where
    the step terminated its episode, final_values_t where it was truncated, else V(s_t+1)):

        delta_t = rho_t (r_t + gamma V'_t - V(s_t))
        v_t     = V(s_t) + delta_t + gamma c_t (v_t+1 - V(s_t+1)),  without the last term behind an
                  ending or the last step,
        A_t     = rho'_t (r_t + gamma v'_t - V(s_t)),  v'_t as V'_t, with v_t+1 for V(s_t+1)
                  where the next step is in the same episode and unroll.

    Carries no gradient. Nothing is read that does not enter these sums.

    Shapes:
        log_ratio `[T, B]`, log pi - log mu of a_t; rewards `[T, B]`; values `[T+1, B]`;
        final_values `[T, B]`; terminated, truncated, valid: bool `[T, B]`; valid has no gaps.

    Source: Espeholt et al., https://arxiv.org/abs/1802.01561, equation 1, remark 1 (the recursion)
    and remark 2 (lambda).
    """
    steps, lanes = rewards.shape
    assert values.shape == (steps + 1, lanes), (values.shape, rewards.shape)
    for column in (log_ratio, final_values, terminated, truncated, valid):
        assert column.shape == rewards.shape, (column.shape, rewards.shape)
    with torch.no_grad():
        zero = rewards.new_zeros(())
        rho, c, pg_rho = (
            torch.where(valid, _clipped(log_ratio, limit), zero)
            for limit in (clip_rho, clip_c, clip_pg_rho)
        )
        behind = torch.where(terminated, zero, torch.where(truncated, final_values, values[1:]))
        delta = torch.where(valid, rho * (rewards + gamma * behind - values[:-1]), zero)
        goes_on = valid & ~terminated & ~truncated
        decay = torch.where(goes_on, gamma * lambda_ * c, zero)
        corrections = torch.zeros_like(rewards)  # v_t - V(s_t)
        following = rewards.new_zeros(lanes)
        for t in range(steps - 1, -1, -1):
            following = torch.addcmul(delta[t], decay[t], following, out=corrections[t])
        targets = torch.where(valid, values[:-1] + corrections, zero)
        # The next step's correction; 0 behind the last valid step, where padding begins.
        correction = torch.cat([corrections[1:], rewards.new_zeros(1, lanes)])
        improved = torch.where(goes_on, behind + correction, behind)
        advantages = pg_rho * torch.where(valid, rewards + gamma * improved - values[:-1], zero)
        return VTrace(targets, advantages)


def _clipped(log_ratio: torch.Tensor, limit: float) -> torch.Tensor:
    """min(limit, exp(log_ratio)), finite whatever the ratio."""
    return torch.exp(log_ratio.clamp(max=math.log(limit)))
