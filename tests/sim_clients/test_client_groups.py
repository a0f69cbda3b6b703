"""Agents of a parallel environment as one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import toy_environments as toys
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from examples.two_step_game import TwoStepGame
from sim_clients.errors import InvalidStep
from sim_clients.groups import GroupEnv
from sim_clients.protocol.spaces import from_wire, leaves, mask_width
from sim_clients.space_conversion import as_space

ALL = {"a": 0, "b": 1, "c": 0}


class Masked(toys.Crowd):
    """Says in `info` what may be done: who is there may do what its name's place says."""

    def _infos(self, agents):
        bit = self.possible_agents.index
        return {a: {"action_mask": np.array([1, bit(a) % 2], np.int8)} for a in agents}

    def reset(self, seed=None, options=None):
        obs, _ = super().reset(seed, options)
        return obs, self._infos(obs)

    def step(self, actions):
        *rest, _ = super().step(actions)
        return *rest, self._infos(actions)


class Board(toys.Crowd):
    """The mask lies beside the observation, which is counted from 1; and there is a state."""

    state_space = spaces.Box(0, 9, (1,), np.float32)

    def observation_space(self, agent):
        mask = spaces.Box(0, 1, (2,), np.int8)
        return spaces.Dict({"observation": spaces.Discrete(9, start=1), "action_mask": mask})

    def _own(self, agents):
        return {a: {"observation": 1 + self.t, "action_mask": np.array([0, 1])} for a in agents}

    def reset(self, seed=None, options=None):
        obs, infos = super().reset(seed, options)
        return self._own(obs), infos

    def step(self, actions):
        obs, *rest = super().step(actions)
        return self._own(obs), *rest

    def state(self):
        return np.full(1, self.t, np.float32)


def seen(obs) -> list[float]:
    return [float(np.ravel(own)[0]) for own in obs["agents"].values()]


@pytest.mark.parametrize("truncate", [False, True])
def test_it_goes_on_until_the_last_has_left(truncate: bool) -> None:
    env = GroupEnv(toys.Crowd(truncate), rewards="each")
    for episode in range(2):
        obs, info = env.reset(seed=episode)
        assert (seen(obs), info) == ([0, 0, 0], {})
        told = [obs["rewards"].tolist()]
        for t, (rewards, there) in enumerate(
            [([1, 10, 100], [1, 1, 1]), ([1, 10, 100], [2, 2, 2]), ([0, 10, 100], [0, 3, 3]), ([0, 0, 100], [0, 0, 4])]
        ):  # fmt: skip
            obs, reward, terminated, truncated, _ = env.step(ALL)
            assert (seen(obs), reward, obs["rewards"].tolist()) == (there, sum(rewards), rewards)
            assert (terminated, truncated) == (t == 3 and not truncate, t == 3 and truncate)
        # The next episode's first observation tells what the last step brought.
        assert told == [[0, 0, 0] if episode == 0 else [0, 0, 100]]
    assert env.env.seeds == [0, 1]


@pytest.mark.parametrize(
    ("ends", "cuts", "expected"),
    [
        ("abc", "", (True, False)),
        ("", "abc", (False, True)),
        ("ab", "c", (False, True)),
        ("abc", "abc", (True, False)),  # in the last step that there was time for
        ("abc", "c", (True, False)),
        ("ab", "abc", (False, True)),
    ],
)
def test_it_is_truncated_only_where_somebody_would_have_gone_on(
    ends: str, cuts: str, expected: tuple[bool, bool]
) -> None:
    class Last(toys.Crowd):
        def step(self, actions):
            obs, rewards, _, _, infos = super().step(actions)
            self.agents = []
            told = [{a: a in which for a in actions} for which in (ends, cuts)]
            return obs, rewards, *told, infos

    env = GroupEnv(Last())
    env.reset()
    assert env.step(ALL)[2:4] == expected


def test_masks_lie_one_after_the_other_and_who_has_left_may_do_anything() -> None:
    env = GroupEnv(Masked())
    _, info = env.reset()
    assert info["action_mask"].tolist() == [1, 0, 1, 1, 1, 0]
    for expected in ([1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1] * 6):
        assert env.step(ALL)[4]["action_mask"].tolist() == expected


def test_masks_that_stop_at_an_episodes_end_are_free_there() -> None:
    class Silent(Masked):
        def step(self, actions):
            *rest, infos = super().step(actions)
            return *rest, {name: infos[name] for name in self.agents}

    env = GroupEnv(Silent())
    env.reset()
    for expected in ([1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1] * 6):
        assert env.step(ALL)[4]["action_mask"].tolist() == expected


def test_without_masks_there_is_none() -> None:
    env = GroupEnv(toys.Crowd())
    assert "action_mask" not in env.reset()[1]
    assert "action_mask" not in env.step(ALL)[4]


def test_a_mask_beside_the_observation_and_a_state() -> None:
    env = GroupEnv(Board(), state=True)
    obs, info = env.reset()
    assert (seen(obs), obs["state"].tolist()) == ([1, 1, 1], [0])
    assert info["action_mask"].tolist() == [0, 1] * 3
    for _ in range(3):
        obs, *_, info = env.step(ALL)
    # Zero is no option there.
    assert (seen(obs), obs["state"].tolist()) == ([1, 4, 4], [3])
    assert info["action_mask"].tolist() == [1, 1, 1, 1, 0, 1]
    space = as_space(env.observation_space)
    assert list(space.spaces) == ["agents", "state"]


def test_rewards_and_masks_are_in_the_order_of_the_spaces() -> None:
    class Shuffled(Masked):
        possible_agents = ["c", "a", "b"]  # noqa: RUF012

    env = GroupEnv(Shuffled(), rewards="each")
    assert list(env.observation_space["agents"]) == list(env.action_space) == ["a", "b", "c"]
    _, info = env.reset()
    assert info["action_mask"].tolist() == [1, 1, 1, 0, 1, 0]
    assert env.step(ALL)[0]["rewards"].tolist() == [10, 100, 1]


def test_the_document_shows_a_group_on_the_wire() -> None:
    page = (Path(__file__).parents[2] / "docs" / "GROUPS.md").read_text(encoding="utf-8")
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    env = GroupEnv(TwoStepGame(), state=True)
    assert [from_wire(one) for one in shown] == [
        as_space(env.observation_space), as_space(env.action_space),
    ]  # fmt: skip
    seen, done = (leaves(from_wire(one)) for one in shown)
    assert [path for path, _ in seen] == [".agents.agent_1", ".agents.agent_2", ".state"]
    assert [path for path, _ in done] == [".agent_1", ".agent_2"]
    assert mask_width(from_wire(shown[1])) == 4


@pytest.mark.filterwarnings("ignore:.*A Box observation space")  # rewards have no limits
def test_it_is_a_gymnasium_environment() -> None:
    check_env(GroupEnv(Board(), state=True, rewards="each"), skip_render_check=True)


def test_what_it_does_not_take() -> None:
    with pytest.raises(ValueError, match="rewards: expected one of sum, each, got 'mean'"):
        GroupEnv(toys.Crowd(), rewards="mean")
    with pytest.raises(ValueError, match="state_space"):
        GroupEnv(toys.Crowd(), state=True)
    with pytest.raises(ValueError, match="take turns"):
        GroupEnv(toys.Turns())
    env = GroupEnv(toys.Crowd())
    env._names.remove("b")  # as if nobody had named it
    with pytest.raises(InvalidStep, match=r"possible_agents, got \['b'\]"):
        env.reset()
