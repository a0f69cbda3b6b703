"""Every algorithm solves every tiny world that it can act in (but see `SHARED`), through the
gateway, and does not where its steps have no size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest

from policy_server import AlgorithmConfig, algorithms
from policy_server.types import PolicySpaces
from sim_clients.space_conversion import as_space
from tests.learning import group_worlds, worlds


class World(NamedTuple):
    """A world, and greedy mean returns to expect there: at least, and at most without learning."""

    name: str
    solved: float
    unlearned: float
    mask: bool = False
    memory: str = "none"


def spaces_of(world: World, groups: bool) -> PolicySpaces:
    """What its only agent sees and does; `groups`: what two of them do."""
    made = group_worlds.Twice(world.name) if groups else getattr(worlds, world.name)()
    return PolicySpaces(as_space(made.observation_space), as_space(made.action_space), world.mask)


WORLDS = {
    world.name: world
    for world in (
        World("Hybrid", 13.0, 6.0),
        World("Amounts", 13.0, 6.0),
        World("Digits", 14.5, 6.0),
        World("Switches", 14.5, 6.0),
        World("Nested", 14.5, 8.0),
        World("Masked", 13.5, 10.5, mask=True),
        World("Picture", 13.5, 6.0),
        World("Shade", 14.0, 11.0),
        World("Echo", 13.5, 8.5, memory="lstm"),
    )
}
GRADIENT = {"gamma": 0.0, "lr": 1e-2, "train_batch_size": 256}
REPLAY = {
    "gamma": 0.0, "lr": 3e-3, "steps_per_update": 128, "samples_per_insert": 8.0, "n_step": 1,
    "learning_starts": 256, "target_update_steps": 128, "buffer_size": 5000,
}  # fmt: skip
ACTOR_CRITIC = {
    **REPLAY, "random_steps": 256, "train_batch_size": 64, "samples_per_insert": 16.0, "tau": 0.1,
}  # fmt: skip
PAIRS = {"directions": 16, "train_batch_size": 512}
OPTIONS: dict[str, dict[str, Any]] = {
    "PG": {**GRADIENT, "normalize_returns": True},
    "A2C": {**GRADIENT, "rollout_fragment_length": 16, "normalize_advantages": True},
    "A3C": {**GRADIENT, "lr": 3e-3, "rollout_fragment_length": 16, "normalize_advantages": True},
    "IMPALA": {**GRADIENT, "rollout_fragment_length": 16},
    "APPO": {
        **GRADIENT, "lr": 3e-3, "rollout_fragment_length": 16, "minibatch_size": 64, "num_epochs": 3,
        "normalize_advantages": True,
    },
    "PPO": {
        **GRADIENT, "lr": 3e-3, "lambda_": 0.0, "minibatch_size": 256, "num_epochs": 4,
        "clip_param": 0.2, "entropy_coeff": 0.01, "use_kl_loss": False,
        "vf_clip_param": None,
    },
    "DQN": {**REPLAY, "epsilon": ((0, 1.0), (4000, 0.05)), "dueling": False},
    "ApexDQN": {**REPLAY, "dueling": False},
    "R2D2": {
        **REPLAY, "train_batch_size": 16, "sequence_length": 8, "burn_in": 4, "lr": 1e-2,
        "rollout_fragment_length": 16, "adam_eps": 1e-6, "epsilon": ((0, 1.0), (1500, 0.05)),
    },
    "SAC": {**ACTOR_CRITIC, "target_choice_entropy": 0.1, "initial_alpha": 0.1},
    "DDPG": {**ACTOR_CRITIC, "target_update_steps": 1},
    "TD3": {**ACTOR_CRITIC, "target_update_steps": 1},
    "TQC": {**ACTOR_CRITIC, "initial_alpha": 0.1},
    "MADDPG": {**ACTOR_CRITIC},
    "MAPPO": {
        **GRADIENT, "lr": 3e-3, "lambda_": 0.0, "minibatch_size": 256, "num_epochs": 4,
    },
    "QMIX": {
        **REPLAY, "train_batch_size": 16, "sequence_length": 8, "rollout_fragment_length": 16,
        "lr": 5e-3, "epsilon": ((0, 1.0), (3000, 0.05)),
    },
    "Rainbow": {**REPLAY, "num_atoms": 11, "v_min": -2.0, "v_max": 2.0, "n_step": 1},
    "ES": {**PAIRS, "lr": 0.04, "noise_stdev": 0.1, "weight_decay": 0.0},
    "ARS": {**PAIRS, "lr": 0.05, "noise_stdev": 0.3, "top_directions": 16},
}  # fmt: skip
UPDATES = {
    "PG": 150, "A2C": 150, "A3C": 150, "PPO": 60, "IMPALA": 150, "APPO": 50, "DQN": 60,
    "Rainbow": 60, "ApexDQN": 40, "R2D2": 18, "DDPG": 25, "TD3": 25, "SAC": 25, "TQC": 25, "MADDPG": 40, "MAPPO": 40, "QMIX": 30, "ES": 60, "ARS": 60,
}  # fmt: skip
LINEAR = {"ES", "ARS"}
"""Search among parameters: the fewer, the better."""
SHARED = {
    "ES": {"Digits", "Switches", "Hybrid", "Picture"},
    "ARS": {"Amounts", "Masked", "Nested"},
    "A3C": {"Nested", "Shade", "Echo"},
    "Rainbow": {"Nested", "Masked"},
    "MADDPG": {"Amounts", "Digits", "Masked"},
    "MAPPO": {"Hybrid", "Nested", "Picture"},
    "QMIX": {"Masked", "Nested", "Picture", "Echo"},
}
"""Two that act in the same way and need many steps share the worlds between them; and two that are
others' pages with other options go to some worlds only."""
CASES = [
    (name, world)
    for name in algorithms.names()
    for world in WORLDS
    if world in SHARED.get(name, WORLDS)
    for supports in (algorithms.training_class(name).supports,)
    if supports.fits(spaces_of(WORLDS[world], supports.groups))
    and (supports.recurrent or WORLDS[world].memory == "none")
]


def environment(name: str, world: World) -> dict[str, Any]:
    """The world; for whoever learns for groups, one for each of two agents."""
    if not algorithms.training_class(name).supports.groups:
        return {"env": f"tests.learning.worlds:{world.name}-v0", "action_mask": world.mask}
    return {
        "env": "tests.learning.group_worlds:Twice-v0", "env_kwargs": {"world": world.name},
        "action_mask": world.mask,
    }  # fmt: skip


def greedy_return(name: str, world: World, device: str = "cpu", **options: Any) -> float:
    """After the algorithm's updates, or as soon as its training episodes, which explore, have the
    mean return that greedy ones are to have."""
    builder = (
        AlgorithmConfig(name)
        .environment(**environment(name, world))
        .simulators(num=1, lanes=16)
        .training(**(OPTIONS[name] | options))
        .server(seed=1)
        # Wider, the best mean is far outside of the bounds: what is clipped there pays 0.7.
        .model(initial_log_std=-1.0, memory=world.memory, memory_size=32)
        .model(**({"hidden": []} if name in LINEAR else {}))
        .learners(threads=1, device=device)
        .inference(device=device)
    )
    with builder.build(in_process=True) as algorithm:
        for _ in range(UPDATES[name]):
            result = algorithm.train()
            if (result["episode_return_mean"] or -math.inf) >= world.solved:
                break
        assert result["accounting"]["balance"] == 0
        mean: float = algorithm.evaluate(32)["episode_return_mean"]
        return mean


def test_every_algorithm_has_its_options() -> None:
    rows = "OPTIONS and UPDATES have a row for every algorithm"
    assert set(OPTIONS) == set(UPDATES) == set(algorithms.names()), rows
    assert {name for name, _ in CASES} == set(algorithms.names())


@pytest.mark.parametrize(("name", "world"), CASES)
def test_it_is_solved(name: str, world: str) -> None:
    assert WORLDS[world].solved <= greedy_return(name, WORLDS[world]) <= worlds.EPISODE_STEPS


def test_ppo_also_remembers_by_attention() -> None:
    assert greedy_return("PPO", WORLDS["Echo"]._replace(memory="attention")) >= 13.5


ALWAYS_REMEMBER = {"R2D2"}


@pytest.mark.parametrize(
    "name", [name for name, world in CASES if world == "Echo" and name not in ALWAYS_REMEMBER]
)
def test_nobody_remembers_without_a_memory(name: str) -> None:
    world = WORLDS["Echo"]._replace(memory="none")
    assert greedy_return(name, world) < world.unlearned


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_not_solved_without_learning(name: str) -> None:
    has_choices = algorithms.training_class(name).supports.discrete
    world = WORLDS["Nested" if has_choices else "Amounts"]
    assert greedy_return(name, world, lr=1e-9) < world.unlearned
