"""PPO's loss by hand, by finite differences, and at ratio 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from policy_server.algorithms.ops.distributions import ActionDistribution, HeadLayout
from policy_server.algorithms.ppo import Minibatch, PPOTraining, ppo_loss
from policy_server.errors import ConfigError
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete

N = 16
SPACE = Dict({"a": MultiDiscrete([3, 2]), "b": Box(-1, 1, (2,)), "c": Discrete(4)})
COLUMNS = HeadLayout(ActionLayout(SPACE))
CONFIG = PPOTraining(vf_loss_coeff=0.7, vf_clip_param=2.0, clip_param=0.2)


def policy(head: torch.Tensor, log_std: torch.Tensor, mask: torch.Tensor) -> ActionDistribution:
    return COLUMNS.distribution(head, log_std, mask)


def problem(seed: int, distance: float) -> tuple[list[torch.Tensor], torch.Tensor, Minibatch]:
    """([head, log_std, values], mask, minibatch); the policy that acted is `distance` away."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head, log_std, values = normal(N, 11), normal(2) * 0.3, normal(N)
    mask = torch.randint(0, 2, (N, 9), generator=generator)
    mask[:, [0, 3, 5]] = 1
    old = policy(head + distance * normal(N, 11), log_std + distance * normal(2), mask)
    categories, reals = old.sample(generator)
    logp = old.log_prob(categories, reals)
    mb = Minibatch(categories, reals, logp, normal(N), values + 2 * normal(N), old)
    return [head, log_std, values], mask, mb


def evaluate(
    inputs: list[torch.Tensor], mask: torch.Tensor, mb: Minibatch, entropy: float, kl: float
) -> torch.Tensor:
    head, log_std, values = inputs
    new = policy(head, log_std, mask)
    loss, _ = ppo_loss(new, values, mb, CONFIG, entropy_coeff=entropy, kl_coeff=kl)
    return loss


def gradients(loss: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("seed", range(3))
def test_by_hand_one_step_at_a_time(seed: int) -> None:
    inputs, mask, mb = problem(seed, 0.3)
    head, log_std, values = inputs
    new = policy(head, log_std, mask)
    logp, entropy, kl = new.log_prob(mb.categories, mb.reals), new.entropy(), mb.old.kl(new)
    total, clipped, cut = 0.0, 0, 0
    for i in range(N):
        ratio = float((logp[i] - mb.logp[i]).exp())
        a = float(mb.advantages[i])
        surrogate = a * (min(ratio, 1.2) if a >= 0 else max(ratio, 0.8))
        clipped += surrogate != a * ratio
        error = float(values[i] - mb.returns[i]) ** 2
        cut += error > 2.0
        total += -surrogate + 0.7 * min(error, 2.0) - 0.05 * float(entropy[i]) + 0.3 * float(kl[i])
    assert clipped
    assert cut
    assert float(evaluate(inputs, mask, mb, 0.05, 0.3)) == pytest.approx(total / N, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_agrees_with_finite_differences(seed: int) -> None:
    inputs, mask, mb = problem(seed, 0.3)
    inputs = [part.requires_grad_() for part in inputs]
    exact = gradients(evaluate(inputs, mask, mb, 0.05, 0.3), inputs)
    step = 1e-6
    for which, part in enumerate(inputs):
        flat = part.detach().reshape(-1)
        for i in range(flat.numel()):
            answers = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[i] += sign * step
                changed = list(inputs)
                changed[which] = moved.view(part.shape)
                answers.append(evaluate(changed, mask, mb, 0.05, 0.3).item())
            slope = (answers[0] - answers[1]) / (2 * step)
            assert float(exact[which].reshape(-1)[i]) == pytest.approx(slope, abs=1e-7)


def test_gradient_at_ratio_one_is_that_of_advantage_actor_critic() -> None:
    inputs, mask, mb = problem(0, 0.0)
    mb = mb._replace(returns=inputs[2] + 0.5 * torch.sign(mb.advantages))  # within the cut-off
    inputs = [part.requires_grad_() for part in inputs]
    head, log_std, values = inputs
    new = policy(head, log_std, mask)
    a2c = (
        -(mb.advantages * new.log_prob(mb.categories, mb.reals)).mean()
        + 0.7 * (values - mb.returns).square().mean()
        - 0.05 * new.entropy().mean()
    )
    for mine, expected in zip(
        gradients(evaluate(inputs, mask, mb, 0.05, 0.3), inputs),
        gradients(a2c, inputs),
        strict=True,
    ):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("advantage", "ratio", "moves"), [(1.0, 1.3, False), (1.0, 0.7, True), (-1.0, 1.3, True), (-1.0, 0.7, False)])  # fmt: skip
def test_clipping_stops_only_what_went_too_far(advantage: float, ratio: float, moves: bool) -> None:
    columns = HeadLayout(ActionLayout(Discrete(2)))
    head = torch.zeros(1, 2, requires_grad=True)
    new = columns.distribution(head, None, None)
    behaviour = torch.tensor([0.5]).log() - torch.tensor([ratio]).log()
    zero = torch.zeros(1)
    mb = Minibatch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 0), behaviour,
                   torch.tensor([advantage]), zero, new)  # fmt: skip
    loss, terms = ppo_loss(new, zero, mb, CONFIG, entropy_coeff=0.0, kl_coeff=0.0)
    (gradient,) = torch.autograd.grad(loss, [head])
    assert terms.ratio.item() == pytest.approx(ratio)
    assert bool(gradient.abs().max() > 0) is moves


def test_value_errors_beyond_the_cut_off_give_no_gradient() -> None:
    inputs, mask, mb = problem(0, 0.1)
    values = inputs[2].requires_grad_()
    (gradient,) = gradients(evaluate(inputs, mask, mb, 0.0, 0.0), [values])
    beyond = (values - mb.returns).square() > 2.0
    assert beyond.any()
    assert not beyond.all()
    assert torch.equal(gradient == 0, beyond)
    free = dataclasses.replace(CONFIG, vf_clip_param=None)
    new = policy(inputs[0], inputs[1], mask)
    loss, _ = ppo_loss(new, values, mb, free, entropy_coeff=0.0, kl_coeff=0.0)
    assert (gradients(loss, [values])[0] != 0).all()


def test_shapes_are_asserted() -> None:
    inputs, mask, mb = problem(0, 0.1)
    with pytest.raises(AssertionError):
        evaluate([inputs[0], inputs[1], inputs[2][:, None]], mask, mb, 0.0, 0.0)
    with pytest.raises(AssertionError):
        evaluate(inputs, mask, mb._replace(advantages=mb.advantages[:-1]), 0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 0.0}, r"training\.lr: expected a number in \(0, inf\], got 0\.0"),
        ({"lr": "fast"}, r"training\.lr: .*got 'fast'"),
        ({"gamma": 1.5}, r"training\.gamma: expected a number in \[0, 1\], got 1\.5"),
        ({"lambda_": float("nan")}, r"training\.lambda_: .*got nan"),
        ({"clip_param": -1}, r"training\.clip_param: .*got -1"),
        ({"num_epochs": 1.5}, r"training\.num_epochs: expected an integer of at least 1, got 1\.5"),
        ({"minibatch_size": 0}, r"training\.minibatch_size: .*got 0"),
        ({"grad_clip": 0.0}, r"training\.grad_clip: .* or None, got 0\.0"),
        ({"grad_clip_by": "norms"}, r"training\.grad_clip_by: expected one of .*got 'norms'"),
        ({"use_kl_loss": 1}, r"training\.use_kl_loss: expected True or False, got 1"),
        ({"lr_schedule": [[5, 1.0]]}, r"training\.lr_schedule: expected pairs.*got \[\[5, 1\.0\]\]"),
        ({"entropy_coeff_schedule": [[0, -1.0]]}, r"training\.entropy_coeff_schedule: .*>= 0"),
        ({"minibatch_size": 129, "train_batch_size": 128},
         r"training\.minibatch_size=129 with training\.train_batch_size=128: "),
        ({"kl_coeff": 0.0}, r"training\.use_kl_loss=True with training\.kl_coeff=0\.0: "),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PPOTraining(**options)


def test_possible_options_are_taken() -> None:
    PPOTraining(
        use_kl_loss=False, kl_coeff=0.0, vf_clip_param=None, gamma=1, lr_schedule=[[0, 1e-3]]
    )
