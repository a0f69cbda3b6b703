"""The same numbers whether or not a run was interrupted, and what runs do besides learning."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from policy_server import Callbacks, ConfigError, PPOConfig
from policy_server.simulators import local_simulator
from tests.integration.same_bits import config, equal, tensors


def fresh_simulators(algorithm):
    """The running server's simulators end, and new ones come, as after a restart."""
    server = algorithm._server
    for session in list(server._gateway.sessions.by_id.values()):
        server._gateway.sessions.end(session, "test")
    server._simulators.clear()
    server._inbox.clear()
    for index in range(algorithm.settings.simulators.num):
        simulator = local_simulator(algorithm.settings, index, server.transport(), server.clock)
        server.add_simulator(simulator)


def test_resumed_is_the_same_as_uninterrupted(tmp_path):
    with config().build(in_process=True) as straight:
        for _ in range(3):
            straight.train()
        path = straight.save(tmp_path / "checkpoints")
        fresh_simulators(straight)
        for _ in range(3):
            straight.train()
        expected = tensors(straight, tmp_path, "straight")
    with config().build(in_process=True) as resumed:
        resumed.restore(path)
        for _ in range(3):
            result = resumed.train()
        equal(expected, tensors(resumed, tmp_path, "resumed"))
    accounting = result["accounting"]
    assert accounting["balance"] == 0
    assert result["policies"]["default_policy"]["version"] == 6


@pytest.mark.timeout(240)
def test_a_killed_learner_is_replaced_and_the_run_reaches_its_bar():
    built = (
        PPOConfig().environment("CartPole-v1").preset()
        .server(seed=3, bind="tcp://127.0.0.1:*").metrics(window_episodes=10).build()
    )  # fmt: skip
    with built as algorithm:
        for _ in range(5):
            result = algorithm.train()
        victim = result["policies"]["default_policy"]["learner_pid"]
        os.kill(victim, signal.SIGKILL)
        best = 0.0
        while best < 475 and result["env_steps"] < 100_000:
            result = algorithm.train()
            best = result["episode_return_mean"] or 0.0
        policy = result["policies"]["default_policy"]
        assert policy["learner_pid"] != victim
        assert best >= 475
        assert result["accounting"]["balance"] == 0
        assert result["accounting"]["dropped"]["server_restart"] == 0, "its batch was tried again"


class Watcher(Callbacks):
    """Counts its events."""

    seen: dict[str, int] = {}  # noqa: RUF012 - shared on purpose: one instance per process

    def _count(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1

    def on_episode_start(self, *, policy, episode):
        self._count("start")

    def on_episode_step(self, *, policy, episodes, obs):
        assert len(episodes) == len(obs[0])
        self._count("step")

    def on_episode_end(self, *, episode):
        assert episode.length >= 1
        self._count("end")

    def on_train_result(self, *, result):
        self._count("train")

    def on_evaluation(self, *, result):
        assert result["policies"]["default_policy"]["episodes"] == 5
        self._count("evaluation")

    def on_checkpoint(self, *, path):
        self._count("checkpoint")


def test_callbacks_and_evaluation(tmp_path):
    Watcher.seen.clear()
    with config().callbacks(Watcher).build(in_process=True) as algorithm:
        before = algorithm.train()
        evaluation = algorithm.evaluate(5)
        after = algorithm.train()
        algorithm.save(tmp_path)
    assert evaluation["episodes"] == 5
    assert after["evaluation"] == evaluation
    dropped = after["accounting"]["dropped"]["evaluation"]
    assert dropped >= sum([evaluation["policies"]["default_policy"]["episode_length_mean"] * 5])
    assert after["accounting"]["balance"] == 0
    assert after["accounting"]["trained"] - before["accounting"]["trained"] >= 200
    seen = Watcher.seen
    assert (seen["train"], seen["evaluation"], seen["checkpoint"]) == (2, 1, 1)
    assert seen["start"] >= seen["end"] > 5
    assert seen["step"] > 100


def test_in_one_process_without_simulators_nobody_is_waited_for():
    with (
        config().simulators(num=0).build(in_process=True) as algorithm,
        pytest.raises(ConfigError, match=r"simulators\.num = 0 in one process"),
    ):
        algorithm.train()


def test_automatic_evaluation_goes_on_beside_training():
    with config().evaluation(interval=2, episodes=3).build(in_process=True) as algorithm:
        for _ in range(12):
            result = algorithm.train()
    assert result["evaluation"]["episodes"] == 3
    assert result["accounting"]["dropped"]["evaluation"] > 0
    assert result["accounting"]["balance"] == 0


def test_frozen_policies_play_and_do_not_learn():
    built = (
        PPOConfig().environment("arena").preset().multi_agent(
            policies=["policy1", "policy2"],
            policy_mapping={"agent1": "policy1", "agent2": "policy2"},
            policies_to_train=["policy1"],
        ).simulators(num=1, lanes=8).training(train_batch_size=400, minibatch_size=400)
        .server(seed=1).build(in_process=True)
    )  # fmt: skip
    with built as algorithm:
        weights = algorithm._server._gateway
        algorithm.train()
        frozen = weights.desks["policy2"].served.weights()
        for _ in range(2):
            result = algorithm.train()
        np.testing.assert_array_equal(frozen, weights.desks["policy2"].served.weights())
    policies = result["policies"]
    assert policies["policy1"]["version"] == 3
    assert policies["policy2"]["version"] == 0
    assert policies["policy2"]["accounting"]["dropped"]["frozen"] >= 1200
    assert result["accounting"]["balance"] == 0


@pytest.mark.timeout(180)
def test_asynchronous_collection_learns_over_sockets():
    built = (
        PPOConfig().environment("CartPole-v1").preset().collection(mode="async", fragment_length=32)
        .server(seed=2, bind="tcp://127.0.0.1:*").build()
    )  # fmt: skip
    with built as algorithm:
        results = [algorithm.train() for _ in range(60)]
    result = results[-1]
    accounting = result["accounting"]
    assert result["episode_return_mean"] > 60, "three times random play"
    assert accounting["balance"] == 0
    assert accounting["trained"] >= 60 * 512
    told = [one["policies"]["default_policy"] for one in results]
    assert told[-1]["version"] == 60
    # On real clocks some steps are of an older version than their batch's newest.
    errors = [one["metrics"]["first_ratio_error"] for one in told]
    assert errors[-1] < 10
    assert np.median(errors) < 10


class Faulty(Callbacks):
    """A user's mistake."""

    def on_episode_end(self, *, episode):
        raise KeyError("my own mistake")


@pytest.mark.timeout(180)
def test_what_goes_wrong_in_other_processes_is_told_here():
    """One Ray for all of them: starting it is most of the time."""
    import ray

    from policy_server.errors import AddressError, LearnerError, PolicyServerError
    from policy_server.server import start_ray

    start_ray(None)
    try:

        def train_long(algorithm):
            for _ in range(5):
                algorithm.train()

        watched = config().callbacks(Faulty).build()
        with watched, pytest.raises(PolicyServerError, match="my own mistake"):
            train_long(watched)
        broken = config().learners(device="cuda:7").build()
        with broken as algorithm, pytest.raises(LearnerError, match=r"cannot start.*cuda:7"):
            algorithm.train()
        with config().build() as algorithm:
            taken = config().server(bind=algorithm.address)
            with pytest.raises(AddressError, match="taken by another program"):
                taken.build()
            path = algorithm.save()
            algorithm.train()
            algorithm.restore(path)  # the same address again, and the simulators with it
            result = algorithm.train()
            assert result["policies"]["default_policy"]["version"] == 1
            assert algorithm.evaluate(2)["episodes"] == 2
    finally:
        ray.shutdown()
