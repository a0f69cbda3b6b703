"""Every way to run a network gives the numbers that the learner's own forward pass gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from policy_server.config import InferenceConfig, ModelConfig
from policy_server.errors import CheckpointError, ConfigError
from policy_server.inference.executors import Executor, make_executor
from policy_server.inference.few_rows import FEW
from policy_server.inference.numpy_executor import LARGE, NumpyExecutor
from policy_server.inference.sampling import Sampler
from policy_server.inference.torch_executor import TorchExecutor
from policy_server.networks import PolicyNetwork, build_network
from policy_server.networks.device import pick_device
from policy_server.networks.mlp import ACTIVATIONS
from policy_server.networks.policy import PlainPolicy, StandardNetwork
from policy_server.networks.snapshot import flatten_parameters
from policy_server.types import ActionLayout, Leaves, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

VECTORS = Dict(
    {
        "bits": MultiBinary(3),
        "bytes": Box(0, 255, (2, 2), "uint8"),
        "choice": Discrete(4, start=-1),
        "choices": MultiDiscrete([2, 3], start=[1, 0]),
        "half": Box(-1, 1, (2,), "float16"),
        "single": Box(-10, 10, (5,)),
    }
)
IMAGES = Dict({"camera": Box(0, 255, (20, 16, 3), "uint8"), "speed": Box(-1, 1, (2,))})
ACTIONS = Dict({"act": Discrete(5), "steer": Box(-1, 1, (2,))})


def network(observation: Space, seed: int, **model: object) -> PolicyNetwork:
    """Far from its first weights: biases and norms matter, heads are large."""
    torch.manual_seed(seed)
    built = build_network(PolicySpaces(observation, ACTIONS), ModelConfig(**model))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return built


def observations(space: Space, n: int) -> Leaves:
    rng = np.random.default_rng(n)
    columns = {
        "bits": rng.integers(0, 2, (n, 3)).astype(np.int8),
        "bytes": rng.integers(0, 256, (n, 2, 2)).astype(np.uint8),
        "choice": rng.integers(-1, 3, n),
        "choices": rng.integers([1, 0], [3, 3], (n, 2)),
        "half": rng.uniform(-1, 1, (n, 2)).astype(np.float16),
        "single": rng.normal(0, 3, (n, 5)).astype(np.float32),
        "camera": rng.integers(0, 256, (n, 20, 16, 3)).astype(np.uint8),
        "speed": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
    }
    return tuple(columns[key] for key in sorted(space.spaces))  # type: ignore[attr-defined]


def executor(kind: str, observation: Space, model: dict[str, object]) -> Executor:
    """With weights of its own, to be replaced."""
    return make_executor(
        network(observation, 1, **model), observation, InferenceConfig("cpu", kind)
    )


def assert_agrees(made: Executor, learner: PolicyNetwork, observation: Space) -> None:
    made.load(flatten_parameters(learner))
    for n in (1, 2, FEW, FEW + 1, 33):
        obs = observations(observation, n)
        with torch.no_grad():
            head, _ = learner([torch.from_numpy(leaf) for leaf in obs])
        mine = made(obs)
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, head.numpy(), rtol=1e-5, atol=1e-5)
    if learner.log_std is None:
        assert made.log_std is None
    else:
        np.testing.assert_array_equal(made.log_std, learner.log_std.detach().numpy())


@pytest.mark.parametrize(
    ("kind", "activation", "layer_norm"),
    [
        case
        for case in itertools.product(("numpy", "torch"), ACTIVATIONS, (False, True))
        if case[:2] != ("numpy", "gelu")
    ],
)
def test_dense_networks_agree(kind, activation, layer_norm):
    model = {"hidden": (48, 32), "activation": activation, "layer_norm": layer_norm}
    made = executor(kind, VECTORS, model)
    assert isinstance(made, NumpyExecutor if kind == "numpy" else TorchExecutor)
    assert_agrees(made, network(VECTORS, 2, **model), VECTORS)


@pytest.mark.parametrize(
    "model",
    [
        {"hidden": ()},
        {"share_layers": True},
        {"free_log_std": False},
        {"hidden": (16,), "free_log_std": False, "layer_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_other_shapes_of_dense_networks_agree(kind, model):
    assert_agrees(executor(kind, VECTORS, model), network(VECTORS, 2, **model), VECTORS)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu"])
def test_convolutions_agree(share, activation):
    model = {
        "conv_filters": ((8, 4, 2), (16, 3, 1)),
        "activation": activation,
        "share_conv": share,
        "layer_norm": True,
    }
    made = executor("auto", IMAGES, model)
    assert isinstance(made, TorchExecutor)
    assert_agrees(made, network(IMAGES, 2, **model), IMAGES)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_snapshot_is_not_bound_to_the_learner(kind):
    made, learner = executor(kind, VECTORS, {}), network(VECTORS, 2)
    weights = flatten_parameters(learner)
    obs = observations(VECTORS, 4)
    before = made(obs)
    made.load(weights)
    after = made(obs)
    assert abs(after - before).max() > 0.1
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(made(obs), after)


@pytest.mark.parametrize("hidden", [(48,), (300, 300)], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_nobody_can_write_to_the_snapshot_in_use(kind, hidden):
    made = executor(kind, VECTORS, {"hidden": hidden, "layer_norm": True})
    vector = flatten_parameters(network(VECTORS, 2, hidden=hidden, layer_norm=True)).copy()
    made.load(vector)
    some = [observations(VECTORS, n) for n in (2, FEW + 1)]
    before = [made(obs) for obs in some]
    vector[:] = 0
    for obs, head in zip(some, before, strict=True):
        np.testing.assert_array_equal(made(obs), head)
    assert not made.weights().flags.writeable


@pytest.mark.parametrize("rows", [1, FEW])
def test_a_handful_of_rows_acts_on_a_published_snapshot(rows):
    made, learner = executor("numpy", VECTORS, {}), network(VECTORS, 2)
    made.load(flatten_parameters(learner))
    assert made.few is not None
    sampler = Sampler(ActionLayout(ACTIONS))
    x = made.vector(observations(VECTORS, rows))
    slots, draws = np.arange(rows), np.zeros(rows, np.uint64)
    keys = np.arange(rows).astype(np.uint64)
    choice = made.few.act(x, sampler, made.log_std, None, slots, keys, draws, None)
    head = made(observations(VECTORS, rows))
    logp = sampler.log_prob(head, made.log_std, None, choice.categories, choice.reals)
    np.testing.assert_allclose(choice.logp, logp, rtol=1e-5, atol=1e-5)


def test_large_layers_agree_and_lie_where_they_were_flatten_parameters():
    model = {"hidden": (300, 300)}
    made, learner = executor("numpy", VECTORS, model), network(VECTORS, 2, **model)
    assert_agrees(made, learner, VECTORS)
    vector = flatten_parameters(learner)
    made.load(vector)
    assert made.few is None
    inside = [np.shares_memory(layer.factors, vector) for layer in made._layers]
    assert inside == [layer.factors.size > LARGE for layer in made._layers]
    assert any(inside)
    assert not all(inside)


class Computed(StandardNetwork):
    """Its layers are not its parameters."""

    def policy_layers(self):
        plain = super().policy_layers()
        return PlainPolicy(plain.recipe, [x._replace(weight=2 * x.weight) for x in plain.layers])


class Turned(StandardNetwork):
    def policy_layers(self):
        plain = super().policy_layers()
        return PlainPolicy(plain.recipe, [x._replace(weight=x.weight.T) for x in plain.layers])


@pytest.mark.parametrize("kind", [Computed, Turned])
def test_layers_that_are_not_parameters_are_refused(kind):
    made = kind(PolicySpaces(VECTORS, ACTIONS), ModelConfig())
    with pytest.raises(ValueError, match="the network's own parameters as they are"):
        NumpyExecutor(made)


def test_torch_runs_what_is_not_float32_on_copies():
    learner, half = network(VECTORS, 2), network(VECTORS, 1)
    half.value_head.double()
    made = TorchExecutor(half, torch.device("cpu"))
    assert_agrees(made, learner, VECTORS)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_snapshot_in_use_can_be_had(kind):
    made, vector = executor(kind, VECTORS, {}), flatten_parameters(network(VECTORS, 2))
    first = made.weights().copy()
    np.testing.assert_array_equal(first, flatten_parameters(network(VECTORS, 1)))
    made.load(vector)
    np.testing.assert_array_equal(made.weights(), vector)
    assert (first != vector).any()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_snapshot_of_another_network_is_refused_and_changes_nothing(kind):
    made, vector = executor(kind, VECTORS, {}), flatten_parameters(network(VECTORS, 2))
    obs, before = observations(VECTORS, 4), made.weights().copy()
    head = made(obs)
    for wrong in (vector[1:], np.append(vector, np.float32(0))):
        with pytest.raises(CheckpointError, match="got shape"):
            made.load(wrong)
    np.testing.assert_array_equal(made(obs), head)
    np.testing.assert_array_equal(made.weights(), before)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_observations_stay_as_they_are(kind):
    obs = observations(VECTORS, 4)
    copies = [leaf.copy() for leaf in obs]
    for leaf in obs:
        leaf.setflags(write=False)
    executor(kind, VECTORS, {"layer_norm": True})(obs)
    for leaf, copy in zip(obs, copies, strict=True):
        np.testing.assert_array_equal(leaf, copy)


def test_auto_takes_numpy_where_that_can():
    assert isinstance(executor("auto", VECTORS, {}), NumpyExecutor)
    assert isinstance(executor("auto", VECTORS, {"activation": "gelu"}), TorchExecutor)


@pytest.mark.parametrize(("observation", "activation"), [(IMAGES, "tanh"), (VECTORS, "gelu")])
def test_numpy_for_more_than_dense_layers_is_refused(observation, activation):
    with pytest.raises(ConfigError, match=r"inference\.executor: 'numpy' runs plain MLPs only"):
        executor("numpy", observation, {"activation": activation})


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="GPUs of this machine"):
        pick_device("cuda:99")


class Slice(torch.nn.Module):
    """A network of a user's, whose head is a part of something larger."""

    log_std = None

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 6)

    def policy(self, obs):
        return self.layer(obs[0])[:, :5]


def test_a_head_that_is_a_slice_is_laid_out_for_sampling():
    made = TorchExecutor(Slice(), torch.device("cpu"))  # type: ignore[arg-type]
    head = made((np.ones((4, 3), np.float32),))
    assert head.shape == (4, 5)
    assert head.flags.c_contiguous
