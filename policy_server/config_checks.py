"""Do the settings make sense, alone and together? Run once, whenever Settings are made.

Every error names each setting involved by its path, with its value, and a way out.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from policy_server.algorithms.contract import check_values
from policy_server.errors import ConfigError
from policy_server.exploration.plugin import NONE, options_of

if TYPE_CHECKING:
    from policy_server.settings import PolicySettings, Settings

ACTIVATIONS = ("tanh", "relu", "leaky_relu", "elu", "silu", "gelu")
MODES = ("auto", "sync", "async")
EXECUTORS = ("auto", "numpy", "torch", "cuda_graph")
MEMORIES = ("none", "lstm", "attention")
PRECISIONS = ("float32", "bfloat16")
STORAGE_DTYPES = ("float32", "float16")
RESERVED_NAMES = ("dropped", "evaluation")
"""First parts of metric keys ("dropped/stale_policy"), which no policy may take."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

# Path -> smallest value allowed; None, where the field allows it, is always fine.
_AT_LEAST: dict[str, int] = {
    "simulators.num": 0,
    "simulators.lanes": 1,
    "simulators.max_restarts": 0,
    "collection.fragment_length": 1,
    "collection.max_policy_lag": 0,
    "collection.max_queued_batches": 1,
    "collection.straggler_s": 0,
    "evaluation.interval": 0,
    "evaluation.episodes": 1,
    "checkpointing.every": 0,
    "checkpointing.keep": 0,
    "server.max_message_bytes": 1024,
    "server.max_lanes": 1,
    "server.max_sessions": 1,
    "server.seed": 0,
    "learners.threads": 0,
    "learners.max_restarts": 0,
    "metrics.window_episodes": 1,
}


def check(settings: Settings) -> None:
    """Checks one set of settings.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    for path, low in _AT_LEAST.items():
        _at_least(path, _get(settings, path), low)
    _above_zero("server.lease_s", settings.server.lease_s)
    _one_of("collection.mode", settings.collection.mode, MODES)
    _one_of("inference.executor", settings.inference.executor, EXECUTORS)
    for path in ("learners.device", "inference.device"):
        device = _get(settings, path)
        if not _DEVICE.fullmatch(device):
            raise ConfigError(
                f'{path}: expected "auto", "cpu", "cuda" or "cuda:1", got {device!r}.'
            )
    if "://" not in settings.server.bind:
        raise ConfigError(
            f"server.bind: expected an endpoint such as tcp://127.0.0.1:5555, got "
            f"{settings.server.bind!r}."
        )
    _check_environment(settings)
    _check_policies(settings)
    _check_learning("", settings)
    for name, overrides in settings.multi_agent.policies.items():
        if any(overrides.values()):
            _check_learning(f"multi_agent.policies.{name}.", settings.policy_settings(name))


def _check_environment(settings: Settings) -> None:
    environment, num = settings.environment, settings.simulators.num
    if num > 0 and environment.env is None:
        raise ConfigError(
            f"simulators.num = {num} with environment.env = none: name the environment that the "
            "simulators are to run, or set simulators.num = 0 and let them connect by themselves."
        )
    if (environment.observation_space is None) != (environment.action_space is None):
        given, missing = "observation_space", "action_space"
        if environment.observation_space is None:
            given, missing = missing, given
        raise ConfigError(
            f"environment.{given} is given and environment.{missing} = none: give both, or none "
            "to take them from the first simulator that connects."
        )


def _check_policies(settings: Settings) -> None:
    agents = settings.multi_agent
    names = list(agents.policies)
    if not names:
        raise ConfigError("multi_agent.policies: expected at least one policy, got none.")
    for name in names:
        if not name or "/" in name or name in RESERVED_NAMES or len(name) > 128:
            raise ConfigError(
                f"multi_agent.policies: expected names of 1 to 128 characters without '/', other "
                f"than {' and '.join(RESERVED_NAMES)}, got {name!r}."
            )
    if not agents.policy_mapping:
        raise ConfigError(
            'multi_agent.policy_mapping: expected entries such as "*" = '
            f'"{names[0]}", got none: no simulator could play.'
        )
    for pattern, target in agents.policy_mapping.items():
        if target not in agents.policies:
            raise ConfigError(
                f"multi_agent.policy_mapping sends {pattern!r} to {target!r}, but "
                f"multi_agent.policies has only {', '.join(map(repr, names))}."
            )
    for name in agents.policies_to_train or ():
        if name not in agents.policies:
            raise ConfigError(
                f"multi_agent.policies_to_train names {name!r}, but multi_agent.policies has only "
                f"{', '.join(map(repr, names))}."
            )


def _check_learning(prefix: str, policy: Settings | PolicySettings) -> None:
    """The sections that a policy may override; `prefix` is their path."""
    model, preprocessing = policy.model, policy.preprocessing
    _one_of(f"{prefix}model.activation", model.activation, ACTIVATIONS)
    _one_of(f"{prefix}model.precision", model.precision, PRECISIONS)
    if model.conv_activation is not None:
        _one_of(f"{prefix}model.conv_activation", model.conv_activation, ACTIVATIONS)
    for i, units in enumerate(model.hidden):
        _at_least(f"{prefix}model.hidden[{i}]", units, 1)
    for i, row in enumerate(model.conv_filters or ()):
        for number, what in zip(row, ("channels", "kernel", "stride"), strict=True):
            _at_least(f"{prefix}model.conv_filters[{i}] {what}", number, 1)
    if not math.isfinite(model.initial_log_std):
        raise ConfigError(
            f"{prefix}model.initial_log_std: expected a finite number, got {model.initial_log_std}."
        )
    for name, value in (("custom", model.custom), ("distribution", model.distribution)):
        if value is not None and not re.fullmatch(r"[\w.]+:[\w.]+", value):
            raise ConfigError(f'{prefix}model.{name}: expected "module:Class", got {value!r}.')
    if model.autoregressive and model.distribution is not None:
        raise ConfigError(
            f"{prefix}model.autoregressive = true with {prefix}model.distribution = "
            f"{model.distribution!r}: a distribution of your own decides by itself how the parts "
            "of an action depend on one another; leave one of them out."
        )
    if model.custom is not None and model.precision != "float32":
        raise ConfigError(
            f"{prefix}model.precision = {model.precision!r} with {prefix}model.custom = "
            f"{model.custom!r}: a network of your own chooses by itself; leave precision out."
        )
    if model.custom is None and model.custom_kwargs:
        raise ConfigError(
            f"{prefix}model.custom_kwargs = {model.custom_kwargs!r} with model.custom = none: name "
            "the module, or leave its arguments out."
        )
    _check_memory(prefix, policy)
    _check_exploration(prefix, policy)
    _check_collection(policy)
    for pixels in preprocessing.resize or ():
        _at_least(f"{prefix}preprocessing.resize", pixels, 1)
    _at_least(f"{prefix}preprocessing.frame_stack", preprocessing.frame_stack, 1)
    _above_zero(f"{prefix}preprocessing.observation_clip", preprocessing.observation_clip, True)
    _above_zero(f"{prefix}preprocessing.reward_scale", preprocessing.reward_scale)
    if preprocessing.reward_clip is not None:
        _above_zero(f"{prefix}preprocessing.reward_clip", preprocessing.reward_clip, True)
    if preprocessing.storage_dtype is not None:
        _one_of(f"{prefix}preprocessing.storage_dtype", preprocessing.storage_dtype, STORAGE_DTYPES)
    check_values(policy.training, f"{prefix}training")
    policy.training.supports.check_model(policy.algorithm, model, prefix)
    if policy.training.batch_steps < 1:
        raise ConfigError(
            f"{prefix}training: expected an update to take at least one step (train_batch_size, as a "
            f"rule), got {policy.training.batch_steps}."
        )
    batch = getattr(policy.training, "train_batch_size", None)
    minibatch = getattr(policy.training, "minibatch_size", None)
    if batch is not None and minibatch is not None and minibatch > batch:
        raise ConfigError(
            f"{prefix}training.minibatch_size = {minibatch} is more than "
            f"{prefix}training.train_batch_size = {batch}: a minibatch is a part of the batch, "
            "so lower the one or raise the other."
        )


def _check_memory(prefix: str, policy: Settings | PolicySettings) -> None:
    model = policy.model
    _one_of(f"{prefix}model.memory", model.memory, MEMORIES)
    for name in ("memory_size", "memory_layers", "memory_heads", "memory_steps"):
        _at_least(f"{prefix}model.{name}", getattr(model, name), 1)
    if model.memory == "none":
        return
    memory = f"{prefix}model.memory = {model.memory!r} with"
    if not policy.training.supports.recurrent:
        raise ConfigError(
            f"{memory} {policy.algorithm}: expected an algorithm that can learn with a memory; "
            "`policy-server algorithms` lists them. Leave model.memory out, or let "
            "preprocessing.frame_stack show the last observations."
        )
    if model.memory == "attention" and model.memory_size % model.memory_heads:
        raise ConfigError(
            f"{memory} {prefix}model.memory_size = {model.memory_size} and "
            f"{prefix}model.memory_heads = {model.memory_heads}: heads share the size equally, so "
            "it must be a multiple of their number."
        )
    if model.custom is not None:
        raise ConfigError(
            f"{memory} {prefix}model.custom = {model.custom!r}: a network of your own has no "
            "memory of ours; leave one of them out."
        )
    if model.precision != "float32":
        raise ConfigError(
            f"{memory} {prefix}model.precision = {model.precision!r}: expected 'float32' where "
            "there is a memory."
        )


def _check_exploration(prefix: str, policy: Settings | PolicySettings) -> None:
    exploration, path = policy.exploration, f"{prefix}exploration"
    _above_zero(f"{path}.weight", exploration.weight)
    for name in ("decay", "gamma"):
        value = getattr(exploration, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{path}.{name}: expected a number in [0, 1], got {value}.")
    if exploration.name == NONE:
        if exploration.options:
            raise ConfigError(
                f"{path}.options = {exploration.options!r} with {path}.name = {NONE!r}: name the "
                "plug-in, or leave its options out."
            )
        return
    options_of(exploration, path)
    if not policy.training.supports.intrinsic:
        raise ConfigError(
            f"{path}.name = {exploration.name!r} with {policy.algorithm}: expected an algorithm that "
            "learns from the reward of each step; `policy-server algorithms` lists them. Leave "
            "exploration out, or choose another algorithm."
        )


def _check_collection(policy: Settings | PolicySettings) -> None:
    if not policy.training.one_version:
        return
    collection = policy.collection
    given = ["collection.mode = 'async'"] if collection.mode == "async" else []
    given += ["collection.ahead = true"] if collection.ahead else []
    if given:
        raise ConfigError(
            f"{given[0]} with {policy.algorithm}: expected steps that all come from the policy as it "
            "stands, which it asks again what it would have done. Leave it out, or choose another "
            "algorithm."
        )


def _get(settings: Settings, path: str) -> Any:
    section, _, field = path.partition(".")
    return getattr(getattr(settings, section), field)


def _at_least(path: str, value: float | None, low: int) -> None:
    if value is not None and not low <= value < math.inf:
        raise ConfigError(f"{path}: expected at least {low}, got {value}.")


def _above_zero(path: str, value: float, infinite: bool = False) -> None:
    if not value > 0 or (value == math.inf and not infinite):
        raise ConfigError(
            f"{path}: expected a {'' if infinite else 'finite '}number above 0, got {value}."
        )


def _one_of(path: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{path}: expected one of {', '.join(choices)}, got {value!r}.")
