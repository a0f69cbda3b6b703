"""R2D2's parts against hand-made loops."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.algorithms import r2d2, sequences
from policy_server.algorithms.ops import rescaling, sequence_returns
from policy_server.algorithms.r2d2 import R2D2Training, sequence_priorities
from policy_server.algorithms.sequences import sequence_values
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.networks.recurrent_q import RecurrentQNetwork
from policy_server.replay.sequences import DrawnSequences
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete
from tests.broken import broken

L, K, N, W = 6, 3, 5, 4
LENGTHS = torch.tensor([6, 1, 4, 6, 2])
TERMINATED = torch.tensor([True, True, False, False, True])
BURNED = torch.tensor([True, False, True, False, False])
GAMMA = 0.9
SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(W))


def test_rescaling_is_undone_to_the_last_digit() -> None:
    x = torch.tensor([0.0, 1e-9, -1e-4, 0.3, -1.0, 7.0, 1e3, -1e6], dtype=torch.float64)
    y = rescaling.rescaled(x)
    root = np.sqrt(np.abs(x.numpy()) + 1) - 1
    np.testing.assert_allclose(y.numpy(), np.sign(x.numpy()) * root + 1e-3 * x.numpy(), rtol=1e-12)
    torch.testing.assert_close(rescaling.unscaled(y), x, rtol=1e-10, atol=1e-15)
    assert rescaling.unscaled(y).dtype == torch.float64


def returns_by_hand(rewards: np.ndarray, values: np.ndarray, n_step: int) -> np.ndarray:
    found = np.zeros((L, N))
    for b in range(N):
        length = int(LENGTHS[b])
        for t in range(length):
            total, discount, at = 0.0, 1.0, t
            while at < length and at < t + n_step:
                total += discount * rewards[at, b]
                discount *= GAMMA
                at += 1
            if not (at == length and TERMINATED[b]):
                total += discount * values[at, b]
            found[t, b] = total
    return found


def returns_agree(module: dict[str, Any], n_step: int) -> bool:
    rng = np.random.default_rng(n_step)
    rewards, values = rng.normal(size=(L, N)), rng.normal(size=(L + 1, N))
    got = module["sequence_returns"](
        torch.from_numpy(rewards), torch.from_numpy(values), LENGTHS, TERMINATED,
        gamma=GAMMA, n_step=n_step,
    )  # fmt: skip
    return bool(np.allclose(got.numpy(), returns_by_hand(rewards, values, n_step), atol=1e-12))


@pytest.mark.parametrize("n_step", [1, 2, 5, 6, 9])
def test_returns_are_those_of_a_loop(n_step: int) -> None:
    assert returns_agree(vars(sequence_returns), n_step)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("max=n_step)  #", "max=n_step + 1)  #"),
        ("bootstraps = ~(terminated", "bootstraps = (terminated"),
        ("inside = (at < lengths)", "inside = (at <= lengths)"),
        ("gamma**k * ", ""),
        ("* gamma**left", "* gamma"),
    ],
)
def test_a_mistake_in_the_returns_would_show(line: str, instead: str) -> None:
    assert not returns_agree(broken(sequence_returns, line, instead), 2)


def network(seed: int) -> RecurrentQNetwork:
    torch.manual_seed(seed)
    made = RecurrentQNetwork(SPACES, ModelConfig(hidden=(8,), memory_size=4), dueling=True)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def drawn(masked: bool = True) -> DrawnSequences:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (K + L + 1, N, W)).astype(np.uint8)
    mask[..., 1] = 1
    return DrawnSequences(
        (torch.from_numpy(rng.normal(size=(K + L + 1, N, 3))).float(),),
        torch.from_numpy(mask if masked else mask[..., :0]),
        torch.from_numpy(rng.integers(0, W, (L, N, 1))),
        torch.from_numpy(3 * rng.normal(size=(L, N))).float(),
        LENGTHS, TERMINATED, BURNED,
        torch.from_numpy(rng.normal(size=(N, 8))).float(),
    )  # fmt: skip


@torch.no_grad()
def values_by_hand(made: RecurrentQNetwork, some: DrawnSequences) -> np.ndarray:
    """One sequence and one step at a time."""
    found = np.zeros((L + 1, N, W))
    for b in range(N):
        state = some.state[b : b + 1]
        for row in range(0 if some.burned[b] else K, K + L + 1):
            value, state = made.step((some.obs[0][row, b][None],), state)
            if row >= K:
                found[row - K, b] = value[0].numpy()
    return found


def values_agree(module: dict[str, Any]) -> bool:
    made, some = network(0), drawn()
    got = module["sequence_values"](made, some, K).detach().numpy()
    return bool(np.allclose(got, values_by_hand(made, some), atol=1e-5))


def test_values_come_from_the_stored_state_through_the_burn_in() -> None:
    assert values_agree(vars(sequences))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("torch.where(drawn.burned[:, None], warm, state)", "warm"),
        ("[leaf[:burn_in] for leaf", "[leaf[1 : burn_in + 1] for leaf"),
    ],
)
def test_a_mistake_in_the_burn_in_would_show(line: str, instead: str) -> None:
    assert not values_agree(broken(sequences, line, instead))


def test_no_gradient_goes_back_into_the_burn_in() -> None:
    made, some = network(0), drawn()
    some.obs[0].requires_grad_()
    sequence_values(made, some, K)[1].sum().backward()  # of the second step behind it
    assert some.obs[0].grad is not None
    touched = (some.obs[0].grad != 0).any(2).any(1).tolist()
    assert touched == [False] * K + [True, True] + [False] * (L - 1)


def loss_by_hand(config: R2D2Training, some: DrawnSequences, weights: np.ndarray) -> float:
    online, target = values_by_hand(network(0), some), values_by_hand(network(1), some)
    chooser = online if config.double else target
    if some.mask.shape[2]:
        chooser = np.where(some.mask[K:].numpy() != 0, chooser, -np.inf)
    best = np.take_along_axis(target, chooser.argmax(2)[..., None], 2)[..., 0]

    def h(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x

    def inverse(y: np.ndarray) -> np.ndarray:
        inner = np.sqrt(1 + 4e-3 * (np.abs(y) + 1 + 1e-3)) - 1
        return np.sign(y) * ((inner / 2e-3) ** 2 - 1)

    if config.rescale:
        best = inverse(best)
    y = returns_by_hand(some.rewards.numpy(), best, config.n_step)
    y = h(y) if config.rescale else y
    total, steps = 0.0, 0
    for b in range(N):
        for t in range(int(LENGTHS[b])):
            total += weights[b] * (online[t, b, int(some.categories[t, b, 0])] - y[t, b]) ** 2 / 2
            steps += 1
    return total / steps


def loss_agrees(module: dict[str, Any], masked: bool = True, **options: Any) -> bool:
    config = R2D2Training(sequence_length=L, burn_in=K, gamma=GAMMA, n_step=3, **options)
    some, weights = drawn(masked), np.random.default_rng(2).random(N)
    loss, terms = module["r2d2_loss"](
        network(0), network(1), some, torch.from_numpy(weights).float(), config
    )
    assert terms["errors"].shape == (L, N)
    return bool(np.isclose(loss.item(), loss_by_hand(config, some, weights), rtol=1e-4))


@pytest.mark.parametrize("options", [{}, {"double": False}, {"rescale": False}, {"masked": False}])
def test_the_loss_is_that_of_a_loop(options: dict[str, Any]) -> None:
    assert loss_agrees(vars(r2d2), **options)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("drawn.mask[config.burn_in :])", "1 - drawn.mask[config.burn_in :])"),
        ("masked(q if config.double", "masked(q if not config.double"),
        ("drawn.rewards, h_inverse(best)", "drawn.rewards, best"),
        ("torch.where(valid, done - y, 0.0)", "done - y"),
        ("sequence_values(target, drawn", "sequence_values(online, drawn"),
    ],
)
def test_a_mistake_in_the_loss_would_show(line: str, instead: str) -> None:
    module: ModuleType = r2d2
    assert not loss_agrees(broken(module, line, instead))


def test_priorities_are_between_the_largest_and_the_mean_error() -> None:
    errors = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    got = sequence_priorities(errors, torch.tensor([2, 1]), 0.75)
    torch.testing.assert_close(got, torch.tensor([0.75 * 3 + 0.25 * 2, 4.0]))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"burn_in.*sequence_length"):
        R2D2Training(burn_in=21, sequence_length=20)
