"""The arena through PettingZoo and Gymnasium: their own checks, and ours against the rules."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test, parallel_seed_test

from arena_sim import solo
from arena_sim.parallel import ArenaParallelEnv
from arena_sim.rules import AGENTS, Arena

ENV_ID = "arena_sim.solo:ArenaSolo-v0"


def test_pettingzoo_api(capsys):
    parallel_api_test(ArenaParallelEnv(), num_cycles=250)
    parallel_api_test(ArenaParallelEnv(8, 8, max_steps=7), num_cycles=50)


def test_pettingzoo_seeds():
    parallel_seed_test(ArenaParallelEnv, num_cycles=250)


def test_the_parallel_environment_is_the_reference():
    env, arena = ArenaParallelEnv(5, 4, max_steps=60), Arena(5, 4, max_steps=60)
    rng = np.random.default_rng(3)
    obs, infos = env.reset(seed=1)
    arena.reset()
    assert infos == {"agent1": {}, "agent2": {}}
    for t in range(60):
        assert {a: tuple(o) for a, o in obs.items()} == arena.observations()
        actions = dict(zip(AGENTS, rng.integers(4, size=2), strict=True))
        obs, rewards, terminations, truncations, infos = env.step(actions)
        assert rewards == arena.step(int(actions["agent1"]), int(actions["agent2"]))[0]
        assert terminations == {"agent1": False, "agent2": False}
        assert truncations == dict.fromkeys(AGENTS, t == 59)
        assert (env.agents == []) == (t == 59)
    final = {"new_fields": arena.new_fields, "collisions": arena.collisions}
    assert infos == {"agent1": final, "agent2": final}
    assert arena.collisions > 0


def test_the_parallel_spaces():
    env = ArenaParallelEnv(8, 6)
    assert env.observation_space("agent1") == gymnasium.spaces.MultiDiscrete([48, 48])
    assert env.action_space("agent2") == gymnasium.spaces.Discrete(4)
    obs, _ = env.reset()
    for agent in AGENTS:
        assert env.observation_space(agent).contains(obs[agent])


def test_the_parallel_environment_refuses_what_cannot_be():
    env = ArenaParallelEnv(max_steps=1)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step({"agent1": 0, "agent2": 0})
    env.reset()
    with pytest.raises(ValueError, match=r"expected actions of agent1, agent2, got \['agent1'\]"):
        env.step({"agent1": 0})
    env.step({"agent1": 0, "agent2": 0})
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step({"agent1": 0, "agent2": 0})
    with pytest.raises(ValueError, match="render_mode"):
        ArenaParallelEnv(render_mode="human")


def test_parallel_rendering():
    for mode, kind in (("ansi", str), ("rgb_array", np.ndarray), (None, type(None))):
        env = ArenaParallelEnv(3, 3, render_mode=mode)
        env.reset()
        assert isinstance(env.render(), kind)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("opponent", ["random", "boustrophedon", "chaser"])
def test_gymnasium_api(agent, opponent):
    env = gymnasium.make(ENV_ID, agent=agent, opponent=opponent, max_steps=20)
    check_env(env.unwrapped)


def test_registering_twice_is_once():
    before = gymnasium.registry["ArenaSolo-v0"]
    solo.register()
    assert gymnasium.registry["ArenaSolo-v0"] is before


@pytest.mark.parametrize("agent", AGENTS)
def test_the_learner_plays_its_own_side(agent):
    env = gymnasium.make(ENV_ID, agent=agent, opponent="chaser", width=6, height=5, max_steps=40)
    arena = Arena(6, 5, 40)
    other = "agent2" if agent == "agent1" else "agent1"
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(4)
    for t in range(40):
        assert tuple(obs) == arena.observations()[agent]
        own, others = arena.observations()[other]
        (row, column), (row_of_prey, column_of_prey) = divmod(own, 6), divmod(others, 6)
        if row != row_of_prey:
            chase = 2 if row_of_prey > row else 0
        else:
            chase = 1 if column_of_prey > column else 3
        action = int(rng.integers(4))
        obs, reward, terminated, truncated, info = env.step(action)
        actions = (action, chase) if agent == "agent1" else (chase, action)
        assert reward == arena.step(*actions)[0][agent]
        assert (terminated, truncated) == (False, t == 39)
    assert info == {"new_fields": arena.new_fields, "collisions": arena.collisions}
    assert arena.collisions > 0


def test_a_seed_repeats_the_random_opponent():
    def play(seed):
        env = gymnasium.make(ENV_ID, agent="agent1", opponent="random")
        env.reset(seed=seed)
        return [env.step(0)[0].tolist() for _ in range(30)]

    assert play(1) == play(1)
    assert play(1) != play(2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"agent": "agent3"}, "among agent1, agent2, got 'agent3'"),
        ({"opponent": "randm"}, r"Did you mean 'random'\?"),
        ({"render_mode": "human"}, "render_mode among ansi, rgb_array"),
        ({"width": 1, "height": 1}, "room for two agents"),
    ],
)
def test_the_solo_environment_refuses_what_cannot_be(kwargs, message):
    with pytest.raises(ValueError, match=message):
        solo.ArenaSoloEnv(**kwargs)
