"""Generalised advantage estimation."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Advantages(NamedTuple):
    """advantages and returns, each `[T, B]`; 0 in padding."""

    advantages: torch.Tensor
    returns: torch.Tensor


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    final_values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    valid: torch.Tensor,
    *,
    gamma: float,
    lambda_: float,
) -> Advantages:
    """Advantages A_t and returns (targets of the value function) A_t + V(s_t).

    With V'_t the value behind step t,

        V'_t    = 0                 where the step terminated its episode,
                  final_values_t    where it was truncated,
                  V(s_t+1)          elsewhere,
        delta_t = r_t + gamma V'_t - V(s_t)
        A_t     = delta_t + gamma lambda A_t+1,     A_t+1 = 0 behind an ending or the last step.

    Nothing is read that does not enter this sum: padding, values of the first observation of
    the next episode and final values of steps that were not truncated may hold anything, NaN
    included.

    Shapes:
        rewards `[T, B]`, r_t of a_t; values `[T+1, B]`, V(s_t), row `length` of a column being
        its bootstrap value; final_values `[T, B]`, value of the true final observation;
        terminated, truncated, valid: bool `[T, B]`; valid has no gaps in time.

    Source: Schulman et al., https://arxiv.org/abs/1506.02438, equations 11-16.
    """
    steps, lanes = rewards.shape
    assert values.shape == (steps + 1, lanes), (values.shape, rewards.shape)
    for column in (final_values, terminated, truncated, valid):
        assert column.shape == rewards.shape, (column.shape, rewards.shape)
    zero = rewards.new_zeros(())
    behind = torch.where(terminated, zero, torch.where(truncated, final_values, values[1:]))
    delta = torch.where(valid, rewards + gamma * behind - values[:-1], zero)  # [T, B]
    goes_on = valid & ~terminated & ~truncated
    # A_t+1 of padding is 0 already, so that the last valid step needs no mark of its own.
    decay = goes_on.to(rewards.dtype) * (gamma * lambda_)  # [T, B]
    advantages = torch.zeros_like(rewards)
    following = rewards.new_zeros(lanes)
    for t in range(steps - 1, -1, -1):
        following = torch.addcmul(delta[t], decay[t], following, out=advantages[t])
    returns = torch.where(valid, advantages + values[:-1], zero)
    return Advantages(advantages, returns)


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant.

    Shapes: both `[N]` -> scalar. 0 where the returns do not vary.
    """
    assert values.shape == returns.shape == (len(values),), (values.shape, returns.shape)
    # In units of about the largest number, since squares of absurd ones would overflow; by a power of
    # two, which costs no precision.
    unit = torch.exp2(torch.cat([values, returns]).abs().amax().clamp(min=1.0).log2().floor())
    values, returns = values / unit, returns / unit
    variance = returns.var(unbiased=False)
    unexplained = (returns - values).var(unbiased=False)
    varied = returns.amax() > returns.amin()  # where they do not, rounding may say that they do
    return torch.where(varied, 1 - unexplained / variance.clamp(min=1e-37), 0.0 * variance)
