"""Who plays and who learns agree, in one process and in several, on which parameters each episode
is played with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy_server import AlgorithmConfig
from policy_server.errors import LearnerError
from policy_server.inference import perturbed
from tests.integration.same_bits import equal, tensors
from tests.integration.test_parity import fresh_simulators

CHECKING = "tests.integration.checking_es:CheckingES"
UPDATES = 6


def config(algorithm: str = CHECKING, lanes: int = 6) -> AlgorithmConfig:
    options: dict[str, Any] = {
        "lr": 0.1, "noise_stdev": 0.2, "directions": 4, "train_batch_size": 100,
    }  # fmt: skip
    if algorithm == "ARS":
        options["top_directions"] = 2
    return (
        AlgorithmConfig(algorithm)
        .environment("tests.learning.worlds:Hybrid-v0")
        .simulators(num=1, lanes=lanes)
        .model(hidden=[8])
        .training(**options)
        .preprocessing(normalize_observations=False)
        .server(seed=7, bind="tcp://127.0.0.1:*")
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )


def train(algorithm: Any) -> list[dict[str, float]]:
    """What each of some updates reported."""
    return [algorithm.train()["policies"]["default_policy"]["metrics"] for _ in range(UPDATES)]


@pytest.mark.timeout(180)
def test_parameters_agree_over_sockets_as_in_one_process(tmp_path: Path) -> None:
    evaluating = config().evaluation(interval=2, episodes=3)
    with evaluating.build(in_process=True) as local:
        mine = train(local)
        expected = tensors(local, tmp_path, "local")
    with evaluating.build() as remote:
        theirs = train(remote)
        crossed = tensors(remote, tmp_path, "remote")
    equal(expected, crossed)
    assert mine == theirs
    assert mine[-1]["steps_checked"] >= 600
    assert sum(report["pairs_learned"] for report in mine) >= 8
    assert mine[-1]["pairs_given_up"] > 0, "some episodes were evaluations"


def test_other_noise_than_agreed_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = perturbed.perturbed
    monkeypatch.setattr(perturbed, "perturbed", lambda *args: right(*args[:-1], args[-1] ^ 1))
    with (
        config().build(in_process=True) as algorithm,
        pytest.raises((AssertionError, LearnerError)),
    ):
        train(algorithm)


@pytest.mark.parametrize("name", ["ES", "ARS"])
def test_resumed_is_the_same_as_uninterrupted(tmp_path: Path, name: str) -> None:
    with config(name).build(in_process=True) as straight:
        train(straight)
        path = straight.save(tmp_path / "checkpoints")
        fresh_simulators(straight)
        went_on = train(straight)
        expected = tensors(straight, tmp_path, "straight")
    with config(name).build(in_process=True) as resumed:
        resumed.restore(path)
        assert train(resumed) == went_on
        equal(expected, tensors(resumed, tmp_path, "resumed"))
    assert went_on[-1]["pairs_given_up"] > 0, "episodes were under way"
