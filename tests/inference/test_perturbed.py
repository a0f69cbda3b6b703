"""Episodes that are each played with parameters of their own: one forward pass gives what a
network per episode would."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.acting import CLEAN, Perturbed
from policy_server.config import InferenceConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import ConfigError
from policy_server.inference import perturbed as executor_page
from policy_server.inference.deterministic import DeterministicChooser
from policy_server.inference.perturbed import PerturbedExecutor
from policy_server.inference.sampling import FORBIDDEN, Choice
from policy_server.inference.served import ServedPolicy
from policy_server.networks import flatten_parameters, load_flat, per_row
from policy_server.networks.actor import ActorNetwork
from policy_server.networks.per_row import PerRowActor
from policy_server.networks.snapshot import learned
from policy_server.perturbation import perturbed
from policy_server.types import ActionLayout, Leaves, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, MultiBinary, MultiDiscrete, leaves
from tests.algorithms.handmade import random_leaf
from tests.broken import broken

ACTION = Dict({"a": MultiDiscrete([3, 4]), "b": Box(-2, 2, (2,))})
LAYOUT = ActionLayout(ACTION)
WIDTH = LAYOUT.mask_width + LAYOUT.reals
IMAGE = Box(0, 255, (12, 10, 3), np.uint8)
N, SEED, DEVIATION = 7, 3, 0.1
CASES = [
    (Box(-9, 9, (5,)), {"hidden": (8, 6)}),
    (Box(-9, 9, (5,)), {"hidden": ()}),
    (Box(-9, 9, (2, 2)), {"hidden": (8, 8), "layer_norm": True, "activation": "relu"}),
    (Dict({"x": MultiDiscrete([3, 4]), "y": MultiBinary(3)}), {"hidden": (8,)}),
    (IMAGE, {"hidden": (8,), "conv_filters": ((4, 4, 2), (5, 2, 1))}),
    (Dict({"see": IMAGE, "feel": Box(-1, 1, (3,))}), {"hidden": (6,), "activation": "elu"}),
]


def network(space: Any, model: dict[str, Any]) -> ActorNetwork:
    torch.manual_seed(0)
    return ActorNetwork(PolicySpaces(space, ACTION), ModelConfig(**model), WIDTH)


def observations(space: Any, n: int = N) -> Leaves:
    rng = np.random.default_rng(1)
    return tuple(random_leaf(leaf, (n,), rng) for _, leaf in leaves(space))


def one_by_one(net: ActorNetwork, rows: np.ndarray, obs: Leaves) -> np.ndarray:
    """Each row by a network that was given its parameters."""
    heads = []
    for i, row in enumerate(rows):
        load_flat(net, row)
        with torch.no_grad():
            heads.append(net.policy([torch.from_numpy(leaf[i : i + 1]) for leaf in obs]).numpy())
    return np.concatenate(heads)


def check_rows(kind: type[PerRowActor], space: Any, model: dict[str, Any]) -> None:
    net, obs = network(space, model), observations(space)
    own = flatten_parameters(net)
    rows = own + np.random.default_rng(2).normal(0, 0.3, (N, len(own))).astype(np.float32)
    with torch.no_grad():
        found = kind(net)(torch.from_numpy(rows), [torch.from_numpy(leaf) for leaf in obs])
    wanted = one_by_one(net, rows, obs)
    assert np.ptp(wanted, axis=0).min() > 0.05, "the rows differ"
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("space", "model"), CASES)
def test_each_row_by_its_own_parameters(space: Any, model: dict[str, Any]) -> None:
    check_rows(PerRowActor, space, model)


def check_all_rows(kind: type[PerRowActor]) -> None:
    for space, model in CASES:
        check_rows(kind, space, model)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("transpose(1, 2))[:, 0] + bias", "transpose(1, 2))[:, 0] - bias"),
        ("eps=layer.eps) * weight + bias", "eps=layer.eps) + bias"),
        ("groups=n)", "groups=n) * 1.01"),
        ("places[id(tensors[0])]", "max(0, places[id(tensors[0])] - 2)"),
    ],
)
def test_a_broken_row_shows(line: str, instead: str) -> None:
    kind = broken(per_row, line, instead)["PerRowActor"]
    with pytest.raises((AssertionError, RuntimeError)):
        check_all_rows(kind)


# -- episodes --------------------------------------------------------------------------------------

SPACE, MODEL = Box(-9, 9, (5,)), {"hidden": (8,)}
ALL = np.ones(5 * 8 + 8 + 8 * WIDTH + WIDTH, bool)


def check_episodes(kind: type[PerturbedExecutor]) -> None:
    """Slots 4, 0, 9 play episodes 6, 7 and 2, slot 2 none; then weights change in the middle."""
    net = network(SPACE, MODEL)
    first = flatten_parameters(net)
    second = first + np.float32(0.5)
    executor = kind(network(SPACE, MODEL), Perturbed(DEVIATION), InferenceConfig("cpu"), SEED)
    slots = np.array([4, 0, 9, 2])
    obs = observations(SPACE, 4)

    def check(*rows: np.ndarray, of: np.ndarray = slots) -> None:
        found = executor(tuple(leaf[: len(of)] for leaf in obs), of)
        np.testing.assert_allclose(found, one_by_one(net, np.stack(rows), obs), atol=1e-5)

    def noisy(weights: np.ndarray, episode: int) -> np.ndarray:
        return perturbed(weights, ALL, DEVIATION, SEED, episode)

    executor.start(slots, np.array([6, 7, 2, CLEAN]))
    check(*(noisy(first, episode) for episode in (6, 7, 2)), first)
    executor.load(second)
    # Who has begun goes on with what it began with; who plays without noise plays the newest.
    check(*(noisy(first, episode) for episode in (6, 7, 2)), second)
    executor.start(np.array([9, 0]), np.array([30, CLEAN]))
    check(noisy(first, 6), second, noisy(second, 30), second)
    executor.start(np.array([9]), np.array([31]))
    executor.load(first)  # before it acts for the first time
    check(noisy(first, 31), of=np.array([9]))
    executor.start(np.array([40]), np.array([33]))  # a slot that was not there
    check(noisy(first, 33), noisy(first, 6), of=np.array([40, 4]))
    np.testing.assert_allclose(
        executor(obs), one_by_one(net, np.stack([first] * 4), obs), atol=1e-5
    )
    assert executor.weights().tobytes() == first.tobytes()


def test_an_episode_keeps_the_parameters_it_began_with() -> None:
    check_episodes(PerturbedExecutor)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("self._fresh[slots] = episodes != CLEAN", "self._fresh[slots] = False"),
        ("self._fresh[slot] = False", "pass"),
        ("rows[torch.from_numpy(clean).to(self._device)] = self._clean", "pass"),
        ("self._episodes[slots] == CLEAN", "self._episodes[slots] == CLEAN - 1"),
        ("deviation = self._acting.deviation", "deviation = 0.0"),
        ("deviation, self._seed, episode)", "deviation, self._seed, episode + 1)"),
        ("self._clean = as_tensor(self._weights)", "self._clean = torch.zeros(self._size)"),
        ("np.where(clean, 0, slots)", "np.where(clean, 0, slots[::-1])"),
    ],
)
def test_a_broken_episode_shows(line: str, instead: str) -> None:
    kind = broken(executor_page, line, instead)["PerturbedExecutor"]
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        check_episodes(kind)


@pytest.mark.parametrize("executor", ["numpy", "cuda_graph"])
def test_executors_of_one_network_are_refused(executor: str) -> None:
    with pytest.raises(ConfigError, match="each episode has parameters of its own"):
        PerturbedExecutor(
            network(SPACE, MODEL), Perturbed(), InferenceConfig("cpu", executor), SEED
        )


# -- actions ---------------------------------------------------------------------------------------


def test_actions_are_the_mode() -> None:
    rng = np.random.default_rng(0)
    head = rng.normal(size=(N, WIDTH)).astype(np.float32)
    mask = rng.integers(0, 2, (N, LAYOUT.mask_width)).astype(np.uint8)
    mask[:, [1, 4]] = 1
    chooser = DeterministicChooser(LAYOUT)
    nothing = np.zeros((N, 0))
    choice = chooser.choose(head, None, mask, nothing, None, 0, np.arange(N))
    allowed = np.where(mask != 0, head[:, :7], -np.inf)
    assert choice.categories.tolist() == [
        [int(row[:3].argmax()), int(row[3:].argmax())] for row in allowed
    ]
    np.testing.assert_allclose(choice.reals, head[:, 7:])
    assert not choice.logp.any()
    own = chooser.log_prob(head, None, mask, choice.categories, choice.reals)
    assert not own.any()
    mask[2, choice.categories[2, 0]] = 0
    mask[5, 3 + choice.categories[5, 1]] = 0
    logp = chooser.log_prob(head, None, mask, choice.categories, choice.reals)
    assert (logp == FORBIDDEN).tolist() == [i in (2, 5) for i in range(N)]
    assert not chooser.log_prob(head, None, None, choice.categories, choice.reals).any()


def test_a_served_policy_acts_by_episode() -> None:
    served = ServedPolicy(
        "policy",
        PolicySpaces(SPACE, ACTION),
        partial(ActorNetwork, model=ModelConfig(**MODEL), width=WIDTH),
        Perturbed(DEVIATION),
        PreprocessingConfig(),
        InferenceConfig("cpu"),
        SEED,
    )
    assert served.perturbs
    slots, obs = np.array([3, 1]), observations(SPACE, 2)
    keys = served.lane_keys("place", lanes=4)

    def choose() -> Choice:
        return served.choose(obs, None, slots, keys, np.zeros(4, np.uint64), None, 0)

    served.start(slots, np.array([8, 9]))
    rows = [perturbed(served.weights(), ALL, DEVIATION, SEED, episode) for episode in (8, 9)]
    heads = one_by_one(network(SPACE, MODEL), np.stack(rows), obs)
    np.testing.assert_allclose(choose().reals, heads[:, 7:], atol=1e-5)
    served.start(slots, np.array([CLEAN, CLEAN]))
    heads = one_by_one(network(SPACE, MODEL), np.stack([served.weights()] * 2), obs)
    np.testing.assert_allclose(choose().reals, heads[:, 7:], atol=1e-5)


class Scaled(torch.nn.Module):
    """A user's module, with a number that is given and not learned."""

    def __init__(self, spaces: PolicySpaces, outputs: int):
        super().__init__()
        self.body = torch.nn.Linear(5, outputs)
        self.given = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.register_buffer("shift", torch.tensor(0.5))

    def policy(self, obs: Any) -> torch.Tensor:
        return torch.sin(self.given * self.body(obs[0]) + self.shift)


def test_a_module_of_the_users_own_is_perturbed_where_it_learns() -> None:
    model = {"hidden": (6,), "custom": f"{__name__}:Scaled"}
    executor = PerturbedExecutor(
        network(SPACE, model), Perturbed(DEVIATION), InferenceConfig("cpu"), SEED
    )
    net, obs, slots = network(SPACE, model), observations(SPACE, 4), np.arange(4)
    own, where = flatten_parameters(net), learned(net)
    assert own[~where].tolist() == [2.0, 0.5]
    executor.start(slots, slots)
    rows = np.stack([perturbed(own, where, DEVIATION, SEED, episode) for episode in range(4)])
    assert (rows[:, ~where] == [2.0, 0.5]).all()
    np.testing.assert_allclose(executor(obs, slots), one_by_one(net, rows, obs), atol=1e-5)
