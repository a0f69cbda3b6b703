"""What single parts of the hot path take, each beside what would do the same without it.

One process, no sockets, one thread, one part at a time: caches are as warm as they can be. In a
live server, where simulators and the kernel use the same cores, all of it takes about twice as
long. These are the figures that docstrings and docs/DESIGN.md quote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from policy_server.bench.child import Child, children
from policy_server.bench.figure import Figure, Result, Tell
from policy_server.bench.frames import StepFrames, hello
from policy_server.bench.plan import Plan
from policy_server.bench.serving import build
from policy_server.bench.workloads import ACTION, FRAMES, MANY, OBSERVATION, Workload

Call = Callable[[], Any]
SHARE = 0.1
"""Of a window's seconds, for each side of each part."""


class Part(NamedTuple):
    """Something, and what stands beside it: makers of a call that is timed, in microseconds."""

    what: str
    ours: Callable[[], Call]
    beside: str
    limit: Callable[[], Call]


def parts(plan: Plan, tell: Tell) -> Result:
    """All of `PARTS`, both sides by turns."""
    times: dict[str, tuple[list[float], list[float]]] = {part.what: ([], []) for part in PARTS}
    with children(Child(main, plan.seconds * SHARE)) as (child,):
        for repeat in range(plan.repeats):
            for number, part in enumerate(PARTS):
                tell(f"parts: {part.what}, {repeat + 1} of {plan.repeats}")
                for side in (0, 1):
                    times[part.what][side].append(child.ask((number, side)))
        child.pipe.send(None)
    figures = [
        Figure(part.what, "µs", tuple(times[part.what][0]), tuple(times[part.what][1]),
               part.beside, None)
        for part in PARTS
    ]  # fmt: skip
    return Result("parts", "single parts of the hot path, without sockets", tuple(figures))


def main(pipe: Connection, seconds: float) -> None:
    """A process of its own. `pipe` says (number of the part, 0 for ours or 1), or None."""
    import torch

    torch.set_num_threads(1)
    calls: dict[tuple[int, int], Call] = {}
    while (task := pipe.recv()) is not None:
        if task not in calls:
            number, side = task
            calls[task] = (PARTS[number].ours, PARTS[number].limit)[side]()
            calls[task]()
        pipe.send(_time(calls[task], seconds))


def _time(call: Call, seconds: float) -> float:
    """Microseconds of one call, on average over so many seconds."""
    now, n = time.perf_counter, 0
    begin = now()
    while (end := now()) - begin < seconds:
        for _ in range(10):
            call()
        n += 10
    return (end - begin) / n * 1e6


# -- ticks -----------------------------------------------------------------------------------------


def tick(workload: Workload, messages: int, quick: bool = True) -> Call:
    """A tick of so many STEPs, put together, answered and recorded; `quick`: the compiled way
    where it can be."""
    gateway = build(workload, "tcp://127.0.0.1:*")
    if not quick:
        gateway.reader.shortcut = lambda *_: False
    peers = range(1, messages + 1)
    simulators = [StepFrames(workload, number) for number in range(messages)]
    gateway.answer([(peer, hello(workload)) for peer in peers], time.perf_counter())
    ring = _frames(simulators)

    def one() -> None:
        now = time.perf_counter()
        replies = gateway.answer(list(zip(peers, next(ring), strict=True)), now)
        assert len(replies) == messages
        gateway.finish(now)

    return one


def _frames(simulators: list[StepFrames]) -> Iterator[list[bytes]]:
    seq = 0
    while True:
        seq += 1
        yield [simulator.frame(seq) for simulator in simulators]


# -- inference -------------------------------------------------------------------------------------


def choose(rows: int, executor: str) -> Call:
    """Draw, forward pass, sampling and log-probabilities."""
    from policy_server.acting import Stochastic
    from policy_server.config import InferenceConfig, ModelConfig, PreprocessingConfig
    from policy_server.inference.served import ServedPolicy
    from policy_server.networks import build_network
    from policy_server.types import PolicySpaces

    served = ServedPolicy(
        "bench", PolicySpaces(OBSERVATION, ACTION),
        partial(build_network, model=ModelConfig()), Stochastic(), PreprocessingConfig(),
        InferenceConfig("cpu", executor), seed=1,
    )  # fmt: skip
    obs = np.random.default_rng(1).standard_normal((rows, *OBSERVATION.shape), np.float32)
    slots, draws = np.arange(rows), np.zeros(rows, np.uint64)
    keys = served.lane_keys("bench", lanes=rows)
    return lambda: served.choose((obs,), None, slots, keys, draws, None, 0)


def take_over(executor: str | None) -> Call:
    """New weights of 100 layers of 64 units: by an executor, or copied into the network's tensors."""
    from policy_server.config import InferenceConfig, ModelConfig
    from policy_server.inference.executors import make_executor
    from policy_server.networks import build_network, flatten_parameters, load_flat
    from policy_server.types import PolicySpaces

    model = ModelConfig(hidden=(64,) * 100)
    network = build_network(PolicySpaces(OBSERVATION, ACTION), model)
    weights = flatten_parameters(network)
    if executor is None:
        return lambda: load_flat(network, weights)
    made = make_executor(network, OBSERVATION, InferenceConfig("cpu", executor))
    return lambda: made.load(weights)


# -- learning --------------------------------------------------------------------------------------


def gradient_step(flat: bool) -> Call:
    """128 rows forward, backward and one step of Adam: over one vector, or over each tensor."""
    import torch

    from policy_server.algorithms.optimizer import FlatAdam
    from policy_server.config import ModelConfig
    from policy_server.networks import build_network
    from policy_server.types import PolicySpaces

    network = build_network(PolicySpaces(OBSERVATION, ACTION), ModelConfig())
    obs = [torch.randn(128, *OBSERVATION.shape)]
    ours = FlatAdam(network, 1e-5) if flat else None
    theirs = None if flat else torch.optim.Adam(network.parameters(), 3e-4, fused=True)

    def one() -> None:
        head, value = network(obs)
        loss = head.square().mean() + value.square().mean()
        if ours is not None:
            ours.backward(loss)
            ours.step(3e-4)
        if theirs is not None:
            theirs.zero_grad()
            loss.backward()
            theirs.step()

    return one


def gather(recycled: bool) -> Call:
    """A batch of 2,048 stacks of frames, out of as many again."""
    from policy_server.rollouts.recycled import Recycled

    shape = FRAMES.observation.shape
    stored = np.zeros((4096, *shape), np.uint8)
    rows = np.random.default_rng(1).permutation(4096)[:2048]
    room = Recycled()

    def one() -> np.ndarray:
        place = room.empty((2048, *shape), stored.dtype) if recycled else None
        return np.take(stored, rows, 0, place, "clip")

    return one


PARTS = (
    *(
        Part(
            f"tick of {n} message{'s' if n > 1 else ''}", partial(tick, MANY, n),
            "the general way", partial(tick, MANY, n, False),
        )
        for n in (1, 4, 8, 16)
    ),
    *(
        Part(
            f"choice of {n} action{'s' if n > 1 else ''}, compiled", partial(choose, n, "numpy"),
            "eager torch", partial(choose, n, "torch"),
        )
        for n in (1, 16, 64)
    ),
    *(
        Part(
            f"taking over the weights of 100 layers, {name}", partial(take_over, executor),
            "copied tensor by tensor", partial(take_over, None),
        )
        for name, executor in (("NumPy", "numpy"), ("torch", "torch"))
    ),
    Part(
        "gradient step of 128 rows, Adam over one vector", partial(gradient_step, True),
        "torch's fused Adam", partial(gradient_step, False),
    ),
    Part(
        "gathering 2,048 stacks of frames into memory used before", partial(gather, True),
        "into new memory", partial(gather, False),
    ),
)  # fmt: skip
