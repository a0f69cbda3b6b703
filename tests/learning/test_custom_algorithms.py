"""Algorithms from outside the package: those that the document shows, taken from it as they are."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policy_server import AlgorithmConfig, algorithms
from policy_server.algorithms.own_loss import OwnLoss, page_of
from policy_server.algorithms.own_loss_options import OwnLossTraining
from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, LearnerError
from policy_server.networks import build_network
from policy_server.stepwise import at_once
from policy_server.types import PolicySpaces
from sim_clients import SessionRefused
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from tests.algorithms.handmade import random_batch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "CUSTOM_ALGORITHMS.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILES = ("my_losses", "my_algorithm", "my_replay", "my_networks", "my_explorer")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The document's files, where a user would have put them."""
    for code in CODE:
        named = re.match(r"# (\w+)\.py\n", code)
        if named:
            with (tmp_path / f"{named[1]}.py").open("a", encoding="utf-8") as file:
                file.write(code + "\n\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def on(config: AlgorithmConfig, world: str = "Nested") -> AlgorithmConfig:
    """With a small world, small batches and large steps."""
    return (
        config.environment(f"tests.learning.worlds:{world}-v0")
        .simulators(num=1, lanes=16)
        .training(lr=2e-2, train_batch_size=256)
        .server(seed=1, bind="tcp://127.0.0.1:*")
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )


def greedy_return(config: AlgorithmConfig, updates: int, in_process: bool = True) -> float:
    with config.build(in_process=in_process) as algorithm:
        for _ in range(updates):
            result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        mean: float = algorithm.evaluate(32)["episode_return_mean"]
        return mean


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("my_losses:policy_gradient_loss", {"gamma": 0.0}),
        ("my_losses:actor_critic_loss", {"gamma": 0.0, "lambda_": 0.0}),
        ("my_algorithm:Elite", {"gamma": 0.0}),
    ],
)
def test_the_documents_algorithms_learn(files: Path, name: str, options: dict[str, Any]) -> None:
    assert greedy_return(on(AlgorithmConfig(name)).training(**options), 40) >= 14.5


REPLAY = {
    "gamma": 0.0, "lr": 3e-3, "train_batch_size": 32, "steps_per_update": 128,
    "samples_per_insert": 8.0, "learning_starts": 256, "target_update_steps": 128,
    "buffer_size": 5000, "prioritized": True, "save_replay": True,
}  # fmt: skip


def test_the_documents_page_with_replay_learns_and_goes_on_bit_for_bit(files: Path) -> None:
    config = on(AlgorithmConfig("my_replay:ExpectedSarsa")).training(**REPLAY)
    assert greedy_return(config, 60) >= 14.5

    page = importlib.import_module("my_replay").ExpectedSarsa
    options = page.Training(**{**REPLAY, "learning_starts": 20})
    spaces = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))
    one, other = (
        page(spaces, ModelConfig(hidden=(8,)), options, seed=seed, device=torch.device("cpu"))
        for seed in range(2)
    )
    batches = [random_batch(one.network, spaces, 20, 4, seed) for seed in range(4)]
    for batch in batches[:2]:
        at_once(one.update_in_steps(batch, 0))
    other.load(one.state())
    for batch in batches[2:]:
        mine, its = (at_once(each.update_in_steps(batch, 0)) for each in (one, other))
        assert mine == its


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -1.0), ("gamma", 7.0), ("margin", "wide"), ("train_batch_size", 0)],
)
def test_the_documents_page_refuses_impossible_options(
    files: Path, option: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=rf"training.{option}: expected"):
        AlgorithmConfig("my_algorithm:Elite").training(**{option: value}).settings()


def test_a_page_that_checks_nothing_needs_a_step_at_least(files: Path) -> None:
    text = (files / "my_algorithm.py").read_text()
    (files / "my_algorithm.py").write_text(text.replace("def __post_init__", "def never_called"))
    config = AlgorithmConfig("my_algorithm:Elite")
    assert config.training(lr=-1.0).settings().training.lr == -1.0
    with pytest.raises(ConfigError, match=r"at least one step .* got 0"):
        config.training(train_batch_size=0).settings()


def test_a_loss_of_your_own_learns_with_a_memory(files: Path) -> None:
    config = on(AlgorithmConfig("my_losses:actor_critic_loss"), "Echo").model(memory="lstm")
    assert greedy_return(config.training(lr=1e-2, gamma=0.0, lambda_=0.0), 60) >= 13.5


def test_names_of_their_own_are_known_to_other_processes(files: Path) -> None:
    """The document's lines that register, then sockets, simulators and learners elsewhere."""
    (loss,) = [code for code in CODE if "register_loss(" in code]
    (page,) = [code for code in CODE if "algorithms.register(" in code]
    for code, name in ((loss, "MyPG"), (page, "Elite")):
        names: dict[str, Any] = {}
        exec(compile(code, "user", "exec"), names)
        assert names["config"].settings().algorithm == name
        assert name in algorithms.names()
    config = on(AlgorithmConfig("MyPG")).training(gamma=0.0)
    assert greedy_return(config, 40, in_process=False) >= 14.5


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_the_documents_network_learns(files: Path, name: str) -> None:
    """Whole, and in place of an encoder."""
    config = on(AlgorithmConfig(name)).model(
        custom="my_networks:Small", custom_kwargs={"units": 48}
    )
    options = (
        {"minibatch_size": 64, "num_epochs": 4, "lambda_": 0.0, "vf_clip_param": None, "lr": 3e-3}
        if name == "PPO"
        else {"train_batch_size": 32, "steps_per_update": 128, "learning_starts": 256, "lr": 3e-3,
              "epsilon": ((0, 1.0), (3000, 0.05))}
    )  # fmt: skip
    assert greedy_return(config.training(gamma=0.0, **options), 30) >= 14.5


def test_the_documents_explorer_sees_less_and_less_that_is_new(files: Path) -> None:
    config = on(AlgorithmConfig("PPO"), "Echo").exploration("my_explorer:Count")
    with config.training(minibatch_size=256, num_epochs=1).build(in_process=True) as algorithm:
        told = [algorithm.train()["policies"]["default_policy"]["metrics"] for _ in range(4)]
        path = algorithm.save(files / "stored")
    assert [metrics["places"] for metrics in told] == [3.0] * 4
    rewards = [metrics["intrinsic_reward_mean"] for metrics in told]
    assert rewards == sorted(rewards, reverse=True)
    with config.build(in_process=True) as resumed:
        resumed.restore(path)
        again = resumed.train()["policies"]["default_policy"]["metrics"]
    assert again["intrinsic_reward_mean"] < rewards[-1]


@pytest.mark.timeout(120)
def test_a_command_finds_what_is_in_its_working_directory(files: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = str(Path(sys.executable).with_name("policy-server"))
    arguments = ["--env", "CartPole-v1", "--stop-steps", "600", "--num-sims", "1", "--run-dir", "run",
                 "--set", "training.train_batch_size=200", "--set", "exploration.name=my_explorer:Count"]  # fmt: skip
    done = subprocess.run(
        [command, "train", "--run", "my_losses:policy_gradient_loss", *arguments],
        cwd=files, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((files / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["default_policy/places"] > 3


def trained_and_stored(config: AlgorithmConfig, path: Path) -> None:
    with config.build(in_process=True) as algorithm:
        algorithm.train()
        algorithm.save(path)


MADE = "self.trained = TrainedPolicy(self.network, spaces, device, eps=1e-5)"
CHECK = 'check_finite("Elite", batch, metrics, self.trained.optimizer.weights)'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("c.margin", "c.marginn", r"AttributeError: .*'marginn' \(my_algorithm.py:\d+\)"),
        (MADE, f"{MADE}\n        del self.network", "its attribute `network` to be the torch module"),
        (MADE, "self.trained = TrainedPolicy()", r"TypeError: .* \(my_algorithm.py:\d+\)"),
        ("build_network(spaces", "build_net(spaces", r"make_network: NameError: .* \(my_alg.*:\d+"),
        ("self.trained.state()", "{}", "expected `state` to return a PolicyState, got a dict"),
        (CHECK, "metrics['share'] = float('nan')", "got share that are.*network's weights are finite"),
        (CHECK, "metrics['share'] = 'many'", "dict of numbers by their names, got 'many' as 'share'"),
        ("return metrics", "", "dict of numbers by their names, got None"),
        ("def update(", "def update_in_steps(", "to be a generator, got a dict: let it yield"),
        (CHECK, "self.trained.optimizer.weights.fill_(float('nan'))", "got weights that are not: "),
    ],
)  # fmt: skip
def test_a_page_that_fails_is_told_where(files: Path, old: str, new: str, words: str) -> None:
    text = (files / "my_algorithm.py").read_text()
    assert text.count(old) >= 1
    (files / "my_algorithm.py").write_text(text.replace(old, new))
    config = on(AlgorithmConfig("my_algorithm:Elite"))
    with pytest.raises((LearnerError, ConfigError, SessionRefused), match=words):
        trained_and_stored(config, files / "stored")


def test_what_no_update_returns_is_told_with_a_bonus_too(files: Path) -> None:
    text = (files / "my_algorithm.py").read_text()
    (files / "my_algorithm.py").write_text(text.replace("return metrics", ""))
    config = on(AlgorithmConfig("my_algorithm:Elite")).exploration("RND")
    with pytest.raises(LearnerError, match="dict of numbers by their names, got None"):
        trained_and_stored(config, files / "stored")


def test_what_the_page_lacks_is_told_before_anything_starts(files: Path) -> None:
    text = (files / "my_algorithm.py").read_text()
    (files / "my_algorithm.py").write_text(text.replace("def load(", "def laod("))
    with pytest.raises(ConfigError, match=r"Elite to have the methods .*, got none named load"):
        AlgorithmConfig("my_algorithm:Elite").settings()


def test_what_an_update_returns_is_looked_at(files: Path) -> None:
    config = on(AlgorithmConfig("my_algorithm:Elite")).training(lr=1e38)
    with pytest.raises(LearnerError, match="expected finite numbers after the update"):
        greedy_return(config, 40)


def test_a_function_is_registered_as_well_as_its_name(files: Path) -> None:
    loss = importlib.import_module("my_losses").policy_gradient_loss
    algorithms.register_loss("Mine", loss)
    algorithms.register_loss("Mine", loss)
    assert algorithms.registered()["Mine"][1] == "my_losses:policy_gradient_loss"
    with pytest.raises(ConfigError, match="registered already"):
        algorithms.register_loss("Mine", "my_losses:actor_critic_loss")

    def local(policy: Any, model: Any, distribution: Any, train_batch: Any) -> None: ...

    algorithms.register_loss("Local", local)
    with pytest.raises(ConfigError, match="other processes cannot import it"):
        algorithms.registered()


# -- what a loss is given -----------------------------------------------------------------------


def page(spaces: PolicySpaces, loss: Any, **options: Any) -> OwnLoss:
    made = page_of(loss)
    config = OwnLossTraining(**options)
    model = ModelConfig(hidden=(8,))
    return made(spaces, model, config, seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("action", "mask"),
    [
        (Discrete(4), True),
        (MultiDiscrete([3, 2]), False),
        (Box(-1, 1, (2,)), False),
        (Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}), False),
    ],
)
def test_the_columns_are_the_steps(action: Space, mask: bool) -> None:
    spaces = PolicySpaces(Box(-9, 9, (3,)), action, mask)
    seen: dict[str, Any] = {}

    def loss(policy: OwnLoss, model: Any, distribution: Any, train_batch: Any) -> Any:
        logits, values = model(train_batch)
        logp = distribution(logits).log_prob(train_batch["actions"])
        seen.update(train_batch, logp=logp.detach(), values=values.detach())
        assert policy.env_steps == 77
        return values.mean() - logp.mean() - distribution(logits).entropy().mean()

    made = page(spaces, loss)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build_network(spaces, ModelConfig(hidden=(8,)))
    network.load_state_dict(made.network.state_dict())
    batch = random_batch(network, spaces, 6, 4, 0, np.array([6, 2, 5, 1]))
    metrics = made.update(batch, 77)
    assert np.isfinite(metrics["total_loss"])

    order = np.argsort(seen["agent_id"].numpy() * 100 + seen["t"].numpy(), kind="stable")
    assert len(order) == batch.steps
    at = [tuple(row) for row in np.argwhere(batch.valid)]
    rows = {
        (int(lane), round(float(reward), 5)): i
        for i, (lane, reward) in enumerate(zip(seen["agent_id"], seen["rewards"], strict=True))
    }
    for t, b in at:
        i = rows[b, round(float(batch.rewards[t, b]), 5)]
        np.testing.assert_array_equal(seen["obs"][i], batch.obs[0][t, b])
        behind = batch.obs[0][t + 1, b]
        if batch.terminated[t, b]:
            behind = batch.obs[0][t, b]
        if batch.truncated[t, b]:
            (row,) = np.flatnonzero((batch.final_index == (t, b)).all(1))
            behind = batch.final_obs[0][row]
        np.testing.assert_array_equal(seen["next_obs"][i], behind)
        assert bool(seen["terminateds"][i]) == bool(batch.terminated[t, b])
        assert bool(seen["truncateds"][i]) == bool(batch.truncated[t, b])
        assert int(seen["t"][i]) == batch.t[t, b]
        assert int(seen["eps_id"][i]) == batch.episodes[t, b]
        assert float(seen["action_logp"][i]) == pytest.approx(batch.logp[t, b])
        if mask:
            assert batch.masks is not None
            np.testing.assert_array_equal(seen["action_mask"][i], batch.masks[t, b])
    torch.testing.assert_close(seen["logp"], seen["action_logp"], rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["values"], seen["vf_preds"], rtol=0, atol=1e-5)
    gained = seen["advantages"] + seen["vf_preds"]
    torch.testing.assert_close(gained, seen["value_targets"], rtol=0, atol=1e-5)


SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))


def raises(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return train_batch["reward"]


def each(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return model(train_batch)[1]


def number(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return 1.0


def apart(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return train_batch["rewards"].mean()


def broken(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return model(train_batch)[1].mean() * float("nan")


def silent(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    model(train_batch)[1].mean()


def three(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return model(train_batch)[1].mean(), {}, 3


def of_values(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    return distribution(model(train_batch)[1]).entropy().mean()


def many(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
    values = model(train_batch)[1]
    return values.mean(), {"values": values}


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (raises, r"loss raises: failed with KeyError.*expected one of the columns obs, .*'reward'"),
        (raises, r"got 'reward'.? \(test_custom_algorithms.py:\d+\)\. It was given 15 steps"),
        (each, r"loss each: expected a tensor of one number, .*, got \[15\]: end it with .mean"),
        (number, "loss number: expected a tensor of one number, .* got float"),
        (apart, "loss apart: expected a loss that depends on the network"),
        (broken, "loss broken: expected a finite number, got nan: it divides by zero"),
        (silent, "loss silent: expected a tensor .*, got None: does it return its loss"),
        (three, "loss three: expected a tensor .*, got a tuple of 3"),
        (of_values, r"expected logits \[15, 4\], the first of the two .*, got \[15\]"),
        (many, r"expected one number to report as 'values', got \[15\]: end it with .mean"),
    ],
)
def test_a_loss_that_is_wrong_is_told_how(loss: Any, words: str) -> None:
    network = build_network(SPACES, ModelConfig(hidden=(8,)))
    with pytest.raises(LearnerError, match=words):
        page(SPACES, loss).update(random_batch(network, SPACES, 5, 3, 0), 0)


def test_any_number_may_be_reported() -> None:
    def loss(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
        values = model(train_batch)[1]
        report = {"steps": len(values), "above": (values > 1e9).sum(), "half": 0.5}
        return values.mean(), report

    network = build_network(SPACES, ModelConfig(hidden=(8,)))
    metrics = page(SPACES, loss).update(random_batch(network, SPACES, 5, 3, 0), 0)
    assert {name: metrics[name] for name in ("steps", "above", "half")} == {
        "steps": 15.0, "above": 0.0, "half": 0.5,
    }  # fmt: skip


def test_what_only_some_minibatches_report_is_their_mean() -> None:
    came = iter([{}, {"now": 1.0}, {"now": 3.0}])

    def loss(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
        return model(train_batch)[1].mean(), next(came)

    network = build_network(SPACES, ModelConfig(hidden=(8,)))
    made = page(SPACES, loss, minibatch_size=5)
    assert made.update(random_batch(network, SPACES, 5, 3, 0), 0)["now"] == 2.0


def test_a_report_that_is_no_number_is_told() -> None:
    def loss(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
        return model(train_batch)[1].mean(), {"name": "Joe"}

    network = build_network(SPACES, ModelConfig(hidden=(8,)))
    with pytest.raises(LearnerError, match=r"loss loss: expected numbers to report.*'Joe'"):
        page(SPACES, loss).update(random_batch(network, SPACES, 5, 3, 0), 0)


def test_a_stored_state_goes_on_exactly() -> None:
    def loss(policy: Any, model: Any, distribution: Any, train_batch: Any) -> Any:
        logits, values = model(train_batch)
        logp = distribution(logits).log_prob(train_batch["actions"])
        return (values - train_batch["value_targets"]).square().mean() - logp.mean()

    network = build_network(SPACES, ModelConfig(hidden=(8,)))
    batches = [random_batch(network, SPACES, 5, 3, seed) for seed in range(4)]
    one, other = (page(SPACES, loss, minibatch_size=4, num_epochs=2) for _ in range(2))
    for batch in batches[:2]:
        one.update(batch, 0)
    other.load(one.state())
    for batch in batches[2:]:
        assert one.update(batch, 0) == other.update(batch, 0)
