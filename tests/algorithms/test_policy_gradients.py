"""The losses of PG, A2C, IMPALA and APPO, against one another and by hand."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from policy_server.algorithms import a2c, appo, impala, pg
from policy_server.algorithms.a2c_options import A2CTraining
from policy_server.algorithms.appo_options import APPOTraining
from policy_server.algorithms.impala_options import IMPALATraining
from policy_server.algorithms.ops.distributions import ActionDistribution, HeadLayout
from policy_server.algorithms.ppo import Minibatch, ppo_loss
from policy_server.algorithms.ppo_options import PPOTraining
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Box, Dict, Discrete
from tests.broken import broken

N = 12
LAYOUT = ActionLayout(Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}))
HEAD = HeadLayout(LAYOUT)
torch.manual_seed(0)
HEADS = torch.randn(N, 3 + 4, dtype=torch.float64)
VALUES, ADVANTAGES, RETURNS = torch.randn(3, N, dtype=torch.float64)
CATEGORIES, REALS = torch.randint(0, 3, (N, 1)), torch.randn(N, 2, dtype=torch.float64)


def policy(heads: torch.Tensor) -> ActionDistribution:
    return HEAD.distribution(heads, None, None)


LOGP = policy(HEADS).log_prob(CATEGORIES, REALS)


def gradient(loss: Any) -> torch.Tensor:
    """Of loss(policy, values) by heads and values, `[N, H + 1]`."""
    heads, values = HEADS.clone().requires_grad_(), VALUES.clone().requires_grad_()
    loss(policy(heads), values).backward()
    return torch.cat([heads.grad, values.grad[:, None]], dim=1)


def of_a2c(page: dict[str, Any]) -> torch.Tensor:
    options = A2CTraining(vf_loss_coeff=0.7)
    learned = page["Learned"](CATEGORIES, REALS, ADVANTAGES, RETURNS)
    return gradient(lambda new, values: page["a2c_loss"](new, values, learned, options, 0.03)[0])


def of_impala(page: dict[str, Any]) -> torch.Tensor:
    options = IMPALATraining(vf_loss_coeff=0.7)
    learned = page["Learned"](CATEGORIES, REALS, ADVANTAGES, RETURNS)
    return gradient(lambda new, values: page["impala_loss"](new, values, learned, options, 0.03)[0])


def of_appo(page: dict[str, Any], logp: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    options = APPOTraining(vf_loss_coeff=0.7, clip_param=0.2)
    mb = page["Minibatch"](CATEGORIES, REALS, logp, target, ADVANTAGES, RETURNS)
    return gradient(lambda new, values: page["appo_loss"](new, values, mb, options, 0.03)[0])


def of_ppo() -> torch.Tensor:
    options = PPOTraining(vf_loss_coeff=0.7, vf_clip_param=None, clip_param=0.2, use_kl_loss=False)
    mb = Minibatch(CATEGORIES, REALS, LOGP, ADVANTAGES, RETURNS, policy(HEADS))
    return gradient(
        lambda new, values: ppo_loss(new, values, mb, options, entropy_coeff=0.03, kl_coeff=0.0)[0]
    )


def by_hand() -> torch.Tensor:
    """-(log pi A) + 0.7 (V - R)^2 - 0.03 H, step by step, from the definitions."""

    def loss(new: ActionDistribution, values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(N):
            choice = torch.distributions.Categorical(logits=new.log_probs[n])
            normal = torch.distributions.Normal(new.mean[n], new.log_std[n].exp())
            logp = choice.log_prob(CATEGORIES[n, 0]) + normal.log_prob(REALS[n]).sum()
            entropy = choice.entropy() + normal.entropy().sum()
            error = (values[n] - RETURNS[n]) ** 2
            total = total - logp * ADVANTAGES[n] + 0.7 * error - 0.03 * entropy
        return total / N

    return gradient(loss)


def test_where_the_policy_is_the_one_that_acted_all_have_one_gradient() -> None:
    expected = by_hand()
    for mine in (of_a2c(vars(a2c)), of_impala(vars(impala)), of_ppo(),
                 of_appo(vars(appo), LOGP, LOGP)):  # fmt: skip
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_reinforce_by_hand() -> None:
    def loss(new: ActionDistribution, values: torch.Tensor) -> torch.Tensor:
        mine, _ = pg.pg_loss(new, CATEGORIES, REALS, RETURNS, 0.03)
        return mine + 0.0 * values.sum()

    def hand(new: ActionDistribution, values: torch.Tensor) -> torch.Tensor:
        each = new.log_prob(CATEGORIES, REALS) * RETURNS + 0.03 * new.entropy()
        return -each.sum() / N + 0.0 * values.sum()

    torch.testing.assert_close(gradient(loss), gradient(hand))


def appo_by_hand(logp: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    def loss(new: ActionDistribution, values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        now = new.log_prob(CATEGORIES, REALS)
        for n in range(N):
            ratio = torch.exp(logp[n] - target[n]).clamp(max=2.0) * torch.exp(now[n] - logp[n])
            clipped = ratio.clamp(0.8, 1.2)
            total = total - torch.minimum(ratio * ADVANTAGES[n], clipped * ADVANTAGES[n])
            total = total + 0.7 * (values[n] - RETURNS[n]) ** 2 - 0.03 * new.entropy()[n]
        return total / N

    return gradient(loss)


def distance(page: dict[str, Any]) -> float:
    """From APPO by hand, with old steps and an old target."""
    torch.manual_seed(1)
    logp, target = LOGP + 0.4 * torch.randn(2, N, dtype=torch.float64)
    target[:4] = logp[:4] - 1.5  # beyond the limit of the ratio
    return float((of_appo(page, logp, target) - appo_by_hand(logp, target)).abs().max())


def test_appo_by_hand() -> None:
    assert distance(vars(appo)) < 1e-12


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(mb.logp - mb.target_logp).clamp(max=limit)", "mb.logp - mb.target_logp"),
        ("(mb.logp - mb.target_logp)", "(mb.target_logp - mb.logp)"),
        ("new.log_prob(mb.categories, mb.reals) - mb.logp", "new.log_prob(mb.categories, mb.reals) - mb.target_logp"),
        ("-clipped_surrogate", "clipped_surrogate"),
        ("- entropy_coeff * entropy", "+ entropy_coeff * entropy"),
    ],
)  # fmt: skip
def test_a_broken_line_of_appo_shows(line: str, instead: str) -> None:
    assert distance(broken(appo, line, instead)) > 1e-4


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("policy_loss = -(", "policy_loss = ("),
        ("+ config.vf_loss_coeff * vf_loss", "+ vf_loss"),
        ("- entropy_coeff * entropy", "+ entropy_coeff * entropy"),
    ],
)
@pytest.mark.parametrize(("page", "of"), [(a2c, of_a2c), (impala, of_impala)])
def test_a_broken_line_shows(page: ModuleType, of: Any, line: str, instead: str) -> None:
    assert float((of(broken(page, line, instead)) - by_hand()).abs().max()) > 1e-4
