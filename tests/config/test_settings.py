"""The settings as a whole: exact through JSON, policies' own on top, contradictions refused."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest

from policy_server import algorithms, config
from policy_server.errors import ConfigError
from policy_server.settings import PolicySettings, Settings
from sim_clients.protocol.spaces import Box, Dict, Discrete


@dataclass(frozen=True)
class Training(algorithms.Training):
    lr: float = 5e-5
    lr_schedule: tuple[tuple[int, float], ...] | None = None
    lambda_: float = 1.0
    train_batch_size: int = 4000
    minibatch_size: int = 128
    vf_clip: float = 10.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"training.lr: expected a number above 0, got {self.lr}.")
        if self.vf_clip == 13:
            raise ValueError("13 brings bad luck")


def make(**sections: Any) -> Settings:
    return Settings.from_mapping({"algorithm": "ANY", **sections}, training_type=Training)


def through_json(settings: Settings) -> Settings:
    text = json.dumps(settings.to_mapping(), allow_nan=False)
    return Settings.from_mapping(json.loads(text), training_type=Training)


# -- defaults, and the way back ---------------------------------------------------------------------


def test_defaults() -> None:
    settings = make()
    assert settings.training == Training()
    for name, type_ in config.SECTIONS.items():
        assert getattr(settings, name) == type_()
    assert set(settings.to_mapping()) == {"algorithm", "training", *config.SECTIONS}
    assert through_json(settings) == settings


def test_every_kind_of_value_survives_json_exactly() -> None:
    observation = Dict(
        {"image": Box(0, 255, (84, 84, 3), "uint8"), "uneven": Box([-math.inf, 0], [1, 2], (2,))}
    )
    settings = make(
        training={"lambda": 1, "lr_schedule": [[0, 1], [10, 0.5]], "vf_clip": math.inf},
        environment={
            "env": "module:Id-v0",
            "env_kwargs": {"size": (3, 4), "deep": {"a": [1, 2.5, None, True]}},
            "observation_space": observation,
            "action_space": gymnasium.spaces.Discrete(4, start=1),
            "action_mask": True,
        },
        simulators={"num": 2, "lanes": 16},
        multi_agent={
            "policies": {
                "red": {"training": {"vf_clip": math.inf, "lr_schedule": ((0, 1),)}, "model": {"hidden": (8,)}},
                "blue": {},
            },
            "policy_mapping": {"red_*": "red", "*": "blue"},
            "policies_to_train": {"red"},
        },
        model={"hidden": (256, 128), "conv_filters": [[16, 4, 2]], "custom": "a.b:C", "custom_kwargs": {"x": 1}},
        preprocessing={"resize": [84, 84], "reward_clip": "inf", "observation_clip": "inf"},
        collection={"mode": "async", "fragment_length": 32},
        server={"seed": 7, "run_dir": "runs/x"},
    )  # fmt: skip
    again = through_json(settings)
    assert again == settings
    assert again.to_mapping() == settings.to_mapping()
    assert again.training.lambda_ == 1.0
    assert again.training.vf_clip == math.inf
    assert again.environment.observation_space == observation
    assert again.environment.action_space == Discrete(4, 1)
    assert again.environment.env_kwargs["size"] == [3, 4]
    assert again.multi_agent.policies_to_train == ("red",)
    assert again.policy_settings("red").training.vf_clip == math.inf
    assert list(again.multi_agent.policy_mapping) == ["red_*", "*"]


def test_the_mapping_given_is_not_changed() -> None:
    given = {"algorithm": "ANY", "multi_agent": {"policies": ["a", "b"]}, "training": {"lr": 1}}
    before = json.loads(json.dumps(given))
    Settings.from_mapping(given, training_type=Training)
    assert given == before


def test_frozen_and_checked_again_when_replaced() -> None:
    settings = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.algorithm = "other"  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"simulators\.num = 1 with environment\.env = none"):
        dataclasses.replace(settings, simulators=config.SimulatorsConfig(num=1))


# -- unknown and wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"training": {"lr_": 1}}, "training.lr_: unknown setting, did you mean 'lr'?"),
        ({"training": {"learning_rate": 1}}, "training.learning_rate: unknown setting, did you mean 'lr'?"),
        ({"training": {"batch_size": 1}}, "training.batch_size: unknown setting, did you mean 'minibatch_size'?"),
        ({"trainig": {}}, "trainig: unknown setting, did you mean 'training'?"),
        ({"lr": 1}, "lr: unknown setting, did you mean 'training.lr'?"),
        ({"model": {"lanes": 1}}, "model.lanes: unknown setting, did you mean 'simulators.lanes'?"),
        ({"metrics": {"zzz": 1}}, "metrics.zzz: unknown setting, expected one of window_episodes."),
        ({"training": {"lr": "fast"}}, "training.lr: expected a number, got 'fast' (str)."),
        ({"training": 3}, "training: expected a table of settings, got 3 (int)."),
        ({"training": {"lr": -1}}, "training.lr: expected a number above 0, got -1.0."),
        ({"training": {"vf_clip": 13}}, "training: 13 brings bad luck"),
        ({"model": {"hidden": [64, 0.5]}}, "model.hidden[1]: expected a whole number, got 0.5 (float)."),
        ({"environment": {"env_kwargs": {"f": print}}}, "environment.env_kwargs.f: expected a value that JSON can hold"),
        ({"environment": {"observation_space": 3}}, "environment.observation_space: space: expected Box"),
        ({"environment": {"action_space": ["discrete", "int64", 0, 0]}}, "environment.action_space"),
        ({"environment": {"action_space": [{"evil": 1}]}}, "environment.action_space"),
        ({"multi_agent": {"policies": {"a": {"trainin": {}}}}}, "multi_agent.policies.a.trainin: unknown setting, did you mean 'training'?"),
        ({"multi_agent": {"policies": {"a": {"lr": 1}}}}, "multi_agent.policies.a.lr: unknown setting, did you mean 'training.lr'?"),
        ({"multi_agent": {"policies": {"a": {"training": {"lr_": 1}}}}}, "multi_agent.policies.a.training.lr_: unknown setting, did you mean 'lr'?"),
        ({"multi_agent": {"policies": {"a": {"training": {"lr": "x"}}}}}, "multi_agent.policies.a.training.lr: expected a number"),
        ({"multi_agent": {"policies": {"a": {"training": {"lr": -1}}}}}, "multi_agent.policies.a: training.lr: expected a number above 0, got -1.0."),
        ({"multi_agent": {"policies": "a"}}, "multi_agent.policies: expected a table of settings, got 'a'"),
    ],
)  # fmt: skip
def test_errors_name_the_path(mapping: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**mapping)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("algorithm", [None, 3])
def test_an_algorithm_is_needed(algorithm: Any) -> None:
    with pytest.raises(ConfigError, match="algorithm: expected a name"):
        Settings.from_mapping({"algorithm": algorithm})
    with pytest.raises(ConfigError, match="algorithm: expected"):
        Settings.from_mapping({})


@pytest.mark.parametrize("env", [print, gymnasium.Env, lambda: None])
def test_environments_are_named_not_handed_over(env: Any) -> None:
    with pytest.raises(ConfigError, match=r'give "module:Id-v0"'):
        make(environment={"env": env})


def test_a_policy_mapping_is_no_function() -> None:
    with pytest.raises(ConfigError, match="a function cannot be saved"):
        make(multi_agent={"policy_mapping": lambda agent: "a"})


# -- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "texts"),
    [
        ({"multi_agent": {"policies": ["a"], "policy_mapping": {"x": "b"}}},
         ["multi_agent.policy_mapping sends 'x' to 'b'", "multi_agent.policies has only 'a'"]),
        ({"multi_agent": {"policies": ["a"], "policies_to_train": ["b"]}},
         ["multi_agent.policies_to_train names 'b'", "multi_agent.policies has only 'a'"]),
        ({"multi_agent": {"policies": []}}, ["at least one policy"]),
        ({"multi_agent": {"policy_mapping": {}}}, ["no simulator could play"]),
        ({"multi_agent": {"policies": ["a/b"]}}, ["without '/'", "'a/b'"]),
        ({"multi_agent": {"policies": ["dropped"]}}, ["other than", "'dropped'"]),
        ({"multi_agent": {"policies": [""]}}, ["1 to 128 characters"]),
        ({"simulators": {"num": 2}}, ["simulators.num = 2", "environment.env = none"]),
        ({"simulators": {"num": -1}}, ["simulators.num: expected at least 0, got -1"]),
        ({"simulators": {"lanes": 0}}, ["simulators.lanes: expected at least 1, got 0"]),
        ({"environment": {"action_space": Discrete(2)}},
         ["environment.action_space is given", "environment.observation_space = none"]),
        ({"environment": {"observation_space": Discrete(2)}},
         ["environment.observation_space is given", "environment.action_space = none"]),
        ({"collection": {"mode": "asinc"}}, ["collection.mode: expected one of auto, sync, async, got 'asinc'"]),
        ({"collection": {"fragment_length": 0}}, ["collection.fragment_length: expected at least 1"]),
        ({"collection": {"straggler_s": "inf"}}, ["collection.straggler_s"]),
        ({"preprocessing": {"storage_dtype": "int8"}}, ["storage_dtype: expected one of float32, float16"]),
        ({"preprocessing": {"frame_stack": 0}}, ["preprocessing.frame_stack: expected at least 1"]),
        ({"preprocessing": {"resize": [84, 0]}}, ["preprocessing.resize: expected at least 1"]),
        ({"preprocessing": {"reward_scale": 0}}, ["preprocessing.reward_scale: expected a finite number above 0"]),
        ({"preprocessing": {"reward_clip": -1}}, ["preprocessing.reward_clip: expected a number above 0"]),
        ({"model": {"hidden": [64, 0]}}, ["model.hidden[1]: expected at least 1, got 0"]),
        ({"model": {"conv_filters": [[16, 4, 0]]}}, ["model.conv_filters[0] stride: expected at least 1"]),
        ({"model": {"activation": "tanhh"}}, ["model.activation: expected one of tanh"]),
        ({"model": {"precision": "bfloat16", "custom": "a:B"}}, ["model.precision", "'a:B'"]),
        ({"model": {"precision": "bf16"}}, ["model.precision: expected one of float32, bfloat16"]),
        ({"model": {"conv_activation": "x"}}, ["model.conv_activation: expected one of tanh"]),
        ({"model": {"custom": "Net"}}, ["model.custom", "module:Class", "'Net'"]),
        ({"model": {"custom_kwargs": {"a": 1}}}, ["model.custom_kwargs = {'a': 1}", "model.custom = none"]),
        ({"model": {"initial_log_std": "inf"}}, ["model.initial_log_std"]),
        ({"training": {"minibatch_size": 8000}},
         ["training.minibatch_size = 8000", "training.train_batch_size = 4000"]),
        ({"multi_agent": {"policies": {"a": {"training": {"train_batch_size": 64}}}}},
         ["multi_agent.policies.a.training.minibatch_size = 128", "a.training.train_batch_size = 64"]),
        ({"multi_agent": {"policies": {"a": {"model": {"activation": "x"}}}}},
         ["multi_agent.policies.a.model.activation: expected one of tanh"]),
        ({"inference": {"executor": "jax"}}, ["inference.executor: expected one of auto, numpy, torch"]),
        ({"learners": {"device": "gpu"}}, ["learners.device", "'gpu'"]),
        ({"inference": {"device": "cuda:x"}}, ["inference.device", "'cuda:x'"]),
        ({"server": {"bind": "localhost:5555"}}, ["server.bind", "tcp://127.0.0.1:5555"]),
        ({"server": {"lease_s": 0}}, ["server.lease_s: expected a finite number above 0, got 0.0"]),
        ({"server": {"seed": -1}}, ["server.seed: expected at least 0"]),
        ({"checkpointing": {"keep": -1}}, ["checkpointing.keep: expected at least 0"]),
        ({"evaluation": {"episodes": 0}}, ["evaluation.episodes: expected at least 1"]),
        ({"metrics": {"window_episodes": 0}}, ["metrics.window_episodes: expected at least 1"]),
    ],
)  # fmt: skip
def test_contradictions_name_both_sides(mapping: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**mapping)
    for text in texts:
        assert text in str(caught.value)


# -- several policies -------------------------------------------------------------------------------


def test_a_policy_has_the_common_settings_and_its_own_on_top() -> None:
    settings = make(
        training={"lr": 1e-3, "lambda_": 0.9},
        multi_agent={
            "policies": {
                "red": {"training": {"lr": 2, "lambda": 0.5}, "preprocessing": {"frame_stack": 4}},
                "blue": None,
            }
        },
    )
    red, blue = settings.policy_settings("red"), settings.policy_settings("blue")
    assert red.training == Training(lr=2.0, lambda_=0.5)
    assert red.preprocessing == config.PreprocessingConfig(frame_stack=4)
    assert red.model is settings.model
    collection = config.CollectionConfig(mode="sync")
    common = (settings.training, settings.model, settings.preprocessing, settings.exploration)
    assert blue == PolicySettings(*common, "ANY", collection)
    with pytest.raises(ConfigError, match=r"policy 'green' is not among .* red, blue"):
        settings.policy_settings("green")


def test_a_policys_own_number_ends_the_common_schedule() -> None:
    training = {"lr_schedule": [[0, 1e-3]], "entropy_coeff_schedule": [[0, 0.1]]}
    policies = {"red": {"training": {"lr": 1e-4}}, "blue": {}}
    settings = Settings.from_mapping(
        {"algorithm": "PPO", "training": training, "multi_agent": {"policies": policies}}
    )
    red, blue = (settings.policy_settings(name).training for name in ("red", "blue"))
    assert (red.lr, red.lr_schedule) == (1e-4, None)
    assert red.entropy_coeff_schedule == blue.entropy_coeff_schedule == ((0, 0.1),)
    assert blue.lr_schedule == ((0, 1e-3),)


@pytest.mark.parametrize(
    ("multi_agent", "mapping"),
    [
        ({"policies": ["a"]}, {"*": "a"}),
        ({"policies": {"b", "a"}}, {"a": "a", "b": "b"}),
        ({"policies": ("b", "a"), "policy_mapping": None}, {"b": "b", "a": "a"}),
        ({"policies": {"a": {}, "b": {}}, "policy_mapping": {"*": "b"}}, {"*": "b"}),
        ({}, {"*": "default_policy"}),
    ],
)
def test_the_mapping_that_nobody_wrote(
    multi_agent: dict[str, Any], mapping: dict[str, str]
) -> None:
    assert list(make(multi_agent=multi_agent).multi_agent.policy_mapping.items()) == list(
        mapping.items()
    )


# -- spaces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        gymnasium.spaces.Box(np.array([-1, -np.inf]), np.array([1, 2]), dtype=np.float64),
        gymnasium.spaces.Dict({"inf": gymnasium.spaces.Discrete(2), "hex": gymnasium.spaces.MultiBinary(3)}),
        gymnasium.spaces.Tuple([gymnasium.spaces.MultiDiscrete([2, 3])]),
    ],
)  # fmt: skip
def test_spaces_of_gymnasium_survive_json(space: gymnasium.Space) -> None:
    settings = make(environment={"observation_space": space, "action_space": Discrete(2)})
    again = through_json(settings)
    assert again.environment == settings.environment
    assert (
        again.environment.observation_space.to_wire()
        == settings.environment.observation_space.to_wire()
    )
