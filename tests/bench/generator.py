"""The load: simulators that do nothing but ask. The same code whoever answers.

Each function here is the main of a process of its own; `pipe` leads to `trial`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from tests.bench.frames import ACTIONS, BYE, StepFrames, hello
from tests.bench.workloads import ACTION, EPISODE_STEPS, OBSERVATION, Workload

PATIENCE_MS = 10_000
"""A server silent for so long is broken, and the measurement with it."""


@dataclass(frozen=True)
class Window:
    """When to count. `perf_counter` is one clock for all processes of a machine."""

    begin: float
    end: float


@dataclass(frozen=True)
class Load:
    """What one process saw.

    Attributes:
        answered: actions in all, warm-up included.
        latencies_s: float64[n], round trips that ended within the window.
        cpu_s: of this process, from the first STEP to the last answer.
    """

    answered: int
    latencies_s: np.ndarray
    cpu_s: float


class Simulator:
    """One connection in lockstep."""

    def __init__(self, context: zmq.Context[Any], address: str, workload: Workload, number: int):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 500)
        self.socket.connect(address)
        self.frames = StepFrames(workload, number)
        self.seq = 0
        self.sent_at = 0.0
        self.socket.send(hello(workload))
        if not self.socket.poll(PATIENCE_MS):
            raise TimeoutError("no answer to HELLO")
        self.socket.recv()

    def send(self) -> None:
        self.seq += 1
        frame = self.frames.frame(self.seq)
        self.sent_at = time.perf_counter()
        self.socket.send(frame)


def raw(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """Simulators on bare sockets."""
    context = zmq.Context()
    simulators = [Simulator(context, address, workload, number) for number in numbers]
    by_socket = {simulator.socket: simulator for simulator in simulators}
    poller = zmq.Poller()
    for socket in by_socket:
        poller.register(socket, zmq.POLLIN)
    pipe.send("ready")
    window: Window = pipe.recv()

    poll, now = poller.poll, time.perf_counter
    begin, end = window.begin, window.end
    latencies: list[float] = []
    answered, waiting = 0, len(simulators)
    cpu = time.process_time()
    for simulator in simulators:
        simulator.send()
    while waiting:
        events = poll(PATIENCE_MS)
        if not events:
            raise TimeoutError("no answer to STEP")
        for socket, _ in events:
            reply = socket.recv(zmq.NOBLOCK)
            at = now()
            if reply[1] != ACTIONS:
                raise ValueError(f"expected ACTIONS, got {reply[:200]!r}")
            answered += 1
            simulator = by_socket[socket]
            if begin <= at < end:
                latencies.append(at - simulator.sent_at)
            if at < end:
                simulator.send()
            else:
                waiting -= 1
    load = Load(answered, np.array(latencies), time.process_time() - cpu)
    for socket in by_socket:
        socket.send(BYE)
        socket.close()
    context.term()
    pipe.send(load)


def client(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """One simulator on the client that ships with this project."""
    from sim_clients.client import Client, Group

    (number,) = numbers
    lanes = workload.lanes
    rng = np.random.default_rng(number)
    observations = rng.standard_normal((EPISODE_STEPS, lanes, *OBSERVATION.shape), np.float32)
    rewards = np.zeros(lanes, np.float32)
    going = np.zeros(lanes, bool)
    ending = ~going
    latencies: list[float] = []
    answered = 0
    with Client(address, Group(OBSERVATION, ACTION, lanes), timeout_s=PATIENCE_MS / 1e3) as mine:
        mine.connect(PATIENCE_MS / 1e3)
        pipe.send("ready")
        window: Window = pipe.recv()
        cpu = time.process_time()
        at = 0.0
        while at < window.end:
            turn = answered % EPISODE_STEPS
            sent_at = time.perf_counter()
            if answered:
                mine.step(observations[turn], rewards, going if turn else ending, going)
            else:
                mine.step(observations[0])
            at = time.perf_counter()
            answered += 1
            if window.begin <= at < window.end:
                latencies.append(at - sent_at)
        cpu = time.process_time() - cpu
    pipe.send(Load(answered, np.array(latencies), cpu))
