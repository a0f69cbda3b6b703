"""The bare loop does the same work as our learner, or comparing them would mean nothing."""

from __future__ import annotations

import numpy as np
import torch

from policy_server.algorithms.ppo import PPOTraining
from policy_server.bench.bare_ppo import BarePPO
from policy_server.bench.updates import LANES, TRAINING, some_batch
from policy_server.bench.workloads import ACTION, OBSERVATION
from policy_server.config import ModelConfig, PreprocessingConfig
from policy_server.learners.learner import Learner
from policy_server.types import PolicySpaces


def test_both_reach_the_same_weights():
    batch = some_batch(LANES)
    # One minibatch per epoch: no order of shuffling in which they could differ.
    whole = {**TRAINING, "minibatch_size": batch.steps, "num_epochs": 4}
    training = PPOTraining(**whole)
    spaces = PolicySpaces(OBSERVATION, ACTION)
    learner = Learner(
        "p", spaces, "PPO", training, ModelConfig(), PreprocessingConfig(),
        seed=1, device="cpu", threads=1,
    )  # fmt: skip
    before = learner.weights()
    bare = BarePPO(OBSERVATION.shape[0], list(ModelConfig().hidden), 5, training, learner.device)
    parameters = [*bare.actor.parameters(), *bare.critic.parameters()]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(before.copy()), parameters)

    ours = learner.update(batch, 0).weights
    bare.update(batch)
    theirs = torch.nn.utils.parameters_to_vector(parameters).detach().numpy()
    assert np.abs(ours - before).max() > 4e-4
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
