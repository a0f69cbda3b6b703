"""MADDPG: targets and gradients against formulas of another kind, in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from group_spaces import CHOICE, REALS, group
from torch import nn

from policy_server.algorithms import maddpg as page
from policy_server.algorithms.maddpg import MADDPG
from policy_server.algorithms.maddpg_options import MADDPGTraining
from policy_server.algorithms.ops import gumbel as ops
from policy_server.algorithms.replayed import Drawn
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.replay.steps import Transitions
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, MultiDiscrete
from tests.broken import broken

AGENTS, N, D = 3, 7, 2
MODEL = ModelConfig(hidden=(4,))
CPU = torch.device("cpu")
Arrays = dict[str, np.ndarray]


def make(module: Any = page, action: Any = REALS, **options: Any) -> MADDPG:
    """Three agents whose actors are not close to the middle."""
    spaces = group(action, AGENTS, state=True, rewards=True)
    kind = MADDPG if module is page else module["MADDPG"]
    made: MADDPG = kind(spaces, MODEL, MADDPGTraining(**options), seed=0, device=CPU)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (made.network, made.critics, made.target_actors.network, made.target_critics.network):  # fmt: skip
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return made


def steps(width: int = 0) -> Transitions:
    """Rewards of each agent; some steps are the last. `width`: options of each of three choices."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    def observation() -> tuple[torch.Tensor, ...]:
        return (*(normal(N, 3) for _ in range(AGENTS)), normal(N, 2), normal(N, AGENTS))

    discounts = torch.tensor([0.9, 0.0, 0.9, 0.81, 0.0, 0.9, 0.9])
    mask = torch.ones(N, 3 * width, dtype=torch.uint8)
    categories = torch.from_numpy(rng.integers(0, max(1, width), (N, AGENTS if width else 0)))
    reals = torch.from_numpy(rng.uniform(-1, 1, (N, 0 if width else AGENTS * D)).astype(np.float32))
    return Transitions(
        observation(), mask, categories, reals, normal(N, AGENTS), observation(), mask, discounts
    )


# -- the networks again, in NumPy -----------------------------------------------------------------


def weights_of(network: nn.Module) -> Arrays:
    return {k: v.detach().double().numpy() for k, v in network.state_dict().items()}


def mu(weights: Arrays, i: int, seen: np.ndarray) -> np.ndarray:
    hidden = np.tanh(seen @ weights[f"actors.{i}.body.layers.0.weight"].T + weights[f"actors.{i}.body.layers.0.bias"])  # fmt: skip
    return np.tanh(hidden @ weights[f"actors.{i}.head.weight"].T + weights[f"actors.{i}.head.bias"])


def q_of(weights: Arrays, i: int, x: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Critic i, `[n]`, of everything seen and done."""
    inputs = np.concatenate([x, actions], axis=1)
    hidden = np.tanh(inputs @ weights[f"each.{i}.body.layers.0.weight"].T + weights[f"each.{i}.body.layers.0.bias"])  # fmt: skip
    return (hidden @ weights[f"each.{i}.head.weight"].T + weights[f"each.{i}.head.bias"])[:, 0]


def arrays(obs: tuple[torch.Tensor, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """What each agent sees, and what critics see."""
    leaves = [leaf.double().numpy() for leaf in obs]
    return leaves[:AGENTS], np.concatenate(leaves[: AGENTS + 1], axis=1)


def y_by_hand(made: MADDPG) -> np.ndarray:
    """`[n, N]`, one step and one agent at a time."""
    slow_actors = weights_of(made.target_actors.network)
    slow_critics = weights_of(made.target_critics.network)
    s = steps()
    own, x = arrays(s.next_obs)
    y = np.zeros((N, AGENTS))
    for n in range(N):
        row = slice(n, n + 1)
        acts = [mu(slow_actors, j, own[j][row]) for j in range(AGENTS)]
        for i in range(AGENTS):
            behind = q_of(slow_critics, i, x[row], np.concatenate(acts, axis=1))[0]
            y[n, i] = float(s.rewards[n, i]) + float(s.discounts[n]) * behind
    return y


def slopes(function: Any, weights: Arrays) -> Arrays:
    """Central differences of a scalar by every number of the weights."""
    found, step = {}, 1e-6
    for name, numbers in weights.items():
        found[name] = np.zeros_like(numbers)
        for index in np.ndindex(*numbers.shape):
            before, answers = numbers[index], []
            for sign in (1, -1):
                numbers[index] = before + sign * step
                answers.append(function(weights))
            numbers[index] = before
            found[name][index] = (answers[0] - answers[1]) / (2 * step)
    return found


WEIGHTS = np.linspace(0.5, 2.0, N)


def critics_gradient_by_hand(made: MADDPG) -> Arrays:
    y, s = y_by_hand(made), steps()
    _, x = arrays(s.obs)
    done = s.reals.double().numpy()

    def loss(weights: Arrays) -> float:
        return sum(
            float((WEIGHTS * (q_of(weights, i, x, done) - y[:, i]) ** 2).mean())
            for i in range(AGENTS)
        )

    return slopes(loss, weights_of(made.critics))


def actors_gradient_by_hand(made: MADDPG) -> Arrays:
    critics, s = weights_of(made.critics), steps()
    own, x = arrays(s.obs)
    done = s.reals.double().numpy()

    def loss(weights: Arrays) -> float:
        total = 0.0
        for i in range(AGENTS):
            actions = done.copy()
            actions[:, i * D : (i + 1) * D] = mu(weights, i, own[i])
            total -= float(q_of(critics, i, x, actions).mean())
        return total

    return slopes(loss, weights_of(made.network))


# -- against the page -----------------------------------------------------------------------------


def target(made: MADDPG, functions: Any = page) -> torch.Tensor:
    s = steps()
    with torch.no_grad():
        acts = made.target_actors.network.policy(s.next_obs)
        found: torch.Tensor = vars(functions)["maddpg_target"](
            made.target_critics.network, made._central.view(s.next_obs), acts, s
        )
        return found


def gradients(made: MADDPG, monkeypatch: pytest.MonkeyPatch) -> tuple[Arrays, Arrays]:
    """Those of critics and actors, of one gradient step that moves nothing."""
    found: dict[str, Arrays] = {}
    pairs = (("critics", made.critics, made._critics_optimizer), ("actors", made.network, made.optimizer))  # fmt: skip
    for name, network, optimizer in pairs:

        def keep(*_: Any, name: str = name, network: nn.Module = network) -> None:
            found[name] = {
                key: p.grad.double().numpy().copy()
                for key, p in network.named_parameters()
                if p.grad is not None
            }

        monkeypatch.setattr(optimizer, "step", keep)
    made._learn(Drawn(np.zeros(N, np.int64), steps(), torch.from_numpy(WEIGHTS).float(), False))
    return found["critics"], found["actors"]


def close(found: Arrays, expected: Arrays) -> bool:
    assert found.keys() == expected.keys()
    assert max(np.abs(numbers).max() for numbers in expected.values()) > 0.1
    return all(np.allclose(found[key], expected[key], rtol=1e-3, atol=2e-5) for key in expected)


def test_the_target_is_the_papers() -> None:
    made = make()
    np.testing.assert_allclose(target(made), y_by_hand(made), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    critics, actors = gradients(made, monkeypatch)
    assert close(critics, critics_gradient_by_hand(made))
    assert close(actors, actors_gradient_by_hand(made))


BREAKS = {
    "critics": [
        ("steps.rewards + steps.discounts[:, None] * behind", "steps.rewards + 0.9 * behind"),
        ("steps.rewards + steps.discounts[:, None] * behind", "steps.rewards - steps.discounts[:, None] * behind"),
        ("steps.rewards + steps.discounts[:, None] * behind", "steps.rewards.sum(1, keepdim=True) + steps.discounts[:, None] * behind"),
        ("steps.rewards + steps.discounts[:, None] * behind", "steps.rewards.flip(1) + steps.discounts[:, None] * behind"),
        ("heads = self.target_actors.network.policy(steps.next_obs)", "heads = self.network.policy(steps.next_obs)"),
        ("heads = self.target_actors.network.policy(steps.next_obs)", "heads = self.target_actors.network.policy(steps.obs)"),
        ("maddpg_target(self.target_critics.network, next_seen", "maddpg_target(self.critics, next_seen"),
        ("maddpg_target(self.target_critics.network, next_seen", "maddpg_target(self.target_critics.network, seen"),
        ("weights[:, None] * errors.square()", "errors.square()"),
    ],
    "actors": [
        ("-critics.each_its_own(obs, actions)", "critics.each_its_own(obs, actions)"),
        ("torch.where(mine[:, None, :], own, replayed)", "own.expand(len(mine), *own.shape)"),
        ("torch.where(mine[:, None, :], own, replayed)", "torch.where(mine.flip(0)[:, None, :], own, replayed)"),
        ("torch.where(mine[:, None, :], own, replayed)", "torch.where(mine[:, None, :], replayed, own)"),
        ("critics.each_its_own(obs, actions).mean(0)", "critics(obs, replayed + own - own.detach()).mean(0)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("which", "line", "instead"), [(w, *lines) for w, breaks in BREAKS.items() for lines in breaks]
)
def test_a_broken_gradient_shows(
    which: str, line: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(broken(page, line, instead))
    critics, actors = gradients(made, monkeypatch)
    if which == "critics":
        assert not close(critics, critics_gradient_by_hand(made))
    else:
        assert not close(actors, actors_gradient_by_hand(made))


def test_a_shared_reward_is_every_critics() -> None:
    made, s = make(), steps()
    acts, seen = torch.zeros(N, AGENTS * D), made._central.view(s.next_obs)
    shared = s._replace(rewards=s.rewards[:, :1])
    found = page.maddpg_target(made.critics, seen, acts, shared)
    expected = shared.rewards + shared.discounts[:, None] * made.critics(seen, acts)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("action", [REALS, CHOICE], ids=["reals", "choices"])
def test_a_gradient_step_moves_everything_towards_less_loss(action: Any, share: bool) -> None:
    made = make(action=action, share_parameters=share, tau=0.5)
    before = {name: part.state_dict() for name, part in made._networks.items()}
    before = {n: {k: v.clone() for k, v in part.items()} for n, part in before.items()}
    drawn = Drawn(np.zeros(N, np.int64), steps(3 if action is CHOICE else 0), torch.ones(N), True)
    made._learn(drawn)
    for name, part in made._networks.items():
        assert any(not torch.equal(v, before[name][k]) for k, v in part.state_dict().items()), name
    first = made.means.take()["critic_loss"]
    for _ in range(200):
        made._learn(drawn._replace(target_is_due=False))
    made.means.take()
    made._learn(drawn)
    assert made.means.take()["critic_loss"] < 0.7 * first


# -- choices --------------------------------------------------------------------------------------

NVEC = [3, 2]


def test_choices_are_drawn_by_their_odds() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, generator=generator)
    rows = logits.expand(200_000, 5)
    drawn = ops.straight_through(rows, ops.gumbel(rows, generator), 1.0, NVEC)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    expected = torch.cat([torch.softmax(part, 1) for part in logits.split(NVEC, 1)], 1)[0]
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=4e-3)


def soft_by_hand(logits: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
    parts, start = [], 0
    for n in NVEC:
        keys = np.exp((logits + noise)[:, start : start + n] / temperature)
        parts.append(keys / keys.sum(1, keepdims=True))
        start += n
    return np.concatenate(parts, axis=1)


def slope_through(straight_through: Any) -> bool:
    """Whether gradients are those of soft choices, by central differences."""
    rng = np.random.default_rng(0)
    logits, noise, pull = (rng.normal(size=(4, 5)) for _ in range(3))
    given = torch.from_numpy(logits).requires_grad_()
    drawn = straight_through(given, torch.from_numpy(noise), 0.7, NVEC)
    (found,) = torch.autograd.grad((drawn * torch.from_numpy(pull)).sum(), [given])
    weights = {"logits": logits.copy()}
    expected = slopes(
        lambda w: float((soft_by_hand(w["logits"], noise, 0.7) * pull).sum()), weights
    )
    return np.allclose(found, expected["logits"], atol=1e-7)


def test_gradients_go_through_as_if_choices_were_soft() -> None:
    assert slope_through(ops.straight_through)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("soft = torch.softmax(keys / temperature, dim=1)", "soft = torch.softmax(keys, dim=1)"),
        ("soft - soft.detach()", "soft.detach() - soft"),
        ("torch.split(logits + noise, list(nvec)", "torch.split(logits + noise, list(nvec)[::-1]"),
        ("torch.split(logits + noise", "torch.split(logits - noise"),
    ],
)
def test_broken_choices_show(line: str, instead: str) -> None:
    assert not slope_through(broken(ops, line, instead)["straight_through"])


def test_choices_that_were_made_are_one_hot() -> None:
    found = ops.one_hot(torch.tensor([[2, 0], [1, 1]]), NVEC)
    assert found.tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_actors_do_only_what_is_allowed() -> None:
    spaces = group(MultiDiscrete([3, 2]), 2, mask=True)
    made = MADDPG(spaces, MODEL, MADDPGTraining(), seed=0, device=CPU)
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 0, 0, 0, 1]], dtype=torch.uint8).expand(500, -1)
    drawn = made._actions(torch.randn(500, 10), mask)
    assert drawn.sum(1).unique().tolist() == [4.0]
    assert (drawn[mask == 0] == 0).all()
    assert (drawn.sum(0) > 0).tolist() == (mask[0] == 1).tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0.0}, r"training\.temperature: expected a number in \(0, inf\], got 0\.0"),
        ({"logit_decay": -1.0}, r"training\.logit_decay: .*got -1"),
        ({"share_parameters": 1}, r"training\.share_parameters: expected True or False, got 1"),
        ({"exploration_noise": -1.0}, r"training\.exploration_noise"),
        ({"noise_reversion": 2.0}, r"training\.noise_reversion"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MADDPGTraining(**options)


@pytest.mark.parametrize("action", [Dict({"a": CHOICE, "b": REALS}), Box(-np.inf, 1, (2,))])
def test_agents_it_cannot_learn_for_are_refused(action: Any) -> None:
    with pytest.raises(UnsupportedSpaceError, match="MADDPG, agent 'agent_0': expected"):
        MADDPGTraining.supports.check_spaces("MADDPG", group(action))


def test_agents_that_choose_beside_agents_that_give_numbers_are_refused() -> None:
    spaces = group(CHOICE)
    mixed = PolicySpaces(spaces.observation, Dict({"agent_0": CHOICE, "agent_1": REALS}))
    with pytest.raises(UnsupportedSpaceError, match="MADDPG: expected agents that all choose"):
        MADDPGTraining.supports.check_spaces("MADDPG", mixed)
