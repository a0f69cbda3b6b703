"""The chain: every link checks at once, and what comes out is what a file would give."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pytest

import policy_server
from policy_server import AlgorithmConfig, Callbacks, PPOConfig, Settings, algorithms
from policy_server import settings as settings_module
from policy_server.config_sources import preset_names
from policy_server.errors import ConfigError
from sim_clients.protocol.spaces import Discrete


@dataclass(frozen=True)
class Training(algorithms.Training):
    lr: float = 5e-5
    lambda_: float = 1.0
    train_batch_size: int = 4000
    minibatch_size: int = 128


class Watcher(Callbacks):
    pass


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    def training_class(algorithm: str) -> type:
        if algorithm not in ("PPO", "ANY"):
            raise ConfigError(f"algorithm: no {algorithm}")
        return Training

    monkeypatch.setattr(settings_module, "training_class", training_class)


def full_chain() -> PPOConfig:
    return (
        PPOConfig()
        .environment("CartPole-v1", env_kwargs={"x": 1}, action_mask=True)
        .simulators(2, 16, max_restarts=1)
        .training(lr=3e-4, train_batch_size=512)
        .multi_agent(policies={"red": {"training": {"lr": 1}}, "blue": {}}, policy_mapping={"r*": "red", "*": "blue"}, policies_to_train=["red"])
        .model(hidden=[32])
        .preprocessing(frame_stack=4)
        .collection(mode="async")
        .evaluation(interval=5)
        .checkpointing(every=1)
        .server(seed=3)
        .learners(threads=1)
        .inference(executor="torch")
        .metrics(window_episodes=5)
        .callbacks(Watcher)
    )  # fmt: skip


def test_every_link_reaches_its_section() -> None:
    settings = full_chain().settings()
    assert settings == Settings.from_mapping(
        {
            "algorithm": "PPO",
            "environment": {"env": "CartPole-v1", "env_kwargs": {"x": 1}, "action_mask": True},
            "simulators": {"num": 2, "lanes": 16, "max_restarts": 1},
            "training": {"lr": 3e-4, "train_batch_size": 512},
            "multi_agent": {
                "policies": {"red": {"training": {"lr": 1.0}}, "blue": {}},
                "policy_mapping": {"r*": "red", "*": "blue"},
                "policies_to_train": ["red"],
            },
            "model": {"hidden": (32,)},
            "preprocessing": {"frame_stack": 4},
            "collection": {"mode": "async"},
            "evaluation": {"interval": 5},
            "checkpointing": {"every": 1},
            "server": {"seed": 3},
            "learners": {"threads": 1},
            "inference": {"executor": "torch"},
            "metrics": {"window_episodes": 5},
        }
    )


@pytest.mark.parametrize(
    "link",
    ["environment", "simulators", "training", "multi_agent", "model", "preprocessing", "collection",
     "evaluation", "checkpointing", "server", "learners", "inference", "metrics"],
)  # fmt: skip
def test_an_unknown_keyword_is_refused_at_its_link(link: str) -> None:
    config = PPOConfig()
    with pytest.raises(ConfigError, match=rf"^{link}\.zzz: unknown setting"):
        getattr(config, link)(zzz=1)
    assert getattr(config, link)() is config


def test_near_misses_and_wrong_types() -> None:
    config = PPOConfig().training(lr=0.5)
    with pytest.raises(ConfigError, match=r"^training\.lr_: unknown setting, did you mean 'lr'\?$"):
        config.training(lr_=1)
    with pytest.raises(
        ConfigError, match=r"^model\.lr: unknown setting, did you mean 'training.lr'\?$"
    ):
        config.model(lr=1)
    with pytest.raises(ConfigError, match=r"^server\.seed: expected a whole number, got 'abc'"):
        config.server(seed="abc")
    with pytest.raises(ConfigError, match=r"^environment\.env: expected a name"):
        config.environment(gymnasium.make)
    with pytest.raises(ConfigError, match=r"training\.minibatch_size = 9000 is more than"):
        config.copy().training(minibatch_size=9000).settings()
    assert config.settings().training == Training(lr=0.5)


def test_later_links_win_and_several_calls_add_up() -> None:
    config = PPOConfig().training(lr=1, train_batch_size=512).training(lr=2)
    assert config.settings().training == Training(lr=2.0, train_batch_size=512)


def test_policies_of_a_later_call_replace_the_earlier_ones() -> None:
    config = PPOConfig().multi_agent(policies=["a"], policy_mapping={"*": "a"})
    config.multi_agent(policies={"c", "b"}).multi_agent(policies_to_train={"c"})
    agents = config.settings().multi_agent
    assert agents.policies == {"b": {}, "c": {}}
    assert agents.policy_mapping == {"b": "b", "c": "c"}
    assert agents.policies_to_train == ("c",)


def test_a_file_on_top(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'algorithm = "PPO"\n[training]\nlr = 1e-3\n[multi_agent.policies.a.training]\nlr = 2\n'
    )
    settings = AlgorithmConfig().training(lambda_=0.5).from_file(path).settings()
    assert settings.training == Training(lr=1e-3, lambda_=0.5)
    assert settings.policy_settings("a").training.lr == 2.0
    assert PPOConfig().from_file(path).training(lr=9).settings().training.lr == 9.0


def test_a_file_adds_to_policies_without_stealing_their_groups(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[multi_agent.policies.a.training]\nlr = 2\n")
    config = PPOConfig().multi_agent(policies=["a", "b"], policy_mapping={"x*": "a", "*": "b"})
    agents = config.from_file(path).settings().multi_agent
    assert list(agents.policy_mapping.items()) == [("x*", "a"), ("*", "b")]
    assert agents.policies == {"a": {"training": {"lr": 2.0}}, "b": {}}


def test_a_file_of_another_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="this is a config of PPO, the file or mapping says ANY"):
        PPOConfig().update({"algorithm": "ANY"})
    with pytest.raises(ConfigError, match="no DQN"):
        AlgorithmConfig("DQN")
    with pytest.raises(ConfigError, match="expected one, got none"):
        AlgorithmConfig().settings()
    with pytest.raises(ConfigError, match=r"^trainin: unknown setting, did you mean 'training'\?$"):
        PPOConfig().update({"trainin": {}})


def test_without_an_algorithm_training_is_checked_in_the_end() -> None:
    config = AlgorithmConfig().training(lr_=1).multi_agent(policies={"a": {"training": {"x": 1}}})
    with pytest.raises(ConfigError, match=r"training\.lr_: unknown"):
        config.update({"algorithm": "PPO"}).settings()


def test_a_preset_goes_below(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"training": {"lr": 1, "lambda_": 0.9}, "simulators": {"lanes": 3}}
    monkeypatch.setattr(
        settings_module, "preset", lambda algorithm, env: found if env == "X" else None
    )
    settings = PPOConfig().environment("X").training(lr=7).preset().settings()
    assert settings.training == Training(lr=7.0, lambda_=0.9)
    assert settings.simulators.lanes == 3
    with pytest.raises(ConfigError, match="no preset ships for PPO on None"):
        PPOConfig().preset()


def test_a_copy_is_independent() -> None:
    first = full_chain()
    second = first.copy().training(lr=1).model(hidden=[1])
    assert first.settings().training.lr == 3e-4
    assert first.settings().model.hidden == (32,)
    assert second.settings().model.hidden == (1,)
    assert type(second) is PPOConfig
    assert "CartPole-v1" in repr(second)


def test_spaces_for_external_simulators() -> None:
    config = PPOConfig().environment(
        observation_space=gymnasium.spaces.Box(0, 1, (3,)), action_space=Discrete(2)
    )
    environment = config.copy().settings().environment
    assert environment.observation_space.shape == (3,)
    assert environment.action_space == Discrete(2)


@pytest.mark.parametrize(
    ("callbacks", "text"),
    [
        (Watcher(), "give the class, not an instance"),
        (int, "expected a class derived from policy_server.Callbacks, got <class 'int'>"),
        ("nowhere:Watcher", "'nowhere:Watcher' cannot be imported: No module named 'nowhere'"),
        ("policy_server.callbacks:Other", "Other"),
        ("policy_server", 'expected "module:Class", got'),
        ("policy_server.errors:ConfigError", "derived from policy_server.Callbacks"),
    ],
)
def test_callbacks_that_cannot_be(callbacks: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        PPOConfig().callbacks(callbacks)


@pytest.mark.parametrize("in_process", [False, True])
@pytest.mark.parametrize("callbacks", [Watcher, "policy_server.callbacks:Callbacks", None])
def test_build_hands_over(monkeypatch, in_process: bool, callbacks: Any) -> None:
    class Algorithm:
        def __init__(self, settings, callbacks, in_process):
            self.given = settings, callbacks, in_process

    module = ModuleType("policy_server.algorithm")
    module.Algorithm = Algorithm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "policy_server.algorithm", module)
    config = full_chain().callbacks(callbacks)
    expected = Callbacks if isinstance(callbacks, str) else callbacks
    assert config.build(in_process=in_process).given == (config.settings(), expected, in_process)


def test_the_package_is_light_until_asked() -> None:
    code = (
        "import sys, policy_server\n"
        "print([m for m in ('torch', 'numpy', 'ray', 'zmq', 'yaml') if m in sys.modules])\n"
        "from policy_server import AlgorithmConfig\n"
        "AlgorithmConfig().model(hidden=[1])\n"
        "print([m for m in ('torch', 'ray', 'zmq', 'gymnasium') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
    assert set(policy_server.__all__) <= set(dir(policy_server))
    with pytest.raises(AttributeError, match="no attribute 'QMAXConfig'"):
        _ = policy_server.QMAXConfig
    with pytest.raises(AttributeError, match="_HOME"):
        _ = policy_server._HOME


def test_the_presets_that_ship_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real training classes
    assert preset_names()
    for name in preset_names():
        algorithm, _, env = name.partition("-")
        env = env.replace("_", "/") if env.startswith("ALE_") else env
        settings = AlgorithmConfig(algorithm).environment(env).preset().settings()
        assert settings.environment.env == env


def test_every_algorithm_has_its_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real training classes
    for name in sorted(algorithms._OURS):
        config = getattr(policy_server, f"{name}Config")
        assert f"{name}Config" in policy_server.__all__
        settings = config().environment("CartPole-v1").settings()
        assert settings.algorithm == name
        assert type(settings.training) is algorithms.training_class(name)
