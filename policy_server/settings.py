"""All settings of one server, checked once, frozen, and the same after a trip through JSON.

    settings = Settings.from_mapping(merge(preset("PPO", env), load_file("run.toml")))
    settings.training.lr, settings.server.bind, settings.policy_settings("red").model.hidden

The sections are the dataclasses of `policy_server.config`; `training` is the dataclass on the
algorithm's own page. Where mappings come from: `config_sources`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policy_server import algorithms, config
from policy_server.config_checks import check
from policy_server.config_sources import (
    apply_overrides,
    load_file,
    merge,
    preset,
    preset_names,
    without_ended,
)
from policy_server.config_values import coerce_fields, dump, fields_of, mapping_at, unknown
from policy_server.errors import ConfigError
from policy_server.spaces_json import space_from_json
from sim_clients.protocol.errors import ProtocolError
from sim_clients.protocol.spaces import Space
from sim_clients.space_conversion import as_space

__all__ = [
    "PolicySettings",
    "Settings",
    "apply_overrides",
    "load_file",
    "merge",
    "preset",
    "preset_names",
    "read_section",
    "training_class",
]

PER_POLICY = ("training", "model", "preprocessing", "exploration")
"""Sections that a policy may override."""


class PolicySettings(NamedTuple):
    """What one policy learns with: the common settings and its own on top."""

    training: Any
    model: config.ModelConfig
    preprocessing: config.PreprocessingConfig
    exploration: config.ExplorationConfig
    algorithm: str
    collection: config.CollectionConfig  # "auto" replaced by what the algorithm is made for


def training_class(algorithm: str) -> type:
    """The dataclass of this algorithm's hyperparameters.

    Raises:
        ConfigError: there is no such algorithm.
    """
    return algorithms.training_class(algorithm)


@dataclass(frozen=True)
class Settings:
    """Every setting of one server. Made by `from_mapping`; checked however it is made.

    Raises:
        ConfigError: a setting is impossible or contradicts another.
    """

    algorithm: str
    training: Any
    environment: config.EnvironmentConfig = field(default_factory=config.EnvironmentConfig)
    simulators: config.SimulatorsConfig = field(default_factory=config.SimulatorsConfig)
    multi_agent: config.MultiAgentConfig = field(default_factory=config.MultiAgentConfig)
    model: config.ModelConfig = field(default_factory=config.ModelConfig)
    preprocessing: config.PreprocessingConfig = field(default_factory=config.PreprocessingConfig)
    exploration: config.ExplorationConfig = field(default_factory=config.ExplorationConfig)
    collection: config.CollectionConfig = field(default_factory=config.CollectionConfig)
    evaluation: config.EvaluationConfig = field(default_factory=config.EvaluationConfig)
    checkpointing: config.CheckpointingConfig = field(default_factory=config.CheckpointingConfig)
    server: config.ServerConfig = field(default_factory=config.ServerConfig)
    learners: config.LearnersConfig = field(default_factory=config.LearnersConfig)
    inference: config.InferenceConfig = field(default_factory=config.InferenceConfig)
    metrics: config.MetricsConfig = field(default_factory=config.MetricsConfig)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], *, training_type: type | None = None
    ) -> Settings:
        """A nested mapping, as from a file -> checked settings; what is absent has its default.

        Args:
            mapping: `{"algorithm": "PPO", "training": {...}, "model": {...}, ...}`.
            training_type: dataclass of `training`; None: the one of the named algorithm.

        Raises:
            ConfigError: unknown key, wrong type, impossible value or combination.
        """
        mapping = mapping_at(mapping, "settings")
        algorithm = mapping.pop("algorithm", None)
        if not isinstance(algorithm, str):
            raise ConfigError(f'algorithm: expected a name such as "PPO", got {algorithm!r}.')
        training_type = training_type or training_class(algorithm)
        sections: dict[str, Any] = {}
        for name, type_ in {"training": training_type, **config.SECTIONS}.items():
            values = read_section(name, mapping.pop(name, {}), training_type)
            if name == "multi_agent" and "policies" in values:
                values.setdefault("policy_mapping", _default_mapping(values["policies"]))
            sections[name] = _make(type_, values, name)
        for key in mapping:
            known = ["algorithm", "training", *config.SECTIONS]
            raise unknown("", key, known, _homes(training_type))
        return cls(algorithm=algorithm, **sections)

    def to_mapping(self) -> dict[str, Any]:
        """Strict JSON that `from_mapping` reads back to equal settings."""
        return {item.name: dump(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @property
    def trained_policies(self) -> tuple[str, ...]:
        """Names of the policies that have a learner."""
        chosen = self.multi_agent.policies_to_train
        return tuple(self.multi_agent.policies) if chosen is None else tuple(chosen)

    def policy_settings(self, policy_name: str) -> PolicySettings:
        """The common sections that a policy may override, with this policy's own on top.

        Raises:
            ConfigError: there is no such policy, or what it overrides is impossible.
        """
        policies = self.multi_agent.policies
        if policy_name not in policies:
            raise ConfigError(
                f"policy {policy_name!r} is not among multi_agent.policies: {', '.join(policies)}."
            )
        path, overrides = f"multi_agent.policies.{policy_name}", policies[policy_name]
        algorithm = overrides.get("algorithm", self.algorithm)
        merged: dict[str, Any] = {}
        for name in PER_POLICY:
            common = getattr(self, name)
            kind, given = (
                type(common),
                {key: getattr(common, key) for key in fields_of(type(common))},
            )
            if name == "training" and algorithm != self.algorithm:
                common, kind, given = None, training_class(algorithm), {}
            values = coerce_fields(kind, overrides.get(name, {}), f"{path}.{name}")
            whole = without_ended(given, values) | values
            merged[name] = _make(kind, whole, path) if values or common is None else common
        collection = _collection(self.collection, merged["training"])
        return PolicySettings(**merged, algorithm=algorithm, collection=collection)


def _collection(common: config.CollectionConfig, training: Any) -> config.CollectionConfig:
    """What the algorithm is made for, where the settings leave it to it."""
    mode = training.mode if common.mode == "auto" else common.mode
    length = common.fragment_length or training.fragment_length
    return dataclasses.replace(common, mode=mode, fragment_length=length)


def read_section(name: str, values: Any, training_type: type | None) -> dict[str, Any]:
    """Some settings of one section -> the same, with checked types.

    Args:
        training_type: dataclass of `training`, where it is known; then overrides of policies
            are checked too.

    Raises:
        ConfigError: unknown key or wrong type.
    """
    given: dict[str, Any] = mapping_at(values, name)
    if name == "training" and training_type is None:
        return given
    type_ = training_type if name == "training" else config.SECTIONS[name]
    assert type_ is not None
    special: dict[str, Any] = {}
    if name == "environment":
        _check_env(given.get("env"))
        for key in ("observation_space", "action_space"):
            if key in given:
                special[key] = _read_space(given.pop(key), f"{name}.{key}")
    elif name == "multi_agent":
        given = _read_multi_agent(given, training_type)
    return coerce_fields(type_, given, name, _homes(training_type)) | special


def _make(type_: type, values: dict[str, Any], path: str) -> Any:
    """The dataclass, whose own checks may object."""
    try:
        return type_(**values)
    except ConfigError as error:
        # Pages say "training.lr: ..."; for a policy's own settings the policy belongs in front.
        raise (error if path in PER_POLICY else ConfigError(f"{path}: {error}")) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _homes(training_type: type | None) -> dict[str, str]:
    """Key -> "section.key", of all sections, for "did you mean"."""
    types_ = dict(config.SECTIONS) | ({"training": training_type} if training_type else {})
    return {key: f"{name}.{key}" for name, type_ in types_.items() for key in fields_of(type_)}


def _check_env(env: Any) -> None:
    if env is not None and not isinstance(env, str):
        raise ConfigError(
            f"environment.env: expected a name, got {env!r:.60}: simulators run in processes of "
            'their own and import the environment there, so register it and give "module:Id-v0".'
        )


def _read_space(value: Any, path: str) -> Space | None:
    """A space of the protocol or of Gymnasium, or its JSON form."""
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    try:
        return space_from_json(value, path) if isinstance(value, list) else as_space(value)
    except (TypeError, ValueError, ProtocolError) as error:
        text = str(error)
        raise ConfigError(text if text.startswith(path) else f"{path}: {text}") from None


def _read_multi_agent(values: dict[str, Any], training_type: type | None) -> dict[str, Any]:
    """Spells out the short forms: a list of names, a set of names, no mapping."""
    result = dict(values)
    if "policies" in values:
        result["policies"] = _read_policies(values["policies"], training_type)
    mapping = values.get("policy_mapping")
    if callable(mapping):
        raise ConfigError(
            "multi_agent.policy_mapping: expected a table of group name (or pattern) to policy "
            f"name, got {mapping!r:.60}: a function cannot be saved or sent to another process; "
            'write {"red_*": "red", "*": "blue"}, where the first match counts.'
        )
    if mapping is None:
        result.pop("policy_mapping", None)
    trained = values.get("policies_to_train")
    if isinstance(trained, (set, frozenset)):
        result["policies_to_train"] = sorted(trained)
    return result


def _default_mapping(policies: Mapping[str, Any]) -> dict[str, str]:
    """One policy plays for all groups, several for the groups of their own names."""
    names = list(policies)
    return {"*": names[0]} if len(names) == 1 else {name: name for name in names}


def _read_policies(policies: Any, training_type: type | None) -> dict[str, Any]:
    path = "multi_agent.policies"
    if isinstance(policies, (set, frozenset)):
        policies = sorted(policies)
    if isinstance(policies, (list, tuple)):
        policies = dict.fromkeys(policies)
    result: dict[str, Any] = {}
    for name, overrides in mapping_at(policies, path).items():
        result[name] = {}
        given = mapping_at(overrides or {}, f"{path}.{name}")
        own_type = training_type
        if "algorithm" in given:
            algorithm = result[name]["algorithm"] = given.pop("algorithm")
            own_type = training_class(algorithm)
        for section, values in given.items():
            if section not in PER_POLICY:
                known = ["algorithm", *PER_POLICY]
                raise unknown(f"{path}.{name}", section, known, _homes(own_type))
            type_ = own_type if section == "training" else config.SECTIONS[section]
            where = f"{path}.{name}.{section}"
            if type_ is None:
                result[name][section] = mapping_at(values, where)
            else:
                result[name][section] = dump(coerce_fields(type_, values, where))
    return result
