"""Trials of Ray Tune."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from policy_server import PPOConfig
from policy_server.errors import ConfigError
from policy_server.tune import nested, trainable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray():
    """One for all trials."""
    import ray

    from policy_server.server import start_ray

    start_ray(None)
    yield
    ray.shutdown()


def test_paths_become_sections():
    flat = {"training.lr": 1e-3, "model": {"hidden": [8]}, "model.activation": "relu", "seed": 1}
    assert nested(flat) == {
        "training": {"lr": 1e-3},
        "model": {"hidden": [8], "activation": "relu"},
        "seed": 1,
    }


def test_a_trial_trains_saves_and_goes_on_on_a_port_of_its_own(tmp_path, ray):
    base = (
        PPOConfig()
        .environment("CartPole-v1")
        .simulators(num=1, lanes=4)
        .training(train_batch_size=200, minibatch_size=100, num_epochs=1)
    )
    class_ = trainable(base)
    assert class_.default_resource_request({}).required_resources == {"CPU": 1.0}
    with pytest.raises(ConfigError, match=r"training\.learning_rate: unknown setting"):
        class_(config={"training.learning_rate": 1e-3})
    one = class_(config={"training.lr": 2e-3})
    other = class_(config={"training.lr": 5e-4, "training.train_batch_size": 400})
    try:
        assert one.algorithm.settings.training.lr == 2e-3
        first, its = one.train(), other.train()
        assert first["address"] != its["address"]
        assert (first["env_steps"], its["env_steps"]) == (200, 400)
        assert first["training_iteration"] == 1
        one.save(str(tmp_path / "kept"))
        one.train()
        one.restore(str(tmp_path / "kept"))
        assert one.train()["env_steps"] == 400
        assert base.settings().training.lr != 2e-3, "trials change nothing for one another"
    finally:
        one.stop()
        other.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_compares_several_trials(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "tune_arena.py", "--trials", "3", "--steps", "16000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AIR_LOCAL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = re.findall(r"^ *(-?[\d.]+) +([\d.e-]+) +(\d+) +(\d+) +(tcp://\S+)$", done.stdout, re.M)
    assert len(rows) == 3, done.stdout[-3000:]
    assert len({row[1] for row in rows}) == 3, "another learning rate each"
    assert len({row[4] for row in rows}) == 3, "a port each"
    assert all(int(row[3]) >= 16_000 for row in rows)
    assert float(rows[0][0]) == max(float(row[0]) for row in rows)
