"""A measurement: a server that stands, load from other processes, a window of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from policy_server.bench.child import Answering, Child, children
from policy_server.bench.plan import Plan
from policy_server.bench.resources import cpu_seconds, pin
from policy_server.bench.workloads import Workload
from policy_server.errors import PolicyServerError

LoadMain = Callable[[Connection, str, Workload, range], None]
"""What a process of simulators runs: its pipe, the server's address, the workload and the numbers
of its simulators. It says "ready", answers each `Window` with a `Load`, and ends at None."""

SETTLE_S = 0.05  # from "go" to the first STEP, for all processes together


@dataclass(frozen=True)
class Window:
    """When to count. `perf_counter` is one clock for all processes of a machine."""

    begin: float
    end: float


@dataclass(frozen=True)
class Load:
    """What one process of simulators saw.

    Attributes:
        answered: actions in all, warm-up included.
        latencies_s: float64[n], round trips that ended within the window.
        cpu_s: of this process, from the first STEP to the last answer.
    """

    answered: int
    latencies_s: np.ndarray
    cpu_s: float


@dataclass(frozen=True)
class Trial:
    """What one measurement gave.

    Attributes:
        messages_per_s: messages answered per second of the window.
        env_steps_per_s: the same, times lanes.
        p50_us, p99_us: round trips, from before `send` to behind `recv`.
        answered: messages, warm-up included; CPU seconds are over these.
        accepted, balance, overflow: of the gateway's accounts, in steps; None for an echo.
        learner_cpu: cores that the learner's process used within the window; None where there is
            none.
    """

    messages_per_s: float
    env_steps_per_s: float
    p50_us: float
    p99_us: float
    answered: int
    server_cpu_s: float
    client_cpu_s: float
    accepted: int | None = None
    balance: int | None = None
    overflow: int | None = None
    learner_cpu: float | None = None

    @property
    def client_share(self) -> float:
        """Of the CPU that client and server used together, 0..1."""
        return self.client_cpu_s / (self.client_cpu_s + self.server_cpu_s)

    @property
    def server_us(self) -> float:
        """CPU microseconds of the server per message."""
        return self.server_cpu_s / self.answered * 1e6


class Simulators:
    """Processes of load that are connected to a server, and silent between two measurements."""

    def __init__(self, server: Answering, workload: Workload, processes: Sequence[Child]):
        self._server, self._workload, self._processes = server, workload, processes

    def measure(
        self, plan: Plan, cores: Sequence[int] | None = None, learner: int | None = None
    ) -> Trial:
        """Lets them speak once.

        Args:
            cores: where they must stay (Linux); None: as before.
            learner: process whose CPU counts as the learner's (Linux).
        """
        server, workload = self._server, self._workload
        for child in self._processes:
            if cores is not None:
                pin(child.pid, cores)
        before = server.books()
        begin = time.perf_counter() + SETTLE_S + plan.warmup_s
        window = Window(begin, begin + plan.seconds)
        for child in self._processes:
            child.pipe.send(window)
        learner_cpu = None if learner is None else _cores_used(learner, window)
        loads: list[Load] = [child.hear() for child in self._processes]
        after = server.books()
        answered = sum(load.answered for load in loads)
        accounts = checked_accounts(before, after, answered * workload.lanes, workload)
        latencies = np.concatenate([load.latencies_s for load in loads])
        p50, p99 = np.percentile(latencies, [50, 99]) * 1e6
        rate = len(latencies) / plan.seconds
        return Trial(
            messages_per_s=rate,
            env_steps_per_s=rate * workload.lanes,
            p50_us=float(p50),
            p99_us=float(p99),
            answered=answered,
            server_cpu_s=after["cpu_s"] - before["cpu_s"],
            client_cpu_s=sum(load.cpu_s for load in loads),
            **accounts,
            learner_cpu=learner_cpu,
        )


def _cores_used(pid: int, window: Window) -> float:
    """Waits until the window is over; how many cores the process used within it."""
    time.sleep(max(0.0, window.begin - time.perf_counter()))
    since, used = time.perf_counter(), cpu_seconds(pid)
    time.sleep(max(0.0, window.end - since))
    return (cpu_seconds(pid) - used) / (time.perf_counter() - since)


@contextmanager
def connected(server: Answering, workload: Workload, load: LoadMain) -> Iterator[Simulators]:
    """Starts a workload's simulators; they say good-bye at the end."""
    shares = [Child(load, server.address, workload, share) for share in workload.shares()]
    with children(*shares):
        for child in shares:
            child.hear()
        yield Simulators(server, workload, shares)
        for child in shares:
            child.pipe.send(None)


def measure(server: Answering, workload: Workload, load: LoadMain, plan: Plan) -> Trial:
    """One measurement with simulators of its own."""
    with connected(server, workload, load) as simulators:
        return simulators.measure(plan)


def checked_accounts(
    before: dict[str, Any], after: dict[str, Any], steps: int, workload: Workload
) -> dict[str, int]:
    """What a gateway booked meanwhile; nothing, of an echo. Speed that loses steps is none: so many
    must have been accepted.

    Raises:
        PolicyServerError: they were not, or the accounts do not balance.
    """
    accounts = _accounts(before, after)
    if accounts and (accounts["accepted"] != steps or accounts["balance"] != 0):
        raise PolicyServerError(
            f"{workload.title}: expected {steps} steps in the books of the server, whose balance is "
            f"0, got {accounts['accepted']}, and a balance of {accounts['balance']}: the server lost "
            "steps."
        )
    return accounts


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
