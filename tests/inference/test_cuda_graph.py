"""The executor of a GPU. All but the recording itself is tested on any machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policy_server.config import InferenceConfig
from policy_server.errors import ConfigError
from policy_server.inference import cuda_graph
from policy_server.inference.cuda_graph import CudaGraphExecutor, bucket
from policy_server.inference.executors import make_executor
from policy_server.inference.torch_executor import TorchExecutor
from policy_server.networks.snapshot import flatten_parameters
from tests.gpu import DEVICES, full_precision, needs_gpu  # noqa: F401
from tests.inference.test_executors import IMAGES, VECTORS, network, observations

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "MOST_ROWS", 24)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("space", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_number_of_rows_gives_the_learners_numbers(device, space):
    """Under, at and above each bucket, several times the largest one, in an order in which rows
    of earlier ticks are left over; and again with other weights."""
    made = CudaGraphExecutor(network(space, 1), space, torch.device(device))
    places = [parameter.data_ptr() for parameter in made.network.parameters()]
    for seed in (2, 3):
        learner = network(space, seed)
        made.load(flatten_parameters(learner))
        for n in (24, 1, 5, 3, 16, 17, 25, 73, 2):
            obs = observations(space, n)
            with torch.no_grad():
                head, _ = learner([torch.from_numpy(leaf) for leaf in obs])
            mine = made(obs)
            assert mine.shape == head.shape
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, head.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(made.log_std, learner.log_std.detach().numpy())
    # What has been recorded looks for them where they were.
    assert places == [parameter.data_ptr() for parameter in made.network.parameters()]


@pytest.mark.usefixtures("small")
def test_an_answer_is_not_overwritten_by_the_next():
    made = CudaGraphExecutor(network(VECTORS, 1), VECTORS, CPU)
    first = made(observations(VECTORS, 7))
    kept = first.copy()
    made(observations(VECTORS, 8))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("n", "largest", "expected"),
    [(1, 24, 1), (2, 24, 2), (3, 24, 4), (16, 24, 16), (17, 24, 24), (24, 24, 24), (1, 1, 1)],
)
def test_buckets_are_powers_of_two_up_to_the_largest(n, largest, expected):
    assert bucket(n, largest) == expected


def test_large_observations_get_smaller_buckets(monkeypatch):
    monkeypatch.setattr(cuda_graph, "MOST_BYTES", 10_000)
    made = CudaGraphExecutor(network(IMAGES, 1), IMAGES, CPU)
    assert max(made._buckets) == 10  # 20 x 16 x 3 bytes and two floats each
    assert made(observations(IMAGES, 33)).shape == (33, 9 - 2)


def test_a_machine_without_gpu_says_so():
    with pytest.raises(ConfigError, match="'cuda_graph' expects a GPU, got device 'cpu'"):
        make_executor(network(VECTORS, 1), VECTORS, InferenceConfig("cpu", "cuda_graph"))


@needs_gpu
def test_auto_records_our_own_networks_only():
    made = make_executor(network(IMAGES, 1), IMAGES, InferenceConfig("cuda", "auto"))
    assert isinstance(made, CudaGraphExecutor)
    eager = make_executor(network(IMAGES, 1), IMAGES, InferenceConfig("cuda", "torch"))
    assert type(eager) is TorchExecutor


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_each_gpu_records_its_own():
    learner = network(IMAGES, 2)
    obs = observations(IMAGES, 5)
    for device in ("cuda:0", "cuda:1"):
        made = CudaGraphExecutor(network(IMAGES, 1), IMAGES, torch.device(device))
        made.load(flatten_parameters(learner))
        with torch.no_grad():
            head, _ = learner([torch.from_numpy(leaf) for leaf in obs])
        np.testing.assert_allclose(made(obs), head.numpy(), rtol=1e-4, atol=1e-4)
