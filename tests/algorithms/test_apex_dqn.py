"""What Ape-X adds to DQN, by hand: epsilons of lanes, and priorities of steps as they come in."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server.acting import LaneEpsilons
from policy_server.algorithms import replayed
from policy_server.algorithms.apex_dqn import ApexDQN
from policy_server.algorithms.apex_options import ApexDQNTraining
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.inference import lane_epsilons
from policy_server.inference.choosers import make_chooser
from policy_server.inference.lane_epsilons import van_der_corput
from policy_server.networks import build_network
from policy_server.types import ActionLayout, Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete
from tests.broken import broken

SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))
MODEL = ModelConfig(hidden=(8,))
GAMMA, N_STEP, ALPHA, EPS = 0.9, 3, 0.7, 1e-3


# -- exploration -----------------------------------------------------------------------------------


def mirrored(number: int) -> Fraction:
    """Its binary digits behind the point, in the other order."""
    digits = bin(number)[:1:-1]
    return sum((Fraction(int(d), 2 ** (i + 1)) for i, d in enumerate(digits)), Fraction(0))


def test_lanes_are_spread_evenly_however_many_there_are() -> None:
    found = van_der_corput(np.arange(1000))
    assert found.tolist() == [float(mirrored(i)) for i in range(1000)]
    for n in range(2, 200):
        x = np.sort(found[:n])
        assert np.abs(x - np.arange(n) / n).max() < (2 + np.log2(n)) / n
    wrong = broken(lane_epsilons, "rest >>= 1", "rest = rest >> 2")["van_der_corput"]
    assert wrong(np.arange(1000)).tolist() != found.tolist()


def test_each_lane_acts_with_an_epsilon_of_its_own() -> None:
    chooser = make_chooser(ActionLayout(Discrete(4)), LaneEpsilons())
    x = [0, 0.5, 0.25, 0.75]
    epsilons = [0.4 ** (1 + 7 * one) for one in x]
    n = 40_000
    slots = np.tile(np.arange(4), n)
    values = np.tile(np.array([[0.0, 3.0, 1.0, 2.0]], np.float32), (4 * n, 1))
    uniform = np.random.default_rng(0).random((4 * n, chooser.noise_width))
    choice = chooser.choose(values, None, None, uniform, None, 10**9, slots)
    for lane, epsilon in enumerate(epsilons):
        mine = slots == lane
        other = (choice.categories[mine, 0] != 1).mean()
        assert other == pytest.approx(0.75 * epsilon, abs=4 * np.sqrt(0.75 * epsilon / n))
        best = choice.logp[mine][choice.categories[mine, 0] == 1][0]
        assert np.exp(best) == pytest.approx(1 - 0.75 * epsilon, abs=1e-6)
    greedy = np.ones(4 * n, bool)
    assert (chooser.choose(values, None, None, uniform, greedy, 0, slots).categories == 1).all()


# -- priorities ------------------------------------------------------------------------------------


def made(page: type[Any] = ApexDQN, **options: Any) -> Any:
    """With a target network that is another one."""
    settings: dict[str, Any] = {
        "gamma": GAMMA, "n_step": N_STEP, "prioritized_alpha": ALPHA, "prioritized_eps": EPS,
        "train_batch_size": 7, "steps_per_update": 20, "learning_starts": 200, "buffer_size": 400,
    }  # fmt: skip
    config = ApexDQNTraining(**(settings | options))
    one = page(SPACES, MODEL, config, seed=0, device=torch.device("cpu"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [*one.network.parameters(), *one.target.network.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return one


def played(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return random_batch(build_network(SPACES, MODEL), SPACES, 6, 4, seed)


def errors_by_hand(one: Any, batch: Batch) -> list[float]:
    """|Q(s, a) - n-step return|, by time, lane after lane, from what the batch holds."""
    found = []
    steps, lanes = batch.rewards.shape
    finals = {tuple(where): row for row, where in enumerate(batch.final_index.tolist())}

    def values(network: Any, obs: np.ndarray) -> np.ndarray:
        return network.values((torch.from_numpy(obs[None]),))[0].detach().numpy()

    for t in range(steps):
        for b in range(lanes):
            total, discount, at = 0.0, 1.0, t
            behind = None
            for _ in range(N_STEP):
                total += discount * float(batch.rewards[at, b])
                discount *= GAMMA
                at += 1
                if batch.terminated[at - 1, b]:
                    discount, behind = 0.0, batch.obs[0][t, b]
                    break
                if batch.truncated[at - 1, b]:
                    behind = batch.final_obs[0][finals[at - 1, b]]
                    break
                behind = batch.obs[0][at, b]
                if at == steps:
                    break
            best = values(one.network, behind).argmax()
            y = total + discount * values(one.target.network, behind)[best]
            q = values(one.network, batch.obs[0][t, b])[batch.categories[t, b, 0]]
            found.append(abs(float(q) - float(y)))
    return found


def priorities(one: Any) -> np.ndarray:
    """Of all steps there are, by time, lane after lane; before the exponent."""
    buffer, tree = one.replayed.buffer, one.replayed._draws._tree
    places = np.flatnonzero(buffer.is_step)
    return np.sort(tree[places] ** (1 / ALPHA) - EPS)


def test_new_steps_come_in_with_their_own_errors() -> None:
    one, batch = made(), played()
    metrics = one.update(batch, 0)
    assert "total_loss" not in metrics  # nothing has been drawn yet
    np.testing.assert_allclose(priorities(one), np.sort(errors_by_hand(one, batch)), atol=1e-5)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("self._judge(new, judge)\n", "pass\n"),
        ("places = known[start : start + size]", "places = known[:size]"),
    ],
)
def test_priorities_that_are_wrong_would_be_noticed(line: str, instead: str) -> None:
    one, batch = made(), played()
    one.replayed.__class__ = broken(replayed, line, instead)["Replayed"]
    one.update(batch, 0)
    wanted = np.sort(errors_by_hand(one, batch))
    assert not np.allclose(priorities(one), wanted, atol=1e-3)


def test_without_priorities_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="priorities are what it is about"):
        ApexDQNTraining(prioritized=False)


def test_parts_of_the_replay_buffer_that_are_too_small_are_refused() -> None:
    options = {"steps_per_update": 64, "replay_shards": 3, "learning_starts": 100}
    ApexDQNTraining(**options, buffer_size=2 * 3 * 64)
    with pytest.raises(ConfigError, match=r"each of them must hold two batches at least"):
        ApexDQNTraining(**options, buffer_size=2 * 3 * 64 - 1)
