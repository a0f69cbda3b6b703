"""One measurement: a server that stands, load from other processes, a window of time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tests.bench.generator import Load, Window
from tests.bench.workloads import Workload

PATIENCE_S = 60.0
SETTLE_S = 0.05  # from "go" to the first STEP, for all processes together


class Child:
    """A process that we started, and the pipe to it."""

    def __init__(self, main: Callable[..., None], *arguments: Any):
        # A forked child would inherit threads and sockets.
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=main, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, word: Any) -> Any:
        self.pipe.send(word)
        return self.hear()

    def hear(self) -> Any:
        """What it says next.

        Raises:
            RuntimeError: it died, or said nothing.
        """
        try:
            if self.pipe.poll(PATIENCE_S):
                return self.pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark died; its words are above") from None
        raise RuntimeError(f"a process of the benchmark said nothing for {PATIENCE_S} s")

    def end(self, patience_s: float = 10.0) -> None:
        """Waits for it to end by itself; then it is killed."""
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self.pipe.close()


@dataclass
class Serving:
    """A server in a process of its own: the gateway, or the echo."""

    child: Child
    address: str

    def books(self) -> dict[str, Any]:
        """CPU seconds so far, and the gateway's report."""
        books: dict[str, Any] = self.child.ask("books")
        return books


@contextmanager
def serving(main: Callable[..., None], *arguments: Any) -> Iterator[Serving]:
    """Starts a server, and stops it."""
    child = Child(main, *arguments)
    try:
        yield Serving(child, child.hear())
        child.pipe.send("stop")
    except BaseException:
        child.end(0)
        raise
    child.end()


@dataclass(frozen=True)
class Trial:
    """What one measurement gave.

    Attributes:
        actions_per_s: messages answered per second of the window.
        env_steps_per_s: the same, times lanes.
        p50_us, p99_us: round trips, from before `send` to behind `recv`.
        answered: messages, warm-up included; CPU seconds are over these.
        accepted, balance, overflow: of the gateway's accounts, in steps; None for an echo.
    """

    actions_per_s: float
    env_steps_per_s: float
    p50_us: float
    p99_us: float
    answered: int
    server_cpu_s: float
    generator_cpu_s: float
    accepted: int | None = None
    balance: int | None = None
    overflow: int | None = None


def measure(
    server: Serving,
    workload: Workload,
    generator: Callable[[Connection, str, Workload, range], None],
    seconds: float,
    warmup_s: float,
) -> Trial:
    """Lets the load run once."""
    children = [Child(generator, server.address, workload, share) for share in workload.shares()]
    try:
        for child in children:
            child.hear()
        before = server.books()
        begin = time.perf_counter() + SETTLE_S + warmup_s
        for child in children:
            child.pipe.send(Window(begin, begin + seconds))
        loads: list[Load] = [child.hear() for child in children]
        after = server.books()
    except BaseException:
        for child in children:
            child.end(0)
        raise
    for child in children:
        child.end()
    latencies = np.concatenate([load.latencies_s for load in loads])
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e6
    rate = len(latencies) / seconds
    return Trial(
        actions_per_s=rate,
        env_steps_per_s=rate * workload.lanes,
        p50_us=float(p50),
        p99_us=float(p99),
        answered=sum(load.answered for load in loads),
        server_cpu_s=after["cpu_s"] - before["cpu_s"],
        generator_cpu_s=sum(load.cpu_s for load in loads),
        **_accounts(before, after),
    )


def _accounts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    if "policies" not in after:
        return {}
    (old,), (new,) = before["policies"].values(), after["policies"].values()
    old, new = old["accounting"], new["accounting"]
    return {
        "accepted": new["accepted"] - old["accepted"],
        "balance": new["balance"],
        "overflow": new["dropped"]["overflow"] - old["dropped"]["overflow"],
    }
