"""The load: simulators that do nothing but ask. The same code whoever answers.

Each function here is the main of a process of its own; `pipe` leads to `trial`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from policy_server.bench.frames import ACTIONS, BYE, StepFrames, hello, observations
from policy_server.bench.trial import Load, Window
from policy_server.bench.workloads import ACTION, Workload

PATIENCE_MS = 10_000
"""A server silent for so long is broken, and the measurement with it."""


class Simulator:
    """One connection in lockstep."""

    def __init__(self, context: zmq.Context[Any], address: str, workload: Workload, number: int):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 500)
        self.socket.connect(address)
        self.frames = StepFrames(workload, number)
        self.seq = 0
        self.sent_at = 0.0
        self.socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self.socket.send(hello(workload))
        self.socket.recv()

    def send(self) -> None:
        """The next STEP."""
        self.seq += 1
        frame = self.frames.frame(self.seq)
        self.sent_at = time.perf_counter()
        self.socket.send(frame)

    def receive(self) -> None:
        """Its answer."""
        check(self.socket.recv())


def check(reply: bytes) -> None:
    """Only ACTIONS are an answer to a STEP."""
    if reply[1] != ACTIONS:
        raise ValueError(f"expected ACTIONS, got {reply[:200]!r}")


@contextmanager
def connection() -> Iterator[zmq.Context[Any]]:
    """For the simulators of one process."""
    context = zmq.Context()
    yield context
    context.term()


def farewell(simulators: Iterable[Simulator]) -> None:
    """They are done, and say so."""
    for simulator in simulators:
        simulator.socket.send(BYE)
        simulator.socket.close()


def raw(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """Simulators on bare sockets."""
    with connection() as context:
        simulators = [Simulator(context, address, workload, number) for number in numbers]
        pipe.send("ready")
        load = _lockstep(simulators, pipe.recv())
        farewell(simulators)
    pipe.send(load)


def _lockstep(simulators: list[Simulator], window: Window) -> Load:
    """Each sends its next STEP when it has its answer, until the window ends."""
    by_socket = {simulator.socket: simulator for simulator in simulators}
    poller = zmq.Poller()
    for socket in by_socket:
        poller.register(socket, zmq.POLLIN)
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
            check(reply)
            answered += 1
            simulator = by_socket[socket]
            if begin <= at < end:
                latencies.append(at - simulator.sent_at)
            if at < end:
                simulator.send()
            else:
                waiting -= 1
    return Load(answered, np.array(latencies), time.process_time() - cpu)


def client(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """One simulator on the client that ships with this project."""
    from sim_clients.client import Client, Group

    (number,) = numbers
    lanes = workload.lanes
    rng = np.random.default_rng(number)
    steps, space = workload.episode_steps, workload.observation
    seen = observations(rng, space, steps * lanes).reshape(steps, lanes, *space.shape)
    rewards = np.zeros(lanes, np.float32)
    going = np.zeros(lanes, bool)
    ending = ~going
    latencies: list[float] = []
    answered = 0
    with Client(address, Group(space, ACTION, lanes), timeout_s=PATIENCE_MS / 1e3) as mine:
        mine.connect(PATIENCE_MS / 1e3)
        pipe.send("ready")
        window: Window = pipe.recv()
        cpu = time.process_time()
        at = 0.0
        while at < window.end:
            turn = answered % steps
            sent_at = time.perf_counter()
            if answered:
                mine.step(seen[turn], rewards, going if turn else ending, going)
            else:
                mine.step(seen[0])
            at = time.perf_counter()
            answered += 1
            if window.begin <= at < window.end:
                latencies.append(at - sent_at)
        cpu = time.process_time() - cpu
    pipe.send(Load(answered, np.array(latencies), cpu))
