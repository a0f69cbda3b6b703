"""Settings: one frozen dataclass per room, one builder over them, validated once.

Precedence: defaults < preset < file < flags. An unknown key is an error with "did you mean".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EnvironmentConfig:
    """What the simulators simulate.

    Attributes:
        env: a Gymnasium id ("CartPole-v1", "module:Id-v0"), "arena", or
            "pettingzoo:MODULE"; None: simulators come by themselves.
        env_kwargs: keyword arguments of the environment's constructor.
        observation_space, action_space: for external simulators, where the policy should exist
            before the first one connects (sim_clients.protocol spaces, or Gymnasium's).
        action_mask: the simulators send action masks with every observation.
    """

    env: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    observation_space: Any = None
    action_space: Any = None
    action_mask: bool = False


@dataclass(frozen=True)
class SimulatorsConfig:
    """Simulator processes that the server starts.

    Attributes:
        num: processes; 0: wait for those that connect.
        lanes: environments stepped by each process (>= 1).
        max_restarts: how often one that dies is started again.
    """

    num: int = 0
    lanes: int = 8
    max_restarts: int = 3


@dataclass(frozen=True)
class MultiAgentConfig:
    """Which policies there are and who plays by which.

    Attributes:
        policies: name -> overrides of `training`, `model`, `preprocessing`, `exploration` for this
            policy, and its own `algorithm`, whose `training` then begins with that algorithm's defaults.
        policy_mapping: group name (or glob pattern) -> policy name; the first match counts.
        policies_to_train: names; None: all.
    """

    policies: dict[str, dict[str, Any]] = field(default_factory=lambda: {"default_policy": {}})
    policy_mapping: dict[str, str] = field(default_factory=lambda: {"*": "default_policy"})
    policies_to_train: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The networks.

    Attributes:
        hidden: units of each fully connected layer behind the encoder.
        activation: "tanh", "relu", "leaky_relu", "elu", "silu" or "gelu".
        layer_norm: normalise each hidden layer before its activation.
        conv_filters: (channels, kernel, stride) per convolution; None: a default that fits the
            image; () treats images as flat vectors.
        conv_activation: activation behind each convolution; None: same as `activation`.
        share_conv: policy and value use one convolutional encoder.
        share_layers: policy and value share all hidden layers as well.
        free_log_std: one learned log deviation per action, not a function of the observation.
        initial_log_std: where it begins.
        autoregressive: of an action of several parts, each depends on the choices before it;
            otherwise they are independent of one another, given the observation.
        distribution: "module:Class" of a distribution over actions of the user's own (see docs),
            or None: independent categoricals and Gaussians.
        precision: of everything in front of the heads: "float32" or "bfloat16", which is meant
            for convolutions on a GPU. Weights, heads and log-probabilities stay in float32. Not
            for custom networks, which choose by themselves.
        memory: of the episode so far, behind the hidden layers, for policy and value together:
            "none", "lstm" or "attention" (GTrXL).
        memory_size: numbers per layer of the memory.
        memory_layers: layers of the memory.
        memory_heads: attention: heads per layer.
        memory_steps: longest sequence that gradients go back through (PG: the whole episode);
            attention: also how many steps it looks back.
        custom: "module:Class" of a torch module of the user's own (see docs), or None.
        custom_kwargs: its keyword arguments.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False
    conv_filters: tuple[tuple[int, int, int], ...] | None = None
    conv_activation: str | None = None
    share_conv: bool = True
    share_layers: bool = False
    free_log_std: bool = True
    initial_log_std: float = 0.0
    autoregressive: bool = False
    distribution: str | None = None
    precision: str = "float32"
    memory: str = "none"
    memory_size: int = 64
    memory_layers: int = 1
    memory_heads: int = 2
    memory_steps: int = 20
    custom: str | None = None
    custom_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreprocessingConfig:
    """What the server does to observations and rewards before anybody learns from them.

    Attributes:
        resize: (height, width) in pixels; images only.
        grayscale: colour images become one channel.
        frame_stack: last n frames of the lane, newest last, on the channel axis (images) or
            concatenated (vectors; choices too, each of which stays a choice).
        normalize_observations: running mean and deviation, kept and saved with the policy.
        observation_clip: normalised observations are clipped to +- this.
        reward_scale: factor on rewards, for the learner only.
        reward_clip: rewards are clipped to +- this after scaling; None: not.
        storage_dtype: "float32" or "float16" for stored float observations; None: as computed.
    """

    resize: tuple[int, int] | None = None
    grayscale: bool = False
    frame_stack: int = 1
    normalize_observations: bool = False
    observation_clip: float = 10.0
    reward_scale: float = 1.0
    reward_clip: float | None = None
    storage_dtype: str | None = None


@dataclass(frozen=True)
class ExplorationConfig:
    """Rewards for what is new, added to those of the simulators before the algorithm learns.

    They are divided by the running deviation of their own discounted returns, so that `weight`
    means the same in every environment. Rewards of the simulators are scaled and clipped first.

    Attributes:
        name: "none", "ICM" (curiosity), "RND", "RE3", or "module:Class" of your own.
        weight: of the intrinsic rewards, > 0.
        decay: share of the weight that is lost per environment step, 0..1: after n steps it is
            weight (1 - decay)^n.
        gamma: discount of the returns whose deviation counts, 0..1.
        options: of the plug-in, see its own table.
    """

    name: str = "none"
    weight: float = 0.5
    decay: float = 0.0
    gamma: float = 0.99
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CollectionConfig:
    """How steps become batches.

    Attributes:
        mode: "sync": replies wait while the learner works, every step of a batch comes from
            one policy version; "async": simulators never wait; "auto": what the algorithm is
            made for ("async" for IMPALA and APPO, else "sync").
        ahead: sync: the next batch is collected while the learner works on the last; replies wait
            when it is full. Its steps come from up to two policy versions.
        fragment_length: steps of one unroll; None: as the algorithm has it, or else sync, batch
            size / lanes; async, 64.
        max_policy_lag: async: unrolls whose oldest step is more versions behind are dropped; None:
            as many as come while unrolls of all lanes are played and wait: 4, or more where those
            make more than one batch or more than two may queue up.
        max_queued_batches: async: finished unrolls beyond this many batches (and beyond one unroll
            of each lane and a batch) are dropped, oldest first. Where lanes leave, what waits
            already is learned from still.
        straggler_s: sync: seconds that fast lanes wait for slow ones before they collect more
            than their share.
    """

    mode: str = "auto"
    ahead: bool = False
    fragment_length: int | None = None
    max_policy_lag: int | None = None
    max_queued_batches: int = 2
    straggler_s: float = 1.0


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy episodes, chosen by the server, not trained on, counted apart.

    Attributes:
        interval: updates between automatic evaluations; 0: none.
        episodes: how many each time.
    """

    interval: int = 0
    episodes: int = 10


@dataclass(frozen=True)
class CheckpointingConfig:
    """Attributes:
    every: updates between automatic checkpoints; 0: only the last one.
    keep: newest checkpoints kept; 0: all.
    """

    every: int = 50
    keep: int = 3


@dataclass(frozen=True)
class ServerConfig:
    """The door.

    Attributes:
        bind: ZeroMQ endpoint; port 0 or "*" takes a free one.
        insecure: allow an address that other machines can reach, without encryption or keys.
        lease_s: seconds of silence after which a simulator counts as gone.
        max_message_bytes: larger frames end the connection.
        max_lanes: of all sessions together.
        max_sessions: connected simulators.
        local_sockets: simulators on this machine may go on over a faster socket than ZeroMQ's.
        run_dir: metrics, checkpoints, resolved config; None: nothing is written.
        ray_address: cluster to join; None: Ray starts on this machine.
        seed: of everything that draws; None: random.
    """

    bind: str = "tcp://127.0.0.1:5555"
    insecure: bool = False
    lease_s: float = 60.0
    max_message_bytes: int = 256 * 1024 * 1024
    max_lanes: int = 65536
    max_sessions: int = 4096
    local_sockets: bool = True
    run_dir: str | None = None
    ray_address: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class LearnersConfig:
    """Attributes:
    device: "auto", "cpu", "cuda", "cuda:1", ...
    threads: torch threads of each learner; 0: one for networks of less than half a million parameters;
        for others all cores if simulators wait for the one learner (sync, not ahead), else cores
        minus two.
    max_restarts: how often a learner that dies is restarted from its last state, in a row.
    """

    device: str = "auto"
    threads: int = 0
    max_restarts: int = 3


@dataclass(frozen=True)
class InferenceConfig:
    """Attributes:
    device: "auto", "cpu", "cuda", ...
    executor: "auto", "numpy" (plain MLPs on the CPU), "torch", or "cuda_graph" (a network on a
        GPU that does the same whatever it sees: "auto" takes it for all but custom ones).
    """

    device: str = "auto"
    executor: str = "auto"


@dataclass(frozen=True)
class MetricsConfig:
    """Attributes:
    window_episodes: newest training episodes over which `episode_return_mean` is taken.
    """

    window_episodes: int = 20


SECTIONS: dict[str, type] = {
    "environment": EnvironmentConfig,
    "simulators": SimulatorsConfig,
    "multi_agent": MultiAgentConfig,
    "model": ModelConfig,
    "preprocessing": PreprocessingConfig,
    "exploration": ExplorationConfig,
    "collection": CollectionConfig,
    "evaluation": EvaluationConfig,
    "checkpointing": CheckpointingConfig,
    "server": ServerConfig,
    "learners": LearnersConfig,
    "inference": InferenceConfig,
    "metrics": MetricsConfig,
}
"""Every section but `training`, whose fields are on the algorithm's own page."""
