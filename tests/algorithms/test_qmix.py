"""QMIX's parts against loops over single agents, steps and joint actions."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.algorithms import qmix
from policy_server.algorithms.qmix import Mixed, QMIXTraining
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.networks import mixer as mixers
from policy_server.networks.group_q import GroupQNetwork
from policy_server.networks.mixer import MonotonicMixer, SumMixer
from policy_server.replay.sequences import DrawnSequences
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete
from tests.broken import broken

L, K, B = 5, 2, 4
LENGTHS = torch.tensor([5, 1, 3, 5])
TERMINATED = torch.tensor([True, True, False, False])
BURNED = torch.tensor([True, False, True, False])
GAMMA = 0.9
SEEN, STATE = Box(-9, 9, (3,)), Box(-9, 9, (2,))
CHOICES = {"a": 3, "b": 2, "c": 4}
MODELS = {
    "none": ModelConfig(hidden=(8,)),
    "lstm": ModelConfig(hidden=(8,), memory="lstm", memory_size=4),
    "attention": ModelConfig(hidden=(8,), memory="attention", memory_size=4),
}


def spaces(choices: dict[str, int], state: bool = True) -> PolicySpaces:
    agents = {"agents": Dict({name: SEEN for name in choices})}
    whole = Dict({**agents, "state": STATE} if state else agents)
    return PolicySpaces(whole, Dict({name: Discrete(n) for name, n in choices.items()}))


def config(**options: Any) -> QMIXTraining:
    return QMIXTraining(
        sequence_length=L, burn_in=K, gamma=GAMMA, n_step=2, mixer_width=4, **options
    )


def mixed(seed: int, memory: str = "none", state: bool = True, **options: Any) -> Mixed:
    torch.manual_seed(seed)
    made = Mixed(spaces(CHOICES, state), MODELS[memory], config(**options))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def drawn(agents: GroupQNetwork, masked: bool = True, state: bool = True) -> DrawnSequences:
    rng = np.random.default_rng(0)
    width = sum(CHOICES.values())
    mask = rng.integers(0, 2, (K + L + 1, B, width)).astype(np.uint8)
    mask[..., [1, 4, 7]] = 1  # an option of each agent
    leaves = [(3,)] * 3 + [(2,)] * state
    return DrawnSequences(
        tuple(torch.from_numpy(rng.normal(size=(K + L + 1, B, *leaf))).float() for leaf in leaves),
        torch.from_numpy(mask if masked else mask[..., :0]),
        torch.from_numpy(np.stack([rng.integers(0, n, (L, B)) for n in CHOICES.values()], axis=2)),
        torch.from_numpy(3 * rng.normal(size=(L, B))).float(),
        LENGTHS, TERMINATED, BURNED,
        remembered(agents, B),
    )  # fmt: skip


@torch.no_grad()
def remembered(agents: GroupQNetwork, n: int) -> torch.Tensor:
    """States `[n, S]` behind some steps: not every row of numbers is one."""
    obs = [torch.randn(3, n, 3) for _ in agents._turns.leaves]
    return agents.warm_up(obs, torch.zeros(n, agents.state_size))


# -- the mixing network -----------------------------------------------------------------------------


class First(torch.nn.Module):
    """An encoder that keeps all digits."""

    def forward(self, obs: Any) -> torch.Tensor:
        return obs[0].double()


def mixing(module: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = module["MonotonicMixer"](PolicySpaces(STATE, Discrete(2)), ModelConfig(), 3, 8).double()
    made.encoder = First()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def is_monotonic(module: dict[str, Any]) -> bool:
    made = mixing(module)
    utilities = torch.randn(500, 3, dtype=torch.float64, requires_grad=True)
    state = (torch.randn(500, 2),)
    (gradient,) = torch.autograd.grad(made(utilities, state).sum(), utilities)
    with torch.no_grad():
        rises = [
            made(utilities + 1e-6 * one, state) - made(utilities, state) for one in torch.eye(3)
        ]
    finite = torch.stack(rises, dim=1) / 1e-6
    torch.testing.assert_close(finite, gradient, rtol=1e-2, atol=1e-4)
    return bool((gradient >= 0).all())


def test_better_for_an_agent_is_never_worse_for_all() -> None:
    assert is_monotonic(vars(mixers))


@pytest.mark.parametrize("line", ["self.weights(state).abs()", "self.last_weights(state).abs()"])
def test_without_absolute_weights_it_would_be(line: str) -> None:
    assert not is_monotonic(broken(mixers, line, line.removesuffix(".abs()")))


def mixes_as_by_hand(module: dict[str, Any]) -> bool:
    made = mixing(module)
    utilities, state = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2)
    got = made(utilities, (state,)).detach().numpy()
    parts = {name: (layer.weight.detach().numpy(), layer.bias.detach().numpy())
             for name, layer in made.named_modules() if hasattr(layer, "weight")}  # fmt: skip

    def of(name: str, x: np.ndarray) -> np.ndarray:
        return parts[name][0] @ x + parts[name][1]

    expected = []
    for q, s in zip(utilities.numpy(), state.double().numpy(), strict=True):
        hidden = np.abs(of("weights", s)).reshape(3, 8).T @ q + of("biases", s)
        hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
        value = of("value.2", np.maximum(of("value.0", s), 0))[0]
        expected.append(np.abs(of("last_weights", s)) @ hidden + value)
    return bool(np.allclose(got, expected, rtol=1e-9))


def test_it_is_that_of_the_paper() -> None:
    assert mixes_as_by_hand(vars(mixers))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (" + self.biases(state)", ""),
        (" + self.value(state).squeeze(1)", ""),
        ("functional.elu(hidden)", "functional.relu(hidden)"),
        ("self.weights(state).abs().view(n, agents", "self.weights(state).view(n, agents"),
    ],
)
def test_a_mistake_in_the_mixing_would_show(line: str, instead: str) -> None:
    assert not mixes_as_by_hand(broken(mixers, line, instead))


def is_the_sum(module: dict[str, Any]) -> bool:
    utilities = torch.randn(4, 3, dtype=torch.float64)
    return torch.allclose(module["SumMixer"]()(utilities, ()), utilities @ torch.ones(3).double())


def test_vdn_is_the_sum() -> None:
    assert is_the_sum(vars(mixers))
    assert not is_the_sum(broken(mixers, "utilities.sum(1)", "utilities.mean(1)"))
    assert isinstance(mixed(0).mixer, MonotonicMixer)
    assert isinstance(mixed(0, mixer="vdn").mixer, SumMixer)


@torch.no_grad()
def best_for_all(mixers: dict[str, Any], pages: dict[str, Any]) -> bool:
    """Whether each agent's best choice is, among all joint actions that are allowed, by trying them."""
    made = mixed(3)
    some = drawn(made.agents)
    mixer = mixers["MonotonicMixer"](PolicySpaces(STATE, Discrete(2)), MODELS["none"], 3, 4)
    mixer.load_state_dict(made.mixer.state_dict())
    made.mixer = mixer
    values = made.agents.values(some.obs, some.state)
    best = pages["Mixed"].best(made, values, some.mask)
    total = made.together(made.utilities(values, best), some.obs)
    starts = torch.tensor([0, *np.cumsum([*CHOICES.values()])[:-1]])
    for joint in itertools.product(*(range(n) for n in CHOICES.values())):
        actions = torch.tensor(joint).expand_as(best)
        allowed = some.mask.gather(2, actions + starts).bool().all(2)
        other = made.together(made.utilities(values, actions), some.obs)
        if (other[allowed] > total[allowed] + 1e-5).any():
            return False
    return bool(some.mask.gather(2, best + starts).bool().all())


def test_each_agents_best_choice_is_best_for_all() -> None:
    assert best_for_all(vars(mixers), vars(qmix))


@pytest.mark.parametrize("line", ["self.weights(state).abs()", "self.last_weights(state).abs()"])
def test_without_absolute_weights_it_would_not_be(line: str) -> None:
    assert not best_for_all(broken(mixers, line, line.removesuffix(".abs()")), vars(qmix))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("masked(values, mask)", "values"),
        ("masked(values, mask)", "masked(values, 1 - mask)"),
        ("values[..., a:b].argmax(-1)", "values[..., a:b].argmin(-1)"),
    ],
)
def test_nor_with_another_choice(line: str, instead: str) -> None:
    assert not best_for_all(vars(mixers), broken(qmix, line, instead))


# -- the agents -------------------------------------------------------------------------------------


def group(memory: str, alike: bool) -> GroupQNetwork:
    torch.manual_seed(1)
    choices = {"a": 3, "b": 3} if alike else CHOICES
    leaves = [slice(i, i + 1) for i in range(len(choices))]
    own = [PolicySpaces(SEEN, Discrete(n)) for n in choices.values()]
    return GroupQNetwork(own, leaves, MODELS[memory], dueling=False, one_for_all=alike)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("memory", MODELS)
def test_agents_see_nothing_but_their_own(memory: str, alike: bool) -> None:
    made = group(memory, alike)
    agents, width = len(made._turns.leaves), made.values([torch.zeros(1, 1, 3)] * 3, torch.zeros(1, made.state_size)).shape[2]  # fmt: skip
    obs = [torch.randn(4, 2, 3, requires_grad=True) for _ in range(agents)]
    values = made.values(obs, remembered(made, 2))
    assert values.shape == (4, 2, width)
    start = 0
    for i, n in enumerate([3, 3] if alike else CHOICES.values()):
        own = values[..., start : start + n].sum()
        gradients = torch.autograd.grad(own, obs, retain_graph=True, allow_unused=True)
        moved = [g is not None and bool((g != 0).any()) for g in gradients]
        assert moved == [j == i for j in range(agents)]
        start += n


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("memory", MODELS)
def test_sequences_are_steps_one_after_another(memory: str, alike: bool) -> None:
    made = group(memory, alike)
    obs = [torch.randn(6, 3, 3) for _ in made._turns.leaves]
    state = remembered(made, 3)
    with torch.no_grad():
        together = made.values(obs, state)
        after = made.warm_up(obs, state)
        for t in range(6):
            now = [leaf[t] for leaf in obs]
            if memory == "none":
                heads = made.policy(now)
            else:
                heads, state = made.step(now, state)
            torch.testing.assert_close(together[t], heads, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after, state)


def test_one_network_for_all_tells_agents_apart() -> None:
    made, obs = group("none", True), torch.randn(1, 3)
    with torch.no_grad():
        one, other = made.policy([obs, obs]).chunk(2, dim=1)
    assert not torch.allclose(one, other)
    assert len(made.each) == 1
    assert len(group("none", False).each) == 3


# -- the loss ---------------------------------------------------------------------------------------


@torch.no_grad()
def values_by_hand(made: Mixed, some: DrawnSequences) -> np.ndarray:
    found = np.zeros((L + 1, B, sum(CHOICES.values())))
    for b in range(B):
        state = some.state[b : b + 1]
        for row in range(0 if some.burned[b] else K, K + L + 1):
            obs = [leaf[row, b][None] for leaf in some.obs]
            if made.agents.state_size:
                heads, state = made.agents.step(obs, state)
            else:
                heads = made.agents.policy(obs)
            if row >= K:
                found[row - K, b] = heads[0].numpy()
    return found


@torch.no_grad()
def total_by_hand(made: Mixed, q: list[float], obs: list[torch.Tensor]) -> float:
    if isinstance(made.mixer, SumMixer):
        return sum(q)
    seen = obs[3:] or obs[:3]
    return float(made.mixer(torch.tensor([q]).float(), seen))


def loss_by_hand(made: Mixed, slow: Mixed, some: DrawnSequences, weights: np.ndarray, c: QMIXTraining) -> float:  # fmt: skip
    online, target = values_by_hand(made, some), values_by_hand(slow, some)
    starts = np.cumsum([0, *CHOICES.values()])
    behind = np.zeros((L + 1, B))
    total, steps = 0.0, 0
    for b in range(B):
        for t in range(L + 1):
            chooser = (online if c.double else target)[t, b]
            if some.mask.shape[2]:
                chooser = np.where(some.mask[K + t, b].numpy() != 0, chooser, -np.inf)
            best = [
                target[t, b, start + chooser[start:end].argmax()]
                for start, end in itertools.pairwise(starts)
            ]
            behind[t, b] = total_by_hand(slow, best, [leaf[K + t, b][None] for leaf in some.obs])
        length = int(LENGTHS[b])
        for t in range(length):
            y, discount, at = 0.0, 1.0, t
            while at < length and at < t + c.n_step:
                y, discount, at = (
                    y + discount * float(some.rewards[at, b]),
                    discount * GAMMA,
                    at + 1,
                )
            if not (at == length and TERMINATED[b]):
                y += discount * behind[at, b]
            done = [
                online[t, b, s + int(a)]
                for s, a in zip(starts, some.categories[t, b], strict=False)
            ]
            q = total_by_hand(made, done, [leaf[K + t, b][None] for leaf in some.obs])
            total += weights[b] * (q - y) ** 2 / 2
            steps += 1
    return total / steps


def loss_agrees(
    module: dict[str, Any], memory: str = "none", masked: bool = True, state: bool = True, **options: Any
) -> bool:  # fmt: skip
    c, weights = config(**options), np.random.default_rng(2).random(B)
    made, slow = (mixed(seed, memory, state, **options) for seed in (0, 1))
    some = drawn(made.agents, masked, state)
    loss, terms = module["qmix_loss"](made, slow, some, torch.from_numpy(weights).float(), c)
    assert terms["errors"].shape == (L, B)
    return bool(np.isclose(loss.item(), loss_by_hand(made, slow, some, weights, c), rtol=1e-4))


@pytest.mark.parametrize(
    "options",
    [{}, {"memory": "lstm"}, {"memory": "attention"}, {"double": False}, {"masked": False}, {"state": False}, {"mixer": "vdn"}, {"dueling": True}],
)  # fmt: skip
def test_the_loss_is_that_of_a_loop(options: dict[str, Any]) -> None:
    assert loss_agrees(vars(qmix), **options)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("drawn.mask[config.burn_in :])", "1 - drawn.mask[config.burn_in :])"),
        ("q if config.double else behind", "behind if config.double else q"),
        ("torch.where(valid, done - y, 0.0)", "done - y"),
        ("target.together(target.utilities", "online.together(target.utilities"),
        ("sequence_values(target.agents", "sequence_values(online.agents"),
        (
            "leaf[config.burn_in :] for leaf in drawn.obs",
            "leaf[: len(leaf) - config.burn_in] for leaf in drawn.obs",
        ),
        ("leaf[:-1] for leaf in obs", "leaf[1:] for leaf in obs"),
    ],
)
def test_a_mistake_in_the_loss_would_show(line: str, instead: str) -> None:
    module: ModuleType = qmix
    assert not loss_agrees(broken(module, line, instead))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"burn_in.*sequence_length"):
        QMIXTraining(burn_in=21, sequence_length=20)
    with pytest.raises(ConfigError, match=r"mixer.*qmix"):
        QMIXTraining(mixer="sum")
