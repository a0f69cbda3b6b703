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


Play = Callable[[float, float], list[float]]
"""Asks until `perf_counter` says the second; gives the seconds that each answer took which came
between the first and the second."""


def ask(words: Words, processes: int, make: Callable[[int], Play]) -> None:
    """Plays simulators until the runner goes.

    Args:
        make: connects the simulators of process number so-and-so, in that process.
    """
    # Forked: what was imported once need not be again, sixteen times.
    fork = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    for number in range(processes):
        ours, theirs = fork.Pipe()
        fork.Process(target=_simulate, args=(theirs, make, number), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    words.say("ready")
    for line in sys.stdin:
        for pipe in pipes:
            pipe.send(json.loads(line))
        latencies_us: list[int] = []
        for pipe in pipes:
            latencies_us += [round(latency * 1e6) for latency in pipe.recv()]
        words.say(latencies_us)


def _simulate(pipe: Connection, make: Callable[[int], Play], number: int) -> None:
    try:
        play = make(number)
        pipe.send("ready")
        while True:
            pipe.send(play(*pipe.recv()))
    except EOFError:
        os._exit(0)  # libraries may have threads that would keep us


def one_by_one(step: Callable[[], None]) -> Play:
    """One simulator in a process; `step` asks for one action and returns when it is there."""

    def play(begin: float, end: float) -> list[float]:
        now = time.perf_counter
        latencies: list[float] = []
        at = 0.0
        while at < end:
            sent_at = now()
            step()
            at = now()
            if begin <= at < end:
                latencies.append(at - sent_at)
        return latencies

    return play
