"""MAPPO: with one agent it is PPO; with more, each has its own ratio and, told apart, its own GAE."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from group_spaces import CHOICE, REALS, group, told_apart, unlike
from handmade import random_batch

from policy_server.algorithms import mappo as page
from policy_server.algorithms.mappo import MAPPO
from policy_server.algorithms.mappo_options import MAPPOTraining
from policy_server.algorithms.ops.distributions import ActionDistribution, HeadLayout
from policy_server.algorithms.ppo import PPO, PPOTraining, ppo_loss
from policy_server.algorithms.ppo import Minibatch as OneMinibatch
from policy_server.algorithms.return_scale import DECAY, ReturnScale
from policy_server.algorithms.trajectories import Trajectories
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, LearnerError
from policy_server.settings import Settings
from policy_server.types import ActionLayout, Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from tests.broken import broken

MODEL = ModelConfig(hidden=(8,))
PAGE = "policy_server.algorithms.mappo:MAPPO"
CPU = torch.device("cpu")
N = 16
SPACES: list[Space] = [
    Dict({"a": MultiDiscrete([3, 2]), "b": Box(-1, 1, (2,))}), Discrete(4), Box(-1, 1, (3,)),
]  # fmt: skip
COLUMNS = [HeadLayout(ActionLayout(space)) for space in SPACES]
WIDTHS = [5 + 4, 4, 6]
CONFIG = MAPPOTraining(vf_loss_coeff=0.7, vf_clip_param=2.0, clip_param=0.2)


class Problem:
    """Three unlike agents; the policies that acted are `distance` away. `kinds`: of rewards."""

    def __init__(self, seed: int, distance: float, kinds: int, agents: int = 3):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.columns = COLUMNS[:agents]
        self.heads = [normal(N, width).requires_grad_() for width in WIDTHS[:agents]]
        moved = [head.detach() + distance * normal(*head.shape) for head in self.heads]
        olds = [
            c.distribution(head, None, None) for c, head in zip(self.columns, moved, strict=True)
        ]
        drawn = [old.sample(generator) for old in olds]
        logp = page.log_probs(olds, [c for c, _ in drawn], [r for _, r in drawn])
        self.values = normal(N, kinds).requires_grad_()
        returns = self.values.detach() + 2 * normal(N, kinds)
        self.mb = page.Minibatch(
            [c for c, _ in drawn], [r for _, r in drawn], logp, normal(N, kinds), returns
        )

    def policies(self) -> list[ActionDistribution]:
        pairs = zip(self.columns, self.heads, strict=True)
        return [columns.distribution(head, None, None) for columns, head in pairs]

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        inputs = [*self.heads, self.values]
        return list(torch.autograd.grad(loss, inputs, materialize_grads=True, allow_unused=True))

    def loss(self, functions: Any = None, entropy: float = 0.05) -> torch.Tensor:
        function = page.mappo_loss if functions is None else functions["mappo_loss"]
        found, _ = function(self.policies(), self.values, self.mb, CONFIG, entropy_coeff=entropy)
        result: torch.Tensor = found
        return result

    def by_hand(self, entropy: float = 0.05) -> float:
        """One step and one agent at a time."""
        policies, total = self.policies(), 0.0
        for i, policy in enumerate(policies):
            logp = policy.log_prob(self.mb.categories[i], self.mb.reals[i])
            kind = i if self.mb.advantages.shape[1] > 1 else 0
            for n in range(N):
                ratio = (logp[n] - self.mb.logp[n, i]).exp().item()
                a = float(self.mb.advantages[n, kind])
                surrogate = a * (min(ratio, 1.2) if a >= 0 else max(ratio, 0.8))
                total -= (surrogate + entropy * policy.entropy()[n].item()) / (N * len(policies))
        errors = (self.values - self.mb.returns).detach().square().clamp(max=2.0)
        return total + 0.7 * float(errors.sum()) / errors.numel()


@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_by_hand_one_agent_at_a_time(seed: int, kinds: int) -> None:
    problem = Problem(seed, 0.3, kinds)
    assert problem.loss().item() == pytest.approx(problem.by_hand(), abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_with_one_agent_it_is_ppo(seed: int) -> None:
    problem = Problem(seed, 0.3, 1, agents=1)
    mb, config = problem.mb, PPOTraining(vf_loss_coeff=0.7, vf_clip_param=2.0, clip_param=0.2)
    (policy,) = problem.policies()
    one = OneMinibatch(
        mb.categories[0], mb.reals[0], mb.logp[:, 0], mb.advantages[:, 0], mb.returns[:, 0], policy
    )
    loss, _ = ppo_loss(policy, problem.values[:, 0], one, config, entropy_coeff=0.05, kl_coeff=0.0)
    mine = problem.loss()
    torch.testing.assert_close(mine, loss, rtol=0, atol=1e-12)
    for found, expected in zip(problem.gradients(mine), problem.gradients(loss), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def policy_gradient(problem: Problem) -> torch.Tensor:
    """-mean of A_i log pi_i, each agent with what it did itself."""
    total = problem.values.new_zeros(())
    for i, policy in enumerate(problem.policies()):
        kind = i if problem.mb.advantages.shape[1] > 1 else 0
        logp = policy.log_prob(problem.mb.categories[i], problem.mb.reals[i])
        total = total - (problem.mb.advantages[:, kind] * logp).mean() / 3
    return total


@pytest.mark.parametrize("kinds", [1, 3])
def test_gradient_at_ratio_one_is_each_agents_policy_gradient(kinds: int) -> None:
    problem = Problem(0, 0.0, kinds)
    found = problem.gradients(problem.loss(entropy=0.0))[:3]
    for mine, expected in zip(found, problem.gradients(policy_gradient(problem)), strict=False):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


LOSS_BREAKS = [
    ("torch.exp(new - mb.logp)", "torch.exp(mb.logp - new)"),
    ("torch.exp(new - mb.logp)", "torch.exp((new - mb.logp).sum(1, keepdim=True)).expand_as(new)"),
    ("mb.advantages.expand_as(ratios)", "mb.advantages.flip(1).expand_as(ratios)"),
    ("mb.advantages.expand_as(ratios)", "mb.advantages.sum(1, keepdim=True).expand_as(ratios)"),
    ("- surrogate -", "+ surrogate -"),
    ("- entropy_coeff * entropy", "+ entropy_coeff * entropy"),
    ("zip(policies, categories, reals, strict=True)", "zip(policies, categories[:1] * 3, reals, strict=True)"),
    ("for policy in policies]).mean()", "for policy in policies]).sum()"),
    ("config.vf_loss_coeff * vf_error.mean()", "config.vf_loss_coeff * vf_error.sum()"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "instead"), LOSS_BREAKS)
def test_a_broken_loss_shows(line: str, instead: str) -> None:
    problem = Problem(0, 0.3, 3)
    try:
        found = problem.loss(broken(page, line, instead))
    except (AssertionError, RuntimeError):
        return  # the shapes gave it away
    assert found.item() != pytest.approx(problem.by_hand(), abs=1e-6)


# -- advantages -----------------------------------------------------------------------------------


def made(spaces: PolicySpaces, model: ModelConfig = MODEL, **options: Any) -> MAPPO:
    defaults: dict[str, Any] = {"minibatch_size": 7, "num_epochs": 2, "lr": 1e-2}
    return MAPPO(spaces, model, MAPPOTraining(**(defaults | options)), seed=0, device=CPU)


def played(mappo: Any, spaces: PolicySpaces, seed: int = 1, lengths: Any = (6, 3, 6, 1)) -> Batch:
    batch = random_batch(mappo.network, spaces, 6, 4, seed, np.array(lengths), endings=0.4)
    return told_apart(batch) if len(spaces.observation.spaces) > 1 else batch  # type: ignore[attr-defined]


def apart_by_hand(mappo: MAPPO, batch: Batch) -> tuple[list[float], list[float]]:
    """(advantages, returns) of two agents, by lane and agent, each alone, over the steps one after
    another; flat in the order of time, lane, agent."""
    g, lam = 0.9, 0.7

    def value(leaves: list[np.ndarray]) -> np.ndarray:
        obs = [torch.from_numpy(leaf[None]) for leaf in leaves]
        return mappo._value(obs)[0].detach().numpy()

    finals = {tuple(index): i for i, index in enumerate(batch.final_index.tolist())}
    found: dict[tuple[int, int, int], tuple[float, float]] = {}
    for b, length in enumerate(batch.lengths.tolist()):
        for i in range(2):
            following = 0.0
            for t in reversed(range(length)):
                here = float(value([leaf[t, b] for leaf in batch.obs])[i])
                if batch.terminated[t, b]:
                    told, behind = batch.obs[-1][t + 1, b], 0.0
                elif batch.truncated[t, b]:
                    final = [leaf[finals[t, b]] for leaf in batch.final_obs]
                    told, behind = final[-1], float(value(final)[i])
                else:
                    following_obs = [leaf[t + 1, b] for leaf in batch.obs]
                    told, behind = following_obs[-1], float(value(following_obs)[i])
                if batch.terminated[t, b] or batch.truncated[t, b]:
                    following = 0.0
                following = float(told[i]) + g * behind - here + g * lam * following
                found[t, b, i] = following, following + here
    ordered = [found[key] for key in sorted(found)]
    return [a for a, _ in ordered], [r for _, r in ordered]


def apart(mappo: MAPPO, batch: Batch, functions: dict[str, Any] | None = None) -> list[np.ndarray]:
    steps = Trajectories(batch, CPU)
    values, finals = steps.values(mappo._value, 2)
    rewards = torch.from_numpy(mappo._central.rewards(batch))
    function = (functions or vars(page))["advantages_apart"]
    with torch.no_grad():
        return [x.flatten().numpy() for x in function(steps, rewards, values, finals, 0.9, 0.7)]


def test_each_agents_advantages_are_those_of_itself_alone() -> None:
    spaces = group(CHOICE, 2, state=True, rewards=True)
    mappo = made(spaces)
    batch = played(mappo, spaces)
    assert batch.terminated[batch.valid].any()
    assert batch.truncated[batch.valid].any()
    for found, expected in zip(apart(mappo, batch), apart_by_hand(mappo, batch), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("rewards.unbind(2), values", "rewards.flip(2).unbind(2), values"),
        ("final_values.unbind(2), strict", "final_values.flip(2).unbind(2), strict"),
        ("*columns, steps.terminated, steps.truncated", "*columns, steps.truncated, steps.terminated"),
    ],
)  # fmt: skip
def test_broken_advantages_show(line: str, instead: str) -> None:
    spaces = group(CHOICE, 2, state=True, rewards=True)
    mappo = made(spaces)
    batch = played(mappo, spaces)
    found = apart(mappo, batch, broken(page, line, instead))
    assert not np.allclose(found[0], apart_by_hand(mappo, batch)[0], atol=1e-3, equal_nan=True)


# -- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [CHOICE, REALS], ids=["choice", "reals"])
def test_an_update_of_one_agent_is_that_of_ppo(action: Space) -> None:
    """The same weights, the same minibatches: the same weights behind them."""
    spaces = group(action, 1)
    options: dict[str, Any] = dict(
        minibatch_size=7, num_epochs=3, lr=1e-2, entropy_coeff=0.02, vf_clip_param=2.0,
        grad_clip=0.5, clip_param=0.2, lambda_=0.9,
    )  # fmt: skip
    mappo = made(spaces, normalize_values=False, **options)
    ppo = PPO(spaces, MODEL, PPOTraining(use_kl_loss=False, **options), seed=0, device=CPU)
    pairs = {"actors.0.body": "policy_body", "actors.0.head": "policy_head", "body": "value_body", "head": "value_head"}  # fmt: skip

    def of_ppo() -> dict[str, torch.Tensor]:
        mine = {**mappo.network.state_dict(), **mappo.critic.state_dict()}
        theirs = ppo.network.state_dict()
        found = {}
        for name in mine:
            start = next((p for p in pairs if name.startswith(p + ".")), "")
            found[name] = theirs[pairs[start] + name.removeprefix(start) if start else name]
        return found

    for network in (mappo.network, mappo.critic):
        network.load_state_dict({k: of_ppo()[k] for k in network.state_dict()})
    batch = played(ppo, spaces)
    before = {k: v.clone() for k, v in of_ppo().items()}
    mine, its = mappo.update(batch, 0), ppo.update(batch, 0)
    for key in ("total_loss", "policy_loss", "vf_loss", "entropy", "grad_norm", "vf_explained_var", "first_ratio_error"):  # fmt: skip
        assert mine[key] == pytest.approx(its[key], rel=1e-4, abs=1e-6), key
    for name, tensor in {**mappo.network.state_dict(), **mappo.critic.state_dict()}.items():
        torch.testing.assert_close(tensor, of_ppo()[name], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tensor, before[name], atol=1e-4), name


@pytest.mark.parametrize("spaces", [unlike(), unlike(rewards=True), group(REALS, 3, state=True, rewards=True), group(MultiDiscrete([3, 2]), 2, mask=True), group(Dict({"a": CHOICE, "b": REALS}), 2, mask=True)])  # fmt: skip
@pytest.mark.parametrize("free", [False, True])
def test_ratios_are_one_at_first(spaces: PolicySpaces, free: bool) -> None:
    """What all did together is as likely as the product of what each did."""
    mappo = made(spaces, dataclasses.replace(MODEL, free_log_std=free))
    for i in range(3):
        batch = played(mappo, spaces, i)
        assert mappo.update(batch, 0)["first_ratio_error"] < 1e-5
    stale = played(mappo, spaces, 5)
    mappo.update(stale, 0)
    assert mappo.update(stale, 0)["first_ratio_error"] > 1e-3


def test_steps_of_several_versions_are_refused() -> None:
    spaces = group(CHOICE, 2)
    mappo = made(spaces)
    batch = played(mappo, spaces)
    batch.versions[2:, 0] += 1
    with pytest.raises(LearnerError, match="expected all steps of a batch to be of one version"):
        mappo.update(batch, 0)


def test_returns_are_measured_by_their_own_spread() -> None:
    scale = ReturnScale(2)
    rng = np.random.default_rng(0)
    batches = [torch.from_numpy(rng.normal([3, -50], [2, 0.1], (64, 2))).float() for _ in range(4)]
    assert torch.equal(scale.small(batches[0]), batches[0])
    for batch in batches:
        scale.add(batch)
    weights = np.array([(1 - DECAY) * DECAY**age for age in (3, 2, 1, 0)])
    weights /= weights.sum()
    mean = sum(w * b.double().mean(0).numpy() for w, b in zip(weights, batches, strict=True))
    square = sum(
        w * (b.double() ** 2).mean(0).numpy() for w, b in zip(weights, batches, strict=True)
    )
    expected = (batches[0].numpy() - mean) / np.sqrt(square - mean**2)
    np.testing.assert_allclose(scale.small(batches[0]), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scale.large(scale.small(batches[0])), batches[0])


def test_the_value_function_learns_rewards_of_any_size() -> None:
    """Values in large units come close to returns of about a thousand within a few updates."""
    spaces = group(CHOICE, 2)
    mappo = made(spaces, gamma=0.0, num_epochs=20, entropy_coeff=0.0)
    for i in range(30):
        batch = played(mappo, spaces, i, (6, 6, 6, 6))
        batch.rewards[:] = 1000.0 + 100.0 * batch.obs[0][:-1, :, 0]
        found = mappo.update(batch, 0)["vf_explained_var"]
    assert found > 0.9


@pytest.mark.parametrize("collection", [{"mode": "async"}, {"ahead": True}])
def test_collection_of_several_versions_is_refused(collection: dict[str, Any]) -> None:
    settings = {"algorithm": PAGE, "collection": collection}
    with pytest.raises(ConfigError, match="MAPPO: expected steps that all come from the policy"):
        Settings.from_mapping(settings)
    own = {
        "multi_agent": {
            "policies": {"team": {"algorithm": PAGE}},
            "policy_mapping": {"*": "team"},
        }
    }
    with pytest.raises(ConfigError, match="MAPPO: expected steps that all come from the policy"):
        Settings.from_mapping(settings | own | {"algorithm": "PPO"})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"clip_param": 0.0}, r"training\.clip_param: expected a number in \(0, inf\], got 0\.0"),
        ({"share_parameters": "yes"}, r"training\.share_parameters: expected True or False"),
        ({"normalize_values": 1}, r"training\.normalize_values: expected True or False"),
        ({"entropy_coeff": -0.1}, r"training\.entropy_coeff: "),
        ({"minibatch_size": 129, "train_batch_size": 128},
         r"training\.minibatch_size=129 with training\.train_batch_size=128: "),
        ({"lr_schedule": [[5, 1.0]]}, r"training\.lr_schedule: expected pairs"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MAPPOTraining(**options)
