"""What holds for every algorithm: it goes on elsewhere as if nothing had happened, and says so
where its numbers break."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from group_spaces import of_two
from handmade import random_batch

from policy_server import algorithms
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.trained import TrainedPolicy
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError, LearnerError
from policy_server.networks import build_network
from policy_server.stepwise import at_once
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.limits import NUMBER_LIMIT, REWARD_LIMIT
from sim_clients.protocol.spaces import Box, Discrete

OBSERVATION = Box(-9, 9, (3,))
SPACES = {
    "choice": PolicySpaces(OBSERVATION, Discrete(4)),
    "reals": PolicySpaces(OBSERVATION, Box(-1, 1, (2,))),
}
MODEL = ModelConfig(hidden=(8,))
REPLAY: dict[str, Any] = {
    "train_batch_size": 8, "steps_per_update": 20, "learning_starts": 30, "buffer_size": 400,
    "samples_per_insert": 2.0, "save_replay": True,
}  # fmt: skip
ACTOR_CRITIC = {**REPLAY, "random_steps": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "PG": {}, "A2C": {}, "A3C": {}, "IMPALA": {},
    "PPO": {"minibatch_size": 8, "num_epochs": 2},
    "APPO": {"minibatch_size": 8, "num_epochs": 2, "target_update_frequency": 2},
    "DQN": REPLAY, "Rainbow": {**REPLAY, "num_atoms": 5},
    "ApexDQN": REPLAY,
    "R2D2": {**REPLAY, "sequence_length": 3, "burn_in": 2},
    "DDPG": {**ACTOR_CRITIC, "parameter_noise": 0.1}, "TD3": ACTOR_CRITIC, "SAC": ACTOR_CRITIC,
    "TQC": {**ACTOR_CRITIC, "quantiles": 5},
    "MADDPG": ACTOR_CRITIC, "MAPPO": {"minibatch_size": 8, "num_epochs": 2},
    "QMIX": {**REPLAY, "sequence_length": 3, "burn_in": 2},
    "ES": {"directions": 2}, "ARS": {"directions": 2, "top_directions": 1},
}  # fmt: skip


def spaces(name: str) -> PolicySpaces:
    """Some that the algorithm can act in."""
    supports = algorithms.training_class(name).supports
    some = SPACES["choice" if supports.discrete else "reals"]
    return of_two(some) if supports.groups else some


def seen(name: str, *observations: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Observations `[n, 3]`; of a group both agents have the same."""
    groups = algorithms.training_class(name).supports.groups
    return observations * 2 if groups else observations


def test_all_are_here() -> None:
    assert set(OPTIONS) == set(algorithms.names()), "OPTIONS has a row for every algorithm"


def make(name: str, seed: int, model: ModelConfig = MODEL, **options: Any) -> Any:
    training, page = algorithms.get(name)
    config = training(**(OPTIONS[name] | {"lr": 1e-2} | options))
    return page(spaces(name), model, config, seed=seed, device=torch.device("cpu"))


def updated(page: Any, batch: Batch, env_steps: int) -> dict[str, float]:
    """At once, where a page has only `update_in_steps`, too."""
    if callable(getattr(page, "update", None)):
        return page.update(batch, env_steps)
    return at_once(page.update_in_steps(batch, env_steps))


REMEMBERING = [name for name in OPTIONS if algorithms.training_class(name).supports.recurrent]
MODELS = [(name, MODEL) for name in OPTIONS] + [
    (name, dataclasses.replace(MODEL, memory=memory, memory_size=4, memory_steps=3))
    for name in REMEMBERING
    for memory in ("lstm", "attention")
]


def batches(name: str, n: int, state_size: int = 0) -> list[Batch]:
    torch.manual_seed(0)
    network = build_network(spaces(name), MODEL)
    made = [random_batch(network, spaces(name), 5, 4, seed) for seed in range(n)]
    state = np.zeros((4, state_size), np.float32) if state_size else None
    return in_turn([dataclasses.replace(batch, state=state) for batch in made])


def in_turn(batches: list[Batch]) -> list[Batch]:
    """The same as if their lanes had gone on from each to the next: each episode has the next
    number when it begins."""
    lanes = batches[0].rewards.shape[1]
    number, first_t, following = np.arange(lanes), np.zeros(lanes, np.int64), lanes
    result = []
    for batch in batches:
        episodes = np.empty(batch.rewards.shape, np.int64)
        for t, ended in enumerate(batch.terminated | batch.truncated):
            episodes[t] = number
            number = number.copy()
            number[ended] = following + np.arange(ended.sum())
            following += int(ended.sum())
        result.append(dataclasses.replace(batch, episodes=episodes, first_t=first_t))
        first_t = np.where(ended, 0, result[-1].t[-1] + 1)
    return result


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_three_updates_and_three_elsewhere_are_six(name: str, model: ModelConfig) -> None:
    # Directions in parameter space are the seed's, for those who play as for those who learn.
    one, other = make(name, 0, model), make(name, 0 if name in ("ES", "ARS") else 1, model)
    played = batches(name, 6, one.network.state_size)
    for i, batch in enumerate(played[:3]):
        updated(one, batch, 20 * i)
    if name == "PG":  # what waits for the end of its episode is lost, and the page says so
        waiting, before = one._episodes.waiting, one._episodes.given_up
        one.load(one.state())
        assert one._episodes.given_up == before + waiting > before
    other.load(one.state())
    for i, batch in enumerate(played[3:]):
        mine, its = updated(one, batch, 60 + 20 * i), updated(other, batch, 60 + 20 * i)
        assert mine == its
    for (key, mine), its in zip(
        one.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, its), key


@pytest.mark.parametrize("name", OPTIONS)
def test_updates_change_the_network_that_acts(name: str) -> None:
    made = make(name, 0)
    with torch.no_grad():
        obs = seen(name, torch.randn(5, 3))
        before = heads(made.network, obs).clone()
        for i, batch in enumerate(batches(name, 3, made.network.state_size)):
            with torch.enable_grad():
                metrics = updated(made, batch, 20 * i)
        assert all(isinstance(value, float) for value in metrics.values())
        assert not torch.equal(heads(made.network, obs), before)


def heads(network: Any, obs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What the network says of each observation by itself."""
    if not network.state_size:
        return network.policy(obs)
    return network.step(obs, torch.zeros(len(obs[0]), network.state_size))[0]


def update_often(name: str, made: Any) -> None:
    for i, batch in enumerate(batches(name, 6, made.network.state_size)):
        updated(made, batch, 20 * i)


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_that_break_are_reported(name: str) -> None:
    made = make(name, 0, lr=1e38)
    with pytest.raises(LearnerError, match="expected finite numbers after the update"):
        update_often(name, made)


def optimizers(owner: Any) -> list[FlatAdam]:
    """All of a page, and of what it owns."""
    found = []
    for part in vars(owner).values():
        if isinstance(part, FlatAdam):
            found.append(part)
        elif isinstance(part, TrainedPolicy):
            found.extend(optimizers(part))
    return found


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("name", "model"), [m for m in MODELS if m[0] not in ("ES", "ARS")])
def test_absurd_numbers_that_are_accepted_stop_nothing(
    name: str, model: ModelConfig, activation: str
) -> None:
    """Whatever a simulator sends within the limits ends no update with an error, nor does it leave
    anything infinite behind."""
    made = make(name, 0, dataclasses.replace(model, hidden=(8, 8), activation=activation))
    assert optimizers(made)
    for i, batch in enumerate(batches(name, 6, made.network.state_size)):
        if i in (2, 3, 4):
            for leaf in batch.obs:
                leaf[1:3, :2] = NUMBER_LIMIT
                leaf[1:3, 2:] = -NUMBER_LIMIT
            batch.rewards[1:3, ::2] = REWARD_LIMIT
            batch.rewards[1:3, 1::2] = -REWARD_LIMIT
        updated(made, batch, 20 * i)  # raises LearnerError where a number broke
    for optimizer in optimizers(made):
        for part in optimizer.changes:
            assert torch.isfinite(part).all(), "what is infinite stays so, and moves no more"


@pytest.mark.parametrize("name", OPTIONS)
def test_another_networks_state_is_refused(name: str) -> None:
    training, page = algorithms.get(name)
    config = training(**OPTIONS[name])
    other = page(spaces(name), ModelConfig(hidden=(9,)), config, seed=0, device=torch.device("cpu"))
    words = r"does not fit this one .*: set the model, training"
    with pytest.raises(CheckpointError, match=words) as told:
        make(name, 0).load(other.state())
    assert not set("\n\t") & set(str(told.value))
