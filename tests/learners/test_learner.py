"""The learner: an algorithm by name, its updates counted, its weights as a snapshot."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server import algorithms
from policy_server.algorithms.ppo import PPO, PPOTraining
from policy_server.config import ModelConfig, PreprocessingConfig
from policy_server.errors import CheckpointError, ConfigError, LearnerError
from policy_server.learners.learner import Learner, pick_device, pick_threads
from policy_server.networks import build_network, flatten_parameters, load_flat
from policy_server.types import Batch, PolicySpaces, PolicyState
from sim_clients.protocol.spaces import Box, Discrete

SPACES = PolicySpaces(Box(-1, 1, (3,)), Discrete(3))
MODEL = ModelConfig(hidden=(8,))
TRAINING = PPOTraining(lr=1e-2, num_epochs=2, minibatch_size=16)


def make(seed: int = 0, preprocessing: PreprocessingConfig = PreprocessingConfig()) -> Learner:  # noqa: B008
    return Learner("blue", SPACES, "PPO", TRAINING, MODEL, preprocessing, seed=seed, device="cpu")


def batch(learner: Learner, seed: int) -> Batch:
    return random_batch(learner.algorithm.network, SPACES, 6, 4, seed, np.array([6, 2, 5, 6]))


def test_an_update_gives_weights_that_the_network_has() -> None:
    learner = make()
    first = learner.weights()
    result = learner.update(batch(learner, 0), 0)
    assert (result.policy, result.updates, result.steps) == ("blue", 1, 19)
    assert np.isfinite(list(result.metrics.values())).all()
    assert not result.weights.flags.writeable
    assert result.weights.dtype == np.float32
    assert (result.weights != first).any()
    elsewhere = build_network(SPACES, MODEL)
    load_flat(elsewhere, result.weights)
    obs = (torch.randn(4, 3),)
    assert torch.equal(elsewhere.policy(obs), learner.algorithm.network.policy(obs))
    kept = result.weights.copy()
    learner.update(batch(learner, 1), 19)
    np.testing.assert_array_equal(result.weights, kept)


def test_lent_weights_are_the_same_until_the_next_update() -> None:
    one, two = make(), make()
    kept, lent = one.update(batch(one, 0), 0), two.update(batch(two, 0), 0, lend=True)
    np.testing.assert_array_equal(lent.weights, kept.weights)
    two.update(batch(two, 1), 19)
    assert (lent.weights != kept.weights).any()


def test_goes_on_from_its_state_bit_for_bit() -> None:
    whole = make()
    batches = [batch(whole, seed) for seed in range(5)]
    results = [whole.update(b, i) for i, b in enumerate(batches)]
    first = make()
    for i, b in enumerate(batches[:2]):
        first.update(b, i)
    second = make(seed=7)
    second.load(first.state())
    for i, b in enumerate(batches[2:], start=2):
        result = second.update(b, i)
        assert result.updates == results[i].updates
        assert result.metrics == results[i].metrics
        np.testing.assert_array_equal(result.weights, results[i].weights)


def test_state_is_arrays_and_plain_data() -> None:
    import json

    state = make().state()
    assert all(isinstance(array, np.ndarray) for array in state.tensors.values())
    assert json.loads(json.dumps(state.data)) == state.data


def test_state_of_another_algorithm_is_refused() -> None:
    learner = make()
    state = learner.state()
    with pytest.raises(
        CheckpointError, match="'blue': expected the state of 'PPO', got that of 'DQN'"
    ):
        learner.load(dataclasses.replace(state, data={**state.data, "algorithm": "DQN"}))


def test_state_of_another_network_is_refused_by_the_name_of_its_policy() -> None:
    other = Learner(
        "red", SPACES, "PPO", TRAINING, ModelConfig(hidden=(9,)), PreprocessingConfig(),
        seed=0, device="cpu",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"^Policy 'blue': The stored network does not fit"):
        make().load(other.state())


def test_rewards_are_preprocessed_here() -> None:
    plain, scaled = (
        make(),
        make(preprocessing=PreprocessingConfig(reward_scale=0.1, reward_clip=0.05)),
    )
    b = batch(plain, 0)
    by_hand = dataclasses.replace(b, rewards=np.clip(b.rewards * np.float32(0.1), -0.05, 0.05))
    expected = plain.update(by_hand, 0).weights
    np.testing.assert_array_equal(scaled.update(b, 0).weights, expected)


def test_training_of_another_algorithm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected a PPOTraining for algorithm 'PPO', got a dict"):
        Learner("blue", SPACES, "PPO", {}, MODEL, PreprocessingConfig(), seed=0)
    with pytest.raises(ConfigError, match="Did you mean 'PPO'"):
        Learner("blue", SPACES, "PPOO", TRAINING, MODEL, PreprocessingConfig(), seed=0)


def test_an_algorithm_of_ones_own_needs_no_more_than_the_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Free(algorithms.Training):
        train_batch_size: int = 64

    class Nothing:
        @staticmethod
        def make_network(spaces, model, training):
            return build_network(spaces, model)

        def __init__(self, spaces, model, config, *, seed, device, reward_scale, reward_clip):
            self.network = self.make_network(spaces, model, config).to(device)

        def update(self, batch, env_steps):
            return {"env_steps": float(env_steps)}

        def state(self):
            return PolicyState({}, {})

        def load(self, state):
            pass

    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))
    algorithms.register("Nothing", Free, Nothing)
    learner = Learner("red", SPACES, "Nothing", Free(), MODEL, PreprocessingConfig(), seed=0)
    result = learner.update(batch(learner, 0), 12)
    assert result.metrics == {"env_steps": 12.0}
    np.testing.assert_array_equal(result.weights, flatten_parameters(learner.algorithm.network))


def test_threads_and_device() -> None:
    big, cores = 10_000_000, os.cpu_count() or 1
    assert pick_threads(3, 10, False) == pick_threads(3, big, True) == 3
    assert pick_threads(0, 10, True) == 1
    assert pick_threads(0, big, True) == cores
    assert pick_threads(0, big, False) == max(1, cores - 2)
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="got 'gpu'"):
        pick_device("gpu")
    with pytest.raises(ConfigError, match="GPUs of this machine, got 'cuda:99'"):
        pick_device("cuda:99")
    make()
    assert torch.get_num_threads() == 1


def test_an_algorithm_that_changes_update_alone_is_asked_for_that() -> None:
    class Mine(PPO):
        def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
            return {**super().update(batch, env_steps), "mine": 1.0}

    learner = make()
    learner.algorithm.__class__ = Mine
    assert learner.update(batch(learner, 0), 0).metrics["mine"] == 1.0


class Masking(torch.nn.Module):
    """Holds what is not finite, and is not learned."""

    def __init__(self, spaces: PolicySpaces, outputs: int):
        super().__init__()
        mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
        self.register_buffer("future", mask, persistent=False)
        self.register_buffer("past", mask.T.contiguous())
        self.register_buffer("mean", torch.zeros(3))
        self.never = torch.nn.Parameter(torch.full((2,), -torch.inf), requires_grad=False)
        self.heads, self.values = torch.nn.Linear(3, outputs), torch.nn.Linear(3, 1)

    def policy(self, obs):
        return self.heads(obs[0])

    def value(self, obs):
        return self.values(obs[0]).squeeze(1)

    def forward(self, obs):
        return self.policy(obs), self.value(obs)


def test_what_is_not_learned_need_not_be_finite() -> None:
    model = ModelConfig(custom=f"{__name__}:Masking")
    learner = Learner("x", SPACES, "PPO", TRAINING, model, PreprocessingConfig(), seed=0)
    metrics = learner.update(batch(learner, 0), 0).metrics
    assert np.isfinite(list(metrics.values())).all()
    assert not np.isfinite(learner.weights()).all()
    learner.algorithm.update_in_steps = lambda batch, env_steps: (_ for _ in ())
    module = learner.algorithm.network.module
    for part in (module.heads.bias, module.mean):
        with torch.no_grad():
            part[0] = np.nan
        with pytest.raises(LearnerError, match="got weights that are not"):
            learner.update(batch(learner, 0), 0, lambda steps: {})
        with torch.no_grad():
            part[0] = 0.0
    learner.update(batch(learner, 0), 0, lambda steps: {})
