"""W8: from the end of an update to the tick in which the gateway acts by the new weights.

The whole way counts: copying weights and the learner's state out of the network, Ray's object
store, waking the gateway, copying into the network that acts. Meanwhile a client sends PINGs, which
no network has to think about: the longest wait for a PONG is how long the gateway's loop stood
still (and the scheduler's share of it).
"""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import zmq

from policy_server.bench import generator
from policy_server.bench.child import Child, Serving, children
from policy_server.bench.child import serving as started
from policy_server.bench.figure import Figure, Result, Target, Tell, at_most
from policy_server.bench.generator import Simulator
from policy_server.bench.plan import Plan
from policy_server.bench.workloads import Workload
from sim_clients.protocol import Ping, encode

ROWS = 16
"""Steps of a batch: what is trained on does not matter here, and should not take long."""
STILL_MS = 10.0
"""What a loop that is not blocked may take to answer, on cores that others work on, too."""
PING = encode(Ping(1))
PAUSE_S = 0.0005
BEHIND_S = 0.1  # the last PINGs of a publication come back


class Size(NamedTuple):
    """A network and how soon its weights are to arrive."""

    name: str
    hidden: list[int]
    target: Target  # ms


SIZES = (
    Size("5k", [64, 64], at_most(5)),
    Size("1M", [1000, 1000], at_most(10)),
    Size("100M", [1000] * 100, at_most(500)),
)


class Published(NamedTuple):
    """When: `perf_counter`."""

    ready_at: float
    visible_at: float


def publication(plan: Plan, tell: Tell) -> Result:
    """One size after the other; a publication per repeat."""
    figures: list[Figure] = []
    for size in SIZES:
        tell(f"W8: {size.name} parameters, making the network")
        delays: list[float] = []
        gaps: list[float] = []
        workload = _workload(size)
        with (
            started(serve, plan.bind_for("publication"), workload) as server,
            children(Child(watch, server.address, workload)) as (watcher,),
        ):
            _publish(server, watcher)  # torch and Ray warm up
            for repeat in range(plan.repeats):
                tell(f"W8: {size.name} parameters, {repeat + 1} of {plan.repeats}")
                published, gap_s = _publish(server, watcher)
                delays.append((published.visible_at - published.ready_at) * 1e3)
                gaps.append(gap_s * 1e3)
            watcher.pipe.send("stop")
        figures += [
            Figure(f"{size.name} weights, until they act", "ms", tuple(delays), None, "", size.target),
            Figure(
                f"{size.name} weights, longest wait for a PONG", "ms", tuple(gaps), None, "",
                at_most(STILL_MS), always=True,
            ),
        ]  # fmt: skip
    return Result("W8", "publication of weights, by number of parameters", tuple(figures))


def _workload(size: Size) -> Workload:
    """One simulator, each of whose messages makes a batch of the one before."""
    training = {"train_batch_size": ROWS, "minibatch_size": ROWS, "num_epochs": 1, "lr": 1e-6}
    sections: dict[str, dict[str, Any]] = {
        "training": training,
        "model": {"hidden": size.hidden, "share_layers": True},
        "collection": {"mode": "async", "fragment_length": 1},
    }
    return Workload(size.name, 1, ROWS, 1, sections=sections)


def _publish(server: Serving, watcher: Child) -> tuple[Published, float]:
    """One publication, and the longest wait of a PING that was under way meanwhile, in seconds."""
    server.child.ask("next")
    watcher.ask("step")
    published: Published = server.child.hear()
    time.sleep(BEHIND_S)
    waits: list[tuple[float, float]] = watcher.ask("waits")
    meanwhile = [
        back - sent
        for sent, back in waits
        if back > published.ready_at and sent < published.visible_at + PAUSE_S
    ]
    return published, max(meanwhile)


def watch(pipe: Connection, address: str, workload: Workload) -> None:
    """A simulator that speaks when it is told to, and a client that sends PINGs all the time.

    A process of its own. `pipe` says "step", "waits" (for those of the PINGs since it last asked)
    or "stop".
    """
    waits: list[tuple[float, float]] = []
    stop = threading.Event()
    with generator.connection() as context:
        simulator = Simulator(context, address, workload, 0)
        simulator.send()
        simulator.receive()
        pinger = threading.Thread(target=_ping, args=(context, address, waits, stop))
        pinger.start()
        while (word := pipe.recv()) != "stop":
            if word == "step":
                simulator.send()
                simulator.receive()
                pipe.send(None)
            else:
                pipe.send(waits[:])
                waits.clear()
        stop.set()
        pinger.join()
        generator.farewell([simulator])


def _ping(
    context: zmq.Context[Any], address: str, waits: list[tuple[float, float]], stop: threading.Event
) -> None:
    now = time.perf_counter
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, generator.PATIENCE_MS)
        socket.connect(address)
        while not stop.is_set():
            sent = now()
            socket.send(PING)
            socket.recv()
            waits.append((sent, now()))
            time.sleep(PAUSE_S)


def serve(pipe: Connection, bind: str, workload: Workload) -> None:
    """A gateway and its learner, wired as Ray's actor does, on a loop that can be watched.

    `pipe` says "next": answers with the `Published` of the next update.
    """
    from policy_server.bench.timed_ppo import NAME, READY_AT
    from policy_server.gateway.loop import RouterLoop
    from policy_server.learners.remote import RayLearner
    from policy_server.server import build_gateway, start_ray
    from policy_server.server.gateway_actor import LEARNER_NICENESS
    from policy_server.settings import Settings
    from policy_server.types import PolicyState

    start_ray(None)
    settings = Settings.from_mapping({**workload.settings(bind), "algorithm": NAME})
    loop = RouterLoop(settings.server)

    def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> RayLearner:
        restarts = settings.learners.max_restarts
        return RayLearner(arguments, state, {"num_cpus": 0}, restarts, LEARNER_NICENESS, loop.wake)

    gateway = build_gateway(settings, make_learner, None, None, 0)
    gateway.train(None)
    (desk,) = gateway.desks.values()
    learner = desk.learner
    assert learner is not None
    thread = threading.Thread(target=loop.run, args=(gateway,), name="gateway", daemon=True)
    thread.start()

    def once(condition: Any) -> Any:
        """When it first holds at the end of a tick."""
        future: Any = gateway.submit(lambda: gateway.when(condition))
        loop.wake()
        waiting = future.result(60)
        times: list[float] = []
        waiting.add_done_callback(lambda _: times.append(time.perf_counter()))
        return waiting, times

    ready, _ = once(lambda: learner.ready)
    ready.result(120)
    pipe.send(loop.address)
    while pipe.recv() == "next":
        updates = desk.updates
        visible, at = once(lambda seen=updates: desk.updates > seen)
        pipe.send("armed")
        visible.result(120)
        future = gateway.submit(gateway.report)
        loop.wake()
        (policy,) = future.result(60)["policies"].values()
        pipe.send(Published(policy["results"][-1]["metrics"][READY_AT], at[0]))
    loop.stop()
    thread.join(10)
    loop.close()
