"""How a program here speaks with the runner: one JSON object per line.

A server says where it listens, and ends when its input does. Simulators say that they are ready;
then, window by window, they ask in lockstep and say what they saw. Only the standard library: this
file runs in the virtual environment of every peer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

EPISODE_STEPS = 200
"""As the load that this project's own server is measured with has it."""
OBSERVATION_FLOATS = 4
ACTIONS = 2


class Words:
    """The way to the runner. What libraries print goes to standard error from here on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, thing: Any) -> None:
        self._out.write(json.dumps(thing) + "\n")
        self._out.flush()


def serve(words: Words, addresses: list[str]) -> None:
    """Stands as long as the runner does; the server works on threads or processes of its own."""
    words.say(addresses)
    sys.stdin.read()


def ask(words: Words, simulators: int, make: Callable[[int], Callable[[], None]]) -> None:
    """Plays simulators, each in a process of its own, until the runner goes.

    Args:
        make: connects simulator number so-and-so, in its own process, and gives what asks for one
            action and returns when it has it.
    """
    # Forked: what was imported once need not be again, sixteen times.
    fork = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    for number in range(simulators):
        ours, theirs = fork.Pipe()
        fork.Process(target=_simulator, args=(theirs, make, number), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    words.say("ready")
    for line in sys.stdin:
        for pipe in pipes:
            pipe.send(json.loads(line))
        latencies: list[int] = []
        for pipe in pipes:
            latencies += pipe.recv()
        words.say(latencies)


def _simulator(pipe: Connection, make: Callable[[int], Callable[[], None]], number: int) -> None:
    try:
        step = make(number)
        pipe.send("ready")
        now = time.perf_counter
        while True:
            begin, end = pipe.recv()
            latencies = array("d")
            at = 0.0
            while at < end:
                sent_at = now()
                step()
                at = now()
                if begin <= at < end:
                    latencies.append(at - sent_at)
            pipe.send([round(latency * 1e6) for latency in latencies])
    except EOFError:
        os._exit(0)  # libraries may have threads that would keep us
