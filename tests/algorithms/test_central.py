"""Who sees what: actors their own alone, critics everything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from group_spaces import CHOICE, REALS, group, told_apart, unlike
from handmade import random_batch

from policy_server.algorithms import central as page
from policy_server.algorithms.central import Central
from policy_server.algorithms.maddpg import MADDPG
from policy_server.algorithms.maddpg_options import MADDPGTraining
from policy_server.algorithms.mappo import MAPPO
from policy_server.algorithms.mappo_options import MAPPOTraining
from policy_server.config import ModelConfig
from policy_server.errors import UnsupportedSpaceError
from policy_server.networks import build_network, side_by_side, turns
from policy_server.networks.central import CentralCritics
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Dict
from tests.broken import broken

MODEL = ModelConfig(hidden=(8,))
CPU = torch.device("cpu")
N = 5


def maddpg(spaces: PolicySpaces, **options: Any) -> MADDPG:
    return MADDPG(spaces, MODEL, MADDPGTraining(**options), seed=0, device=CPU)


def mappo(spaces: PolicySpaces, **options: Any) -> MAPPO:
    return MAPPO(spaces, MODEL, MAPPOTraining(**options), seed=0, device=CPU)


def seen(agents: int, leaves: int) -> list[torch.Tensor]:
    """Observations of n: three numbers per agent, then state and rewards."""
    generator = torch.Generator().manual_seed(3)
    widths = [3] * agents + [2, agents][: leaves - agents]
    return [torch.randn(N, width, generator=generator) for width in widths]


MADE = {
    "MADDPG, choices": lambda share: maddpg(group(CHOICE, 3, state=True, rewards=True), share_parameters=share),
    "MADDPG, reals": lambda share: maddpg(group(REALS, 3, state=True, rewards=True), share_parameters=share),
    "MAPPO, choices": lambda share: mappo(group(CHOICE, 3, state=True, rewards=True), share_parameters=share),
    "MAPPO, reals": lambda share: mappo(group(REALS, 3, state=True, rewards=True), share_parameters=share),
}  # fmt: skip


def leaks(network: side_by_side.SideBySide) -> bool:
    """Whether the head of an agent depends on anything but its own observation, or not on that."""
    obs = [leaf.requires_grad_() for leaf in seen(3, 5)]
    for i, head in enumerate(network.heads(obs)):
        slopes = torch.autograd.grad(
            head.square().sum(), obs, allow_unused=True, retain_graph=True, materialize_grads=True
        )
        if any(bool((slope != 0).any()) != (j == i) for j, slope in enumerate(slopes)):
            return True
        for j in range(5):
            other = [leaf + 1.0 if k == j else leaf for k, leaf in enumerate(obs)]
            if torch.equal(network.heads(other)[i], head) != (j != i):
                return True
    return False


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_an_actor_sees_its_own_alone(name: str, share: bool) -> None:
    assert not leaks(MADE[name](share).network)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_critics_see_all_and_the_state_but_no_rewards(name: str, share: bool) -> None:
    made = MADE[name](share)
    obs = [leaf.requires_grad_() for leaf in seen(3, 5)]
    if isinstance(made, MADDPG):
        width = made._mine.shape[1]
        actions = torch.randn(N, width).requires_grad_()
        values = made.critics(made._central.view(obs), actions)
    else:
        actions = torch.zeros(1, requires_grad=True)
        values = made._value(obs) + 0 * actions.sum()
    assert values.shape == (N, 3)
    for i in range(3):
        slopes = torch.autograd.grad(
            values[:, i].sum(), [*obs, actions], retain_graph=True, materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
        assert all((slope != 0).any() for slope in slopes[:4])
        assert (slopes[4] == 0).all()
        if isinstance(made, MADDPG):
            assert (slopes[5] != 0).any(0).all()


def test_a_leak_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    line, instead = "tuple(obs[leaves]) for leaves", "tuple(obs[:1]) for leaves"
    shares = Central(group(CHOICE, 3, state=True, rewards=True)).shares("ONE", False)
    torch.manual_seed(0)
    assert not leaks(side_by_side.SideBySide(shares, MODEL))
    monkeypatch.setattr(side_by_side, "Turns", broken(turns, line, instead)["Turns"])
    assert leaks(side_by_side.SideBySide(shares, MODEL))


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_heads_are_laid_out_as_one_policy_has_them(gaussian: bool, free: bool) -> None:
    """Logits of all, means of all, deviations of all."""
    spaces = group(Dict({"a": CHOICE, "b": REALS}), 2)
    model = ModelConfig(hidden=(8,), free_log_std=free, initial_log_std=-0.7)
    torch.manual_seed(0)
    network = side_by_side.SideBySide(
        Central(spaces).shares("ONE", False), model, gaussian=gaussian
    )
    obs = seen(2, 2)
    one, other = network.heads(obs)
    deviations = gaussian and not free
    assert one.shape[1] == network.widths[0] == 3 + 2 + 2 * deviations
    parts = [(0, 3), (3, 5), (5, 7)][: 3 if deviations else 2]
    expected = [head[:, low:high] for low, high in parts for head in (one, other)]
    torch.testing.assert_close(network.policy(obs), torch.cat(expected, dim=1), rtol=0, atol=0)
    if deviations:
        torch.testing.assert_close(one[:, 5:].mean(), torch.tensor(-0.7), rtol=0, atol=0.1)
    assert (network.log_std is not None) == (gaussian and free)


def test_agents_that_share_a_network_are_told_whose_turn_it_is() -> None:
    shares = Central(group(CHOICE, 2)).shares("ONE", True)
    torch.manual_seed(0)
    network = side_by_side.SideBySide(shares, MODEL, one_for_all=True)
    same = torch.randn(N, 3)
    one, other = network.heads([same, same])
    assert not torch.allclose(one, other)
    own = network.actors[0].policy([same, torch.ones(N, dtype=torch.int64)])
    torch.testing.assert_close(other, own)


def test_agents_that_are_not_alike_cannot_share_one() -> None:
    with pytest.raises(UnsupportedSpaceError, match="share_parameters = true expects agents with"):
        mappo(unlike(), share_parameters=True)
    with pytest.raises(UnsupportedSpaceError, match="MADDPG: training"):
        maddpg(unlike(), share_parameters=True)


@pytest.mark.parametrize("one_for_all", [False, True])
def test_each_critic_judges_its_own_actions(one_for_all: bool) -> None:
    torch.manual_seed(0)
    critics = CentralCritics(3, Central(group(CHOICE, 3)).spaces, MODEL, 9, one_for_all)
    obs, actions = seen(3, 3), torch.randn(3, N, 9)
    found = critics.each_its_own(obs, actions)
    expected = torch.stack([critics(obs, actions[i])[:, i] for i in range(3)], dim=1)
    torch.testing.assert_close(found, expected)
    assert (found[:, 0] != found[:, 1]).all()


# -- rewards told apart ---------------------------------------------------------------------------


def played(spaces: PolicySpaces, lengths: list[int] | None = None) -> Any:
    torch.manual_seed(0)
    some = None if lengths is None else np.array(lengths)
    return random_batch(build_network(spaces, MODEL), spaces, 6, 4, 1, some, endings=0.4)


def each_has_what_the_next_observation_tells(module: Any) -> None:
    spaces = group(CHOICE, 2, rewards=True)
    batch = told_apart(played(spaces, [6, 3, 6, 1]))
    found = module.Central(spaces).rewards(batch)
    finals = {tuple(index): i for i, index in enumerate(batch.final_index.tolist())}
    assert finals
    assert (batch.terminated & batch.valid).any()
    for t, b in np.argwhere(batch.valid):
        row = finals.get((t, b))
        told = batch.obs[-1][t + 1, b] if row is None else batch.final_obs[-1][row]
        np.testing.assert_array_equal(found[t, b], told)


def test_each_agent_has_what_the_next_observation_tells() -> None:
    each_has_what_the_next_observation_tells(page)


def test_a_shared_reward_is_everybodys() -> None:
    spaces = group(CHOICE, 2)
    batch = played(spaces)
    np.testing.assert_array_equal(Central(spaces).rewards(batch)[:, :, 0], batch.rewards)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("batch.obs[place][1:]", "batch.obs[place][:-1]"),
        ("found[t, b] = batch.final_obs[place]", "pass"),
    ],
)
def test_a_broken_line_gives_them_to_others(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        each_has_what_the_next_observation_tells(SimpleNamespace(**broken(page, line, instead)))
