"""The load: simulators that do nothing but ask. The same code whoever answers.

`raw`, `local` and `client` are each the main of a process of its own: a `trial.LoadMain`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from policy_server.bench.frames import ACTIONS, BYE, StepFrames, hello, observations
from policy_server.bench.trial import Load, Window
from policy_server.bench.workloads import ACTION, Workload
from sim_clients.protocol import HEAD_BYTES, LOCAL_SOCKET, Welcome, decode

KERNEL_BYTES = 1 << 22
ANSWER_BYTES = 1 << 16
PATIENCE_MS = 10_000
"""A server silent for so long is broken, and the measurement with it."""


class Simulator:
    """One connection in lockstep, over ZeroMQ."""

    def __init__(self, context: zmq.Context[Any], address: str, workload: Workload, number: int):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 500)
        self.socket.connect(address)
        self.socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self.ready = self.socket  # what a poller calls it
        self.frames = StepFrames(workload, number)
        self.seq = 0
        self.sent_at = 0.0
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

    def end(self) -> None:
        self.socket.send(BYE)
        self.socket.close()


class LocalSimulator:
    """The same over the server's local socket."""

    def __init__(self, context: zmq.Context[Any], address: str, workload: Workload, number: int):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        self.socket.connect(local_path(context, address, workload))
        self.socket.settimeout(PATIENCE_MS / 1e3)
        self.ready = self.socket.fileno()
        self.frames = StepFrames(workload, number, lengths=True)
        self.seq = 0
        self.sent_at = 0.0
        self._say(hello(workload))
        self.socket.recv(ANSWER_BYTES)
        self.socket.settimeout(None)  # a plain `recv`, without `poll` before it

    def _say(self, frame: bytes) -> None:
        self.socket.sendall(len(frame).to_bytes(HEAD_BYTES, "little") + frame)

    def send(self) -> None:
        """The next STEP."""
        self.seq += 1
        frame = self.frames.frame(self.seq)
        self.sent_at = time.perf_counter()
        self.socket.sendall(frame)

    def receive(self) -> None:
        """Its answer, which comes in one piece."""
        check(self.socket.recv(ANSWER_BYTES), HEAD_BYTES)

    def end(self) -> None:
        self._say(BYE)
        self.socket.close()


AnySimulator = Simulator | LocalSimulator


def check(reply: bytes, at: int = 0) -> None:
    """Only ACTIONS, which begin at `at`, are an answer to a STEP."""
    if reply[at + 1] != ACTIONS:
        raise ValueError(f"expected ACTIONS, got {reply[:200]!r}")


def local_path(context: zmq.Context[Any], address: str, workload: Workload) -> str:
    """Where the server at `address` has its local socket; a path is one itself."""
    if address.startswith("/"):
        return address
    with context.socket(zmq.DEALER) as asking:
        asking.setsockopt(zmq.LINGER, 500)
        asking.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        asking.connect(address)
        asking.send(hello(workload))
        welcome = decode(asking.recv())
        asking.send(BYE)
    assert isinstance(welcome, Welcome), welcome
    return str(welcome.limits[LOCAL_SOCKET])


@contextmanager
def connection() -> Iterator[zmq.Context[Any]]:
    """For the simulators of one process."""
    context = zmq.Context()
    yield context
    context.term()


def farewell(simulators: Iterable[AnySimulator]) -> None:
    """They are done, and say so."""
    for simulator in simulators:
        simulator.end()


def raw(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """Simulators on bare ZeroMQ sockets."""
    with connection() as context:
        poller = zmq.Poller()
        simulators = [Simulator(context, address, workload, number) for number in numbers]
        for simulator in simulators:
            poller.register(simulator.socket, zmq.POLLIN)
        pipe.send("ready")
        while (window := pipe.recv()) is not None:
            pipe.send(_lockstep(simulators, poller.poll, window))
        farewell(simulators)


def local(pipe: Connection, address: str, workload: Workload, numbers: range) -> None:
    """Simulators on bare local sockets."""
    with connection() as context, select.epoll() as poller:
        simulators = [LocalSimulator(context, address, workload, number) for number in numbers]
        for simulator in simulators:
            poller.register(simulator.socket, select.EPOLLIN)
        pipe.send("ready")
        while (window := pipe.recv()) is not None:
            pipe.send(_lockstep(simulators, lambda ms: poller.poll(ms / 1e3), window))
        farewell(simulators)


def _lockstep(
    simulators: Sequence[AnySimulator],
    poll: Callable[[int], list[tuple[Any, int]]],
    window: Window,
) -> Load:
    """Each sends its next STEP when it has its answer, until the window ends."""
    by_ready: dict[Any, AnySimulator] = {simulator.ready: simulator for simulator in simulators}
    now = time.perf_counter
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
        for ready, _ in events:
            simulator = by_ready[ready]
            simulator.receive()
            at = now()
            answered += 1
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
    said = 0
    with Client(address, Group(space, ACTION, lanes), timeout_s=PATIENCE_MS / 1e3) as mine:
        mine.connect(PATIENCE_MS / 1e3)
        pipe.send("ready")
        while (window := pipe.recv()) is not None:
            latencies: list[float] = []
            said_before, cpu = said, time.process_time()
            at = 0.0
            while at < window.end:
                turn = said % steps
                sent_at = time.perf_counter()
                if said:
                    mine.step(seen[turn], rewards, going if turn else ending, going)
                else:
                    mine.step(seen[0])
                at = time.perf_counter()
                said += 1
                if window.begin <= at < window.end:
                    latencies.append(at - sent_at)
            cpu = time.process_time() - cpu
            pipe.send(Load(said - said_before, np.array(latencies), cpu))
