"""Intrinsic rewards on top of a batch's own, with every plug-in and through the learner."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch
from pages import CPU, MODEL, NAMES, SPACES, some_batch

from policy_server.algorithms.dqn import DQNTraining
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.ppo import PPOTraining
from policy_server.algorithms.td3_options import TD3Training
from policy_server.config import ExplorationConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import CheckpointError, LearnerError
from policy_server.exploration import bonus
from policy_server.exploration.bonus import Bonus
from policy_server.exploration.successions import Successions
from policy_server.learners.learner import Learner
from policy_server.networks import build_network
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState
from sim_clients.protocol.limits import NUMBER_LIMIT, REWARD_LIMIT
from sim_clients.protocol.spaces import Box, Discrete
from tests.broken import broken


class Twos:
    """Every step is worth the number of updates so far, twice."""

    @dataclasses.dataclass(frozen=True)
    class Options:
        """Attributes:
        broken: what it answers is wrong: "shape" or "number".
        """

        broken: str = ""

    def __init__(self, spaces: Any, model: Any, options: Any, *, seed: int, device: Any):
        self.options, self.weights = options, torch.zeros(1)

    def reward(self, steps: Successions) -> torch.Tensor:
        if self.options.broken == "shape":
            return torch.zeros(1)
        if self.options.broken == "number":
            self.weights[:] = torch.nan
        return 2.0 * (1.0 + self.weights).expand(len(steps.rows))

    def learn(self, steps: Successions) -> Steps[dict[str, float]]:
        self.weights += 1
        yield
        return {"twos": float(self.weights)}

    def state(self) -> PolicyState:
        return PolicyState({"weights": self.weights.numpy().copy()}, {})

    def load(self, state: PolicyState) -> None:
        self.weights[:] = torch.from_numpy(state.tensors["weights"])


TWOS = f"{__name__}:Twos"
SHAPED = PreprocessingConfig(reward_scale=0.5, reward_clip=0.3)


def make(name: str, model: ModelConfig = MODEL, **settings: Any) -> Bonus:
    config = ExplorationConfig(name, **settings)
    return Bonus(SPACES, model, config, PreprocessingConfig(), seed=0, device=CPU)


def added_agree(module: Any) -> None:
    """Two batches, with the rewards of `Twos` and all the rest from scratch."""
    config = ExplorationConfig(TWOS, weight=0.7, decay=0.01, gamma=0.9)
    made = module.Bonus(SPACES, MODEL, config, SHAPED, seed=0, device=CPU)
    before: list[float] = []
    returns: list[float] = []
    for i, env_steps in enumerate((0, 30)):
        batch = some_batch(i)
        batch = dataclasses.replace(batch, episodes=100 * i + np.zeros_like(batch.episodes))
        new, metrics = at_once(made.add(batch, env_steps))
        sums = np.zeros(batch.rewards.shape)
        ended = batch.terminated | batch.truncated
        lengths = np.zeros(batch.rewards.shape, int)
        for t, b in np.argwhere(batch.valid):
            goes_on = t > 0 and not ended[t - 1, b]
            sums[t, b] = 2.0 * (i + 1) + (0.9 * sums[t - 1, b] if goes_on else 0.0)
            lengths[t, b] = 1 + (lengths[t - 1, b] if goes_on else 0)
        before += sums[batch.valid].tolist()
        intrinsic = 2.0 * (i + 1) * 0.7 * 0.99**env_steps / np.std(before)
        own = np.clip(batch.rewards * 0.5, -0.3, 0.3)
        expected = np.where(batch.valid, own + intrinsic, np.nan)
        np.testing.assert_allclose(new.rewards, expected, rtol=1e-5)
        assert new.rewards.dtype == np.float32
        # In the order of time, lane after lane.
        returns += (intrinsic * lengths[batch.valid & ended]).tolist()
        assert metrics == pytest.approx(
            {
                "intrinsic_reward_mean": intrinsic,
                "intrinsic_return_mean": np.mean(returns),
                "intrinsic_weight": 0.7 * 0.99**env_steps,
                "intrinsic_deviation": np.std(before),
                "twos": i + 1,
            },
            rel=1e-5,
        )


def test_intrinsic_rewards_are_added_to_shaped_ones() -> None:
    added_agree(bonus)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("p.reward_clip) + intrinsic", "p.reward_clip) - intrinsic"),
        ("shaped(batch.rewards, p.reward_scale, p.reward_clip)", "shaped(batch.rewards, 1.0, p.reward_clip)"),
        ("(1.0 - self._config.decay)", "self._config.decay"),
        ("np.float32(weight / deviation)", "np.float32(weight)"),
        ("self._deviation.add(sums[batch.valid])", "self._deviation.add(sums.reshape(-1))"),
        ("self._deviation.add(sums[batch.valid])", "self._deviation.add(raw[batch.valid])"),
        ("RunningSums(1.0)", "RunningSums(config.gamma)"),
        ("batch.valid & (batch.terminated | batch.truncated) & whole", "(batch.terminated | batch.truncated) & whole"),
        ("intrinsic[batch.valid].mean()", "intrinsic.mean()"),
    ],
)  # fmt: skip
def test_a_broken_line_shows(line: str, instead: str) -> None:
    with pytest.raises((AssertionError, ZeroDivisionError)):
        added_agree(SimpleNamespace(**broken(bonus, line, instead)))


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_elsewhere_bit_for_bit(name: str) -> None:
    one, other = make(name), make(name, options={"features": 64})
    for i in range(2):
        at_once(one.add(some_batch(i), 10 * i))
    state = one.state()
    data = json.loads(json.dumps(state.data, allow_nan=False))
    other.load(PolicyState(state.tensors, data))
    for i in range(2, 4):
        mine, its = (at_once(b.add(some_batch(i), 10 * i)) for b in (one, other))
        np.testing.assert_array_equal(mine[0].rewards, its[0].rewards)
        assert mine[1] == its[1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_must_fit(name: str) -> None:
    state = make(name).state()
    with pytest.raises(CheckpointError):
        make(name, options={"features": 3}).load(state)
    with pytest.raises(CheckpointError, match=f"expected '{name}', whose state is stored, got "):
        make(TWOS).load(state)
    fresh = make(name)
    fresh.load(PolicyState({}, {}))  # a policy that had none so far
    assert not fresh.state().data["bonus"]["returns"]


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_never_read(name: str) -> None:
    batch = some_batch(1)
    new, metrics = at_once(make(name).add(batch, 0))
    assert np.isfinite(new.rewards[batch.valid]).all()
    assert np.isnan(new.rewards[~batch.valid]).all()
    assert np.isfinite(list(metrics.values())).all()
    np.testing.assert_array_equal(some_batch(1).rewards, batch.rewards)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3)])
def test_the_first_rewards_are_no_larger_than_others(name: str, shape: tuple[int, int]) -> None:
    """Batches so small that deviations say nothing yet."""
    torch.manual_seed(0)
    batch = random_batch(build_network(SPACES, MODEL), SPACES, *shape, seed=3, endings=0.0)
    made = make(name)
    for _ in range(3):
        new, _ = at_once(made.add(batch, 0))
        assert (np.abs(new.rewards - batch.rewards) < 20.0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_absurd_numbers_that_are_accepted_stop_nothing(name: str, activation: str) -> None:
    made = make(name, model=ModelConfig(hidden=(8, 8), activation=activation))
    for seed in range(4):
        batch = some_batch(seed)
        if seed == 2:
            batch.obs[0][1, :2] = NUMBER_LIMIT * np.float32([[1, -1, 1], [-1, -1, 0]])
            batch.rewards[1] = REWARD_LIMIT
        new, metrics = at_once(made.add(batch, 0))  # raises LearnerError where a number broke
        assert np.isfinite(new.rewards[batch.valid]).all()
        assert np.isfinite(list(metrics.values())).all()
    for part in vars(made.explorer).values():
        if isinstance(part, FlatAdam):
            assert all(torch.isfinite(one).all() for one in part.changes)


def test_numbers_that_break_are_reported() -> None:
    with pytest.raises(
        LearnerError, match=r"expected a reward for each of 13 steps, got shape \[1\]"
    ):
        at_once(make(TWOS, options={"broken": "shape"}).add(some_batch(0), 0))
    with pytest.raises(LearnerError, match="Twos: expected finite numbers after the update"):
        at_once(make(TWOS, options={"broken": "number"}).add(some_batch(0), 0))


# -- through the learner --------------------------------------------------------------------------

CHOICE = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))
REALS = PolicySpaces(Box(-9, 9, (3,)), Box(-1, 1, (2,)))
PAGES: dict[str, Any] = {
    "PPO": PPOTraining(lr=1e-2, num_epochs=2, minibatch_size=8),
    "TD3": TD3Training(
        steps_per_update=20, learning_starts=20, buffer_size=400, train_batch_size=8,
        random_steps=0, save_replay=True,
    ),
    "DQN": DQNTraining(
        steps_per_update=20, learning_starts=20, buffer_size=400, train_batch_size=8, n_step=3,
        save_replay=True,
    ),
}  # fmt: skip


def spaces_for(page: str) -> PolicySpaces:
    return REALS if page == "TD3" else CHOICE


def learner(page: str, name: str, seed: int = 0, **settings: Any) -> Learner:
    exploration = ExplorationConfig(name, **settings)
    return Learner(
        "blue",
        spaces_for(page),
        page,
        PAGES[page],
        MODEL,
        SHAPED,
        exploration,
        seed=seed,
        device="cpu",
    )


def batch_for(page: str, seed: int) -> Batch:
    spaces = spaces_for(page)
    torch.manual_seed(0)
    batch = random_batch(build_network(spaces, MODEL), spaces, 5, 4, seed)
    np.clip(batch.reals, -0.99, 0.99, out=batch.reals)
    ended = batch.terminated | batch.truncated
    return dataclasses.replace(batch, episodes=1000 * seed + np.cumsum(ended, 0))


@pytest.mark.parametrize("page", PAGES)
def test_an_algorithm_learns_from_the_sum(page: str) -> None:
    made, twin, by_hand = learner(page, "RND"), learner(page, "RND"), learner(page, "none")
    assert twin._bonus is not None
    by_hand.algorithm = twin.algorithm  # which neither scales nor clips
    for i in range(3):
        batch = batch_for(page, i)
        summed, metrics = at_once(twin._bonus.add(batch, 20 * i))
        result = made.update(batch, 20 * i)
        expected = by_hand.update(summed, 20 * i)
        np.testing.assert_array_equal(result.weights, expected.weights)
        assert result.metrics == metrics | expected.metrics
    assert "intrinsic_return_mean" in result.metrics


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_learner_goes_on_bit_for_bit(page: str, name: str) -> None:
    one, other = learner(page, name), learner(page, name, seed=7)
    for i in range(2):
        one.update(batch_for(page, i), 20 * i)
    other.load(one.state())
    for i in range(2, 4):
        mine, its = (each.update(batch_for(page, i), 20 * i) for each in (one, other))
        assert mine.metrics == its.metrics
        np.testing.assert_array_equal(mine.weights, its.weights)


def test_exploration_may_begin_and_end_between_two_runs() -> None:
    plain, exploring = learner("PPO", "none"), learner("PPO", "ICM")
    plain.update(batch_for("PPO", 0), 0)
    exploring.load(plain.state())
    assert exploring.updates == 1
    exploring.update(batch_for("PPO", 1), 20)
    plain.load(exploring.state())
    assert "exploration" not in plain.state().data
    np.testing.assert_array_equal(plain.weights(), exploring.weights())


class Narrow(torch.nn.Module):
    """A network of the user's own that no plug-in could use."""

    def __init__(self, spaces: PolicySpaces, outputs: int):
        super().__init__()
        assert isinstance(spaces.observation, Box)
        self.head = torch.nn.Linear(3, outputs)

    def policy(self, obs: Any) -> torch.Tensor:
        return self.head(obs[0])

    def value(self, obs: Any) -> torch.Tensor:
        return obs[0].sum(1)

    def forward(self, obs: Any) -> Any:
        return self.policy(obs), self.value(obs)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_users_own_is_the_policys_alone(name: str) -> None:
    model = dataclasses.replace(MODEL, custom=f"{__name__}:Narrow")
    made = Learner(
        "blue", CHOICE, "PPO", PAGES["PPO"], model, SHAPED, ExplorationConfig(name),
        seed=0, device="cpu",
    )  # fmt: skip
    assert made.update(batch_for("PPO", 0), 0).metrics["intrinsic_reward_mean"] > 0.0
