"""A run that was killed behind a checkpoint with its replay buffer goes on as if it had not been."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import replay_run
from tests.integration.replay_run import NAMES, UPDATES, config, train
from tests.integration.same_bits import equal, tensors
from tests.integration.test_parity import fresh_simulators

FULL = {"R2D2": 32, "QMIX": 32}  # sequences of 4 steps
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a process that is no more."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", replay_run.__name__, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return folder


@pytest.mark.timeout(300)  # the first waits for the other process
@pytest.mark.parametrize("name", NAMES)
def test_killed_and_restored_is_the_same_as_going_on(
    killed: Path, tmp_path: Path, name: str
) -> None:
    with config(name).build(in_process=True) as straight:
        train(straight)
        stored = tensors(straight, tmp_path, "stored")
        fresh_simulators(straight)
        went_on = train(straight)
        expected = tensors(straight, tmp_path, "straight")
    assert len(stored["learner/replay.priorities"]) == FULL.get(name, 130), "full"
    with config(name).build(in_process=True) as resumed:
        resumed.restore(next((killed / name).glob("checkpoint_*")))
        equal(stored, tensors(resumed, tmp_path, "restored"))
        assert train(resumed) == went_on
        equal(expected, tensors(resumed, tmp_path, "resumed"))
    assert sum("grad_norm" in r or "critic_loss" in r for r in went_on) == UPDATES, "it learned"


def test_without_the_buffer_it_would_not_be(tmp_path: Path) -> None:
    name = "DQN"
    with config(name).training(save_replay=False).build(in_process=True) as straight:
        train(straight)
        path = straight.save(tmp_path)
        fresh_simulators(straight)
        went_on = train(straight)
    with config(name).training(save_replay=False).build(in_process=True) as resumed:
        resumed.restore(path)
        assert train(resumed) != went_on
