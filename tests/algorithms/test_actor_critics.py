"""SAC, TD3 and TQC: their targets and losses by hand, row by row, and what breaks them."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.algorithms import sac, td3, tqc
from policy_server.algorithms.alphas import Alphas
from policy_server.algorithms.ops.squashed import Squashed
from policy_server.algorithms.sac_options import SACTraining
from policy_server.algorithms.td3_options import DDPGTraining, TD3Training
from policy_server.algorithms.tqc_options import TQCTraining
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.networks.actor import ActorNetwork, Critics, PerturbedActor
from policy_server.replay.steps import Transitions
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, Space
from tests.broken import broken

MODEL = ModelConfig(hidden=(8,))
OBSERVATION = Box(-9, 9, (3,))
N, D, W = 12, 2, 3
HYBRID = Dict({"a": Discrete(W), "b": Box(-1, 1, (D,))})
REALS = Box(-1, 1, (D,))
ALPHAS = torch.tensor([0.3, 0.7])


def critics(seed: int, outputs: int, number: int = 2) -> Critics:
    torch.manual_seed(seed)
    return Critics(number, PolicySpaces(OBSERVATION, HYBRID), MODEL, D, outputs)


def steps(width: int) -> Transitions:
    rng = np.random.default_rng(0)
    mask = np.ones((N, width), np.uint8)
    mask[::2, :1] = 0
    discounts = np.where(rng.random(N) < 0.3, 0.0, 0.9)
    columns = (
        rng.normal(size=(N, 3)), mask, rng.integers(1, 3, (N, min(1, width))),
        rng.uniform(-1, 1, (N, D)), rng.normal(size=N), rng.normal(size=(N, 3)), mask, discounts,
    )  # fmt: skip
    tensors = [torch.from_numpy(column) for column in columns]
    obs, m, cats, reals, rewards, next_obs, next_m, d = (
        t.float() if t.is_floating_point() else t for t in tensors
    )
    return Transitions((obs,), m, cats, reals, rewards, (next_obs,), next_m, d)


def policy(width: int) -> Squashed:
    generator = torch.manual_seed(7)
    head = torch.randn(N, width + 2 * D, generator=generator)
    return Squashed.of(head, steps(width).mask, width, -20, 2)


def noise() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.manual_seed(5))


# -- SAC ------------------------------------------------------------------------------------------


def value_by_hand(width: int) -> list[float]:
    made, net, row_noise = policy(width), critics(1, max(1, width)), noise()
    values = []
    for n in range(N):
        u, logp = [], 0.0
        for i in range(D):
            z, log_std = float(row_noise[n, i]), float(made.log_std[n, i])
            free = float(made.mean[n, i]) + math.exp(log_std) * z
            u.append(math.tanh(free))
            logp += -0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi)
            logp -= math.log(1 - math.tanh(free) ** 2)
        obs = (steps(width).obs[0][n : n + 1],)
        both = net(obs, torch.tensor([u])).detach()[:, 0]  # [2, W or 1]
        total = 0.0
        if width:
            for k in range(width):
                log_pi = float(made.log_choices[n, k])
                least = min(float(both[0, k]), float(both[1, k]))
                total += math.exp(log_pi) * (least - (0.3 * log_pi if log_pi > -1e9 else 0.0))
        else:
            total = min(float(both[0, 0]), float(both[1, 0]))
        values.append(total - 0.7 * logp)
    return values


@pytest.mark.parametrize("width", [0, W], ids=["reals", "hybrid"])
def test_the_soft_value_is_the_sum_over_choices(width: int) -> None:
    found = sac.soft_value(
        policy(width), critics(1, max(1, width)), steps(width).obs, noise(), ALPHAS
    )
    np.testing.assert_allclose(found.value.detach(), value_by_hand(width), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (".min(0).values  #", ".max(0).values  #"),
        ("expected + alphas[0] * entropy", "expected - alphas[0] * entropy"),
        ("- alphas[1] * logp", "+ alphas[1] * logp"),
        ("(policy.choices * q).sum(1)", "(policy.choices * q).mean(1)"),
    ],
)
def test_a_broken_soft_value_shows(line: str, instead: str) -> None:
    wrong = broken(sac, line, instead)["soft_value"]
    found = wrong(policy(W), critics(1, W), steps(W).obs, noise(), ALPHAS)
    assert not np.allclose(found.value.detach(), value_by_hand(W), rtol=1e-3, atol=1e-3)


def sac_critics_by_hand(width: int) -> float:
    net, s = critics(1, max(1, width)), steps(width)
    q = net(s.obs, s.reals).detach()
    total = 0.0
    for c in range(2):
        for n in range(N):
            k = int(s.categories[n, 0]) if width else 0
            total += 0.5 * (0.5 + n) * (float(q[c, n, k]) - n) ** 2 / N
    return total


@pytest.mark.parametrize("width", [0, W], ids=["reals", "hybrid"])
def test_sacs_critics_lose_what_they_should(width: int) -> None:
    y = torch.arange(N).float()
    loss, errors = sac.critic_loss(critics(1, max(1, width)), steps(width), y, 0.5 + y)
    assert loss.item() == pytest.approx(sac_critics_by_hand(width), rel=1e-5)
    assert errors.shape == (N,)


def test_the_weight_of_an_entropy_rises_where_there_is_too_little() -> None:
    layout, config = ActionLayout(HYBRID), SACTraining(target_choice_entropy=0.5)
    mask = steps(W).mask  # half of the rows allow two options, the others three
    wanted = 0.5 * (math.log(2) + math.log(3)) / 2
    for below in (True, False):
        alphas = Alphas(2, 1.0)
        off = -0.1 if below else 0.1
        opinion = sac.Opinion(
            torch.zeros(N), torch.full((N,), wanted + off), torch.full((N,), -D + off)
        )
        sac.alphas_loss(alphas, opinion, mask, config, layout).backward()  # type: ignore[no-untyped-call]
        assert alphas.log.grad is not None
        np.testing.assert_allclose(alphas.log.grad, [off, off], rtol=1e-4)  # alpha goes against it


# -- TD3 ------------------------------------------------------------------------------------------


def actor() -> ActorNetwork:
    torch.manual_seed(2)
    made = ActorNetwork(PolicySpaces(OBSERVATION, REALS), MODEL, D, squash=True)
    with torch.no_grad():
        made.head.weight.mul_(100.0)
    return made


def td3_by_hand(config: TD3Training) -> list[float]:
    net, target, s, e = critics(1, 1), actor(), steps(0), noise()
    wanted = []
    for n in range(N):
        obs = (s.next_obs[0][n : n + 1],)
        mu = target.policy(obs).detach()[0]
        action = []
        for i in range(D):
            limit = config.target_noise_clip
            smoothing = max(-limit, min(limit, config.target_noise * float(e[n, i])))
            action.append(max(-1.0, min(1.0, float(mu[i]) + smoothing)))
        q = net(obs, torch.tensor([action])).detach()[:, 0, 0]
        wanted.append(float(s.rewards[n]) + float(s.discounts[n]) * min(q.tolist()))
    return wanted


LARGE = TD3Training(target_noise=0.6, target_noise_clip=0.5)


def test_td3s_target_is_the_papers() -> None:
    found = td3.td3_target(actor(), critics(1, 1), steps(0), noise(), LARGE)
    np.testing.assert_allclose(found.detach(), td3_by_hand(LARGE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (".min(0).values", ".max(0).values"),
        (".clamp(-1.0, 1.0)", ""),
        ("-config.target_noise_clip, config.target_noise_clip", "-9.0, 9.0"),
        ("steps.rewards + steps.discounts * behind", "steps.rewards + 0.9 * behind"),
    ],
)
def test_a_broken_target_shows(line: str, instead: str) -> None:
    wrong = broken(td3, line, instead)["td3_target"]
    found = wrong(actor(), critics(1, 1), steps(0), noise(), LARGE)
    assert not np.allclose(found.detach(), td3_by_hand(LARGE), rtol=1e-4, atol=1e-4)


def test_the_actor_climbs_the_first_critic() -> None:
    net, made, obs = critics(1, 1), actor(), steps(0).obs
    td3.actor_loss(made, net, obs).backward()  # type: ignore[no-untyped-call]
    before = net.each[0](obs, made.policy(obs)).mean()
    with torch.no_grad():
        for parameter in made.parameters():
            assert parameter.grad is not None
            parameter -= 1e-2 * parameter.grad
    assert net.each[0](obs, made.policy(obs)).mean() > before


def test_the_actor_waits_for_its_critics() -> None:
    config = TD3Training(policy_delay=3, learning_starts=0, train_batch_size=N, tau=0.5)
    made = td3.TD3(
        PolicySpaces(OBSERVATION, REALS), MODEL, config, seed=0, device=torch.device("cpu")
    )
    drawn = td3.Drawn(np.zeros(N, np.int64), steps(0), torch.ones(N), True)
    moved = []
    for _ in range(6):
        before, slow = made.optimizer.weights.clone(), made.target_critics.network.state_dict()
        slow = {key: value.clone() for key, value in slow.items()}
        made._learn(drawn)
        moved.append(not torch.equal(before, made.optimizer.weights))
        now = made.target_critics.network.state_dict()
        assert moved[-1] == any(not torch.equal(now[key], slow[key]) for key in slow)
    assert moved == [False, False, True] * 2


def test_parameter_noise_finds_the_size_that_was_asked_for() -> None:
    config = TD3Training(parameter_noise=0.15, exploration_noise=0.0)
    made = td3.TD3(
        PolicySpaces(OBSERVATION, REALS), MODEL, config, seed=0, device=torch.device("cpu")
    )
    assert isinstance(made.network, PerturbedActor)
    found = []
    for _ in range(400):
        made._perturb(steps(0))
        found.append(made.means.take()["noise_in_actions"])
    assert np.mean(found[-100:]) == pytest.approx(0.15, rel=0.15)
    head = made.network.policy(steps(0).obs)
    torch.testing.assert_close(head[:, D:], made.actor.policy(steps(0).obs))


def test_parameter_noise_is_measured_apart_from_what_was_learned() -> None:
    made = td3.TD3(
        PolicySpaces(OBSERVATION, REALS), MODEL, TD3Training(parameter_noise=0.01), seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    made.optimizer.weights.mul_(-3.0)  # learned much since the noise was drawn
    made._perturb(steps(0))
    noisy, clean = made.network.policy(steps(0).obs).detach().chunk(2, dim=1)
    caused = (noisy - clean).square().mean().sqrt()
    assert made.means.take()["noise_in_actions"] == pytest.approx(float(caused)) != 0.0
    assert caused < 0.1


# -- TQC ------------------------------------------------------------------------------------------

QUANTILES, DROPPED = 5, 2


def tqc_by_hand() -> list[list[float]]:
    made, net, s = policy(0), critics(1, QUANTILES), steps(0)
    reals, logp = made.reals(noise())
    all_quantiles = net(s.next_obs, reals).detach()
    wanted = []
    for n in range(N):
        pooled = sorted(all_quantiles[:, n].flatten().tolist())[: 2 * (QUANTILES - DROPPED)]
        soft = [z - 0.7 * float(logp[n]) for z in pooled]
        wanted.append([float(s.rewards[n]) + float(s.discounts[n]) * z for z in soft])
    return wanted


def test_tqcs_target_is_the_papers() -> None:
    found = tqc.tqc_target(policy(0), critics(1, QUANTILES), steps(0), noise(), ALPHAS[1:], DROPPED)
    np.testing.assert_allclose(found.detach(), tqc_by_hand(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("behind - (alpha * logp)", "behind + (alpha * logp)"),
        ("steps.discounts[:, None] * soft", "soft"),
        ("reals), dropped)", "reals), dropped + 1)"),
    ],
)
def test_a_broken_tqc_target_shows(line: str, instead: str) -> None:
    wrong = broken(tqc, line, instead)["tqc_target"]
    found = wrong(policy(0), critics(1, QUANTILES), steps(0), noise(), ALPHAS[1:], DROPPED)
    wanted = np.array(tqc_by_hand())
    assert found.shape != wanted.shape or not np.allclose(found.detach(), wanted, atol=1e-4)


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(training=TQCTraining, dropped_quantiles=25), "dropped_quantiles=25 with"),
        (dict(training=SACTraining, initial_alpha=0.0), "initial_alpha: expected a number in"),
        (dict(training=SACTraining, target_choice_entropy=1.5), "target_choice_entropy"),
        (dict(training=TD3Training, policy_delay=0), "policy_delay: expected an integer"),
        (dict(training=DDPGTraining, noise_reversion=1.5), "noise_reversion"),
        (dict(training=DDPGTraining, critic_lr=0.0), "critic_lr"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        options.pop("training")(**options)


@pytest.mark.parametrize("module", [sac, td3, tqc], ids=lambda m: m.__name__.split(".")[-1])
def test_critics_do_not_learn_from_the_actors_step(module: ModuleType) -> None:
    """The actor's gradient goes through the critics and leaves nothing there."""
    training, page = {
        sac: (SACTraining, sac.SAC), td3: (TD3Training, td3.TD3), tqc: (TQCTraining, tqc.TQC),
    }[module]  # fmt: skip
    space: Space = REALS
    made: Any = page(
        PolicySpaces(OBSERVATION, space), MODEL, training(), seed=0, device=torch.device("cpu")
    )
    before = made._critics_optimizer.gradient.clone()
    if module is td3:
        with td3.frozen(made.critics):
            td3.actor_loss(made.actor, made.critics, steps(0).obs).backward()  # type: ignore[no-untyped-call]
    else:
        made._learn_actor(steps(0))
    assert torch.equal(made._critics_optimizer.gradient, before)
    assert all(p.requires_grad for p in made.critics.parameters())
