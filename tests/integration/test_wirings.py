"""The same numbers whatever the wiring: executor, transport, process, company."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from policy_server.inference.few_rows import FEW
from sim_clients.client import Client, Group
from sim_clients.protocol import GroupSpec, Step, StepGroup, decode, encode
from tests.gateway.conftest import World
from tests.gateway.ledger import ACTION, OBSERVATION
from tests.gateway.wire import Peer
from tests.integration.live import live
from tests.integration.same_bits import config, equal, tensors

TRANSPORTS = ["tcp", "ipc", "local"]  # the last: the local socket, to which clients move
EXECUTORS = ["numpy", "torch"]


@pytest.fixture(scope="module")
def ray():
    """One for all wirings: starting it is most of the time."""
    import ray

    from policy_server.server import start_ray

    start_ray(None)
    yield
    ray.shutdown()


@pytest.fixture
def bind(transport):
    """An address of that kind. Paths of sockets must be short, unlike those of `tmp_path`."""
    if transport != "ipc":
        yield "tcp://127.0.0.1:*"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"ipc://{Path(folder) / 'door'}"


def train(algorithm):
    """Five updates; how far the ratio was from 1 before the first step of each."""
    return [
        algorithm.train()["policies"]["default_policy"]["metrics"]["first_ratio_error"]
        for _ in range(5)
    ]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("executor", "transport", "lanes", "memory"),
    [
        ("numpy", "tcp", FEW // 2, "none"),  # in one compiled call
        ("numpy", "ipc", FEW + 4, "none"),  # through BLAS
        ("numpy", "local", FEW // 2, "none"),
        ("torch", "tcp", FEW + 4, "none"),
        ("torch", "ipc", FEW // 2, "none"),
        ("torch", "ipc", FEW // 2, "lstm"),
    ],
)
def test_sockets_and_ray_give_the_same_bits_as_one_process(
    tmp_path, ray, bind, executor, transport, lanes, memory
):
    door = {"bind": bind, "local_sockets": transport == "local"}
    settings = config(lanes, memory, **door).inference(device="cpu", executor=executor)
    with settings.build(in_process=True) as local:
        mine = train(local)
        expected = tensors(local, tmp_path, "local")
    with settings.build() as remote:
        theirs = train(remote)
        crossed = tensors(remote, tmp_path, "remote")
    equal(expected, crossed)
    assert 0 <= max(mine) < 1e-5, "the ratio is 1 on data of the policy itself"
    assert mine == theirs, "and on data that crossed the wire"


# -- what a lane is told, in any company ----------------------------------------------------------

LANES, STEPS = 2, 40
ASYNC = {"collection": {"mode": "async"}}


def sight(simulator: int) -> np.ndarray:
    """What it sees, step by step: [STEPS, LANES, 4]."""
    seen = np.random.default_rng(simulator).normal(size=(STEPS, LANES, 4))
    return seen.astype(OBSERVATION.dtype)


def told_alone(simulators, executor):
    """Per simulator, the actions of all steps: one simulator per tick, without sockets."""
    world = World(**ASYNC, inference={"executor": executor, "device": "cpu"})
    specs = (GroupSpec("agent", OBSERVATION, ACTION, LANES),)
    told = []
    for number in range(simulators):
        peer = Peer(world, b"p%d" % number, specs)
        peer.hello(run_id=bytes([number]) * 16, identity=f"p{number}")
        told.append([])
        for t, obs in enumerate(sight(number)):
            flags = bytes([t == 0] * LANES)
            group = StepGroup(None, flags, b"\0" * 4 * LANES, [obs.tobytes()])
            (reply,) = peer.send(encode(Step(t + 1, [group])))
            told[-1].append(reply.groups[0].actions)
    return [columns(of_one) for of_one in told]


def columns(told):
    """Bytes of the actions, step by step -> categories [STEPS, LANES], reals [STEPS, LANES, 2]."""
    categories = np.stack([np.frombuffer(category, "<i8") for category, _ in told])
    reals = np.stack([np.frombuffer(real, "<f4").reshape(LANES, 2) for _, real in told])
    return categories, reals


def told_together(simulators, executor):
    """The same, all of them in each tick."""
    world = World(**ASYNC, inference={"executor": executor, "device": "cpu"})
    specs = (GroupSpec("agent", OBSERVATION, ACTION, LANES),)
    names = [b"p%d" % number for number in range(simulators)]
    for number, name in enumerate(names):
        Peer(world, name, specs).hello(run_id=bytes([number]) * 16, identity=f"p{number}")
    seen, told = [sight(number) for number in range(simulators)], {name: [] for name in names}
    for t in range(STEPS):
        inbox = []
        for name, obs in zip(names, seen, strict=True):
            flags = bytes([t == 0] * LANES)
            group = StepGroup(None, flags, b"\0" * 4 * LANES, [obs[t].tobytes()])
            inbox.append((name, encode(Step(t + 1, [group]))))
        for name, frame in world.tick(*inbox):
            told[name].append(decode(frame).groups[0].actions)
    return [columns(told[name]) for name in names]


def told_over(simulators, executor, bind, local):
    """The same over sockets; who shares a tick with whom is chance."""
    told = [None] * simulators

    def play(number, address):
        said = []
        with Client(address, Group(OBSERVATION, ACTION, LANES), identity=f"p{number}") as client:
            for t, obs in enumerate(sight(number)):
                nothing = np.zeros(LANES)
                said.append(client.step(obs) if t == 0 else client.step(obs, nothing, nothing > 0))
                said[-1] = [np.array(part) for part in said[-1]]
        told[number] = tuple(np.stack(part) for part in zip(*said, strict=True))

    sections = {"inference": {"executor": executor, "device": "cpu"}, **ASYNC}
    with live(bind=bind, server={"seed": 1, "local_sockets": local}, **sections) as world:
        threads = [
            threading.Thread(target=play, args=(number, world.address))
            for number in range(simulators)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    return told


def compare(told, expected, exactly):
    for (categories, reals), (category, real) in zip(told, expected, strict=True):
        np.testing.assert_array_equal(categories, category)
        if exactly:
            np.testing.assert_array_equal(reals, real)
        else:
            np.testing.assert_allclose(reals, real, rtol=0, atol=1e-5)
        assert len(np.unique(reals)) == reals.size, "every lane and step has noise of its own"


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("simulators", [2, FEW // LANES, FEW])
def test_company_changes_nothing(executor, simulators):
    """Up to FEW rows not a bit: they are computed row by row. Above, and in torch, a matrix
    product may sum in another order."""
    exactly = executor == "numpy" and simulators * LANES <= FEW
    compare(told_together(simulators, executor), told_alone(simulators, executor), exactly)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sockets_tell_what_is_told_without_them(bind, executor, transport):
    simulators = FEW // LANES
    told = told_over(simulators, executor, bind, transport == "local")
    compare(told, told_alone(simulators, executor), executor == "numpy")
