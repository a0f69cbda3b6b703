"""Work on a thread that the system lets run only where nobody else wants the core.

A learner on the machine of its gateway and simulators makes them wait twice: for their share of
the cores, and for its time slice to end whenever one of them wakes. Niceness helps with the
first alone. A thread under SCHED_IDLE (sched(7)) gives way at once, and still gets all that
simulators, which wait most of the time, leave over. `policy-server bench --workloads W5` measures
it.

Where others keep all cores busy without a pause it would get next to nothing, and an unprivileged
process cannot take a thread out of SCHED_IDLE. So there are two threads: this one, and the
caller's, which goes on with the work as soon as the other gets too little. Who is taken off his
core while he holds the interpreter's lock keeps it, so that the caller's thread waits for the
other's next slice; such moments must be rare, and the more so the less the other gets.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from policy_server.stepwise import Steps

T = TypeVar("T")

log = logging.getLogger(__name__)

LEAST_SHARE = 0.2
"""Of a core. Below it the caller's thread goes on; nice 5 gets about as much beside one busy
process."""
WINDOW_S = 0.5
"""Time over which a share is measured."""
PROBE_ROUNDS = 45_000
"""Of the hash that the other thread must get done before it is given steps, unless it got its
share within the last second: among processes that never sleep a single step of 0.05 s took half a
minute there. About 10 ms, which is longer than a time slice, for everybody gets a first one; and
all of it without the interpreter's lock."""
PATIENCE_S, TRUST_S = 0.1, 1.0
REST, MOST_REST_S = 10, 60.0
"""Times as long as a vain attempt took, and twice as long with each one more, the caller's thread
does the work before the other is tried again: among processes that never sleep the other gets a
third of a hundredth of a core, and cannot be called back within a step."""

supported = hasattr(os, "SCHED_IDLE")


class IdleFirst:
    """Does steps on the thread that gives way, as far as that gets anywhere."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "idle", initializer=_give_way)
        self._resting_until = self._trusted_until = 0.0
        self._vain = 0  # attempts in a row

    def __call__(self, steps: Steps[T]) -> T:
        """Does all of it; its result."""
        while True:
            if time.monotonic() < self._resting_until:
                over = self._until_rested(steps)
            elif not self._gets_a_core():
                self._rest(PATIENCE_S)
                continue
            else:
                over = self._thread.submit(self._while_it_pays, steps).result()
            if over is not None:
                return over[0]

    def _gets_a_core(self) -> bool:
        if time.monotonic() < self._trusted_until:
            return True
        try:
            self._thread.submit(_use_processor).result(PATIENCE_S)
        except TimeoutError:
            return False  # it ends some day, and whatever comes behind it waits for it
        self._vain = 0
        self._trusted_until = time.monotonic() + TRUST_S
        return True

    def _rest(self, attempt_s: float) -> None:
        """The other thread got too little in an attempt of so long."""
        rest_s = min(MOST_REST_S, REST * attempt_s * 2.0**self._vain)
        self._vain += 1
        self._resting_until = time.monotonic() + rest_s

    def _until_rested(self, steps: Steps[T]) -> tuple[T] | None:
        """The result, if there is one by then."""
        try:
            while time.monotonic() < self._resting_until:
                next(steps)
        except StopIteration as end:
            return (end.value,)
        return None

    def _while_it_pays(self, steps: Steps[T]) -> tuple[T] | None:
        """On the other thread. The result, if it got that far."""
        since, used = time.monotonic(), time.thread_time()
        try:
            while True:
                next(steps)
                now, cpu = time.monotonic(), time.thread_time()
                if now - since >= WINDOW_S:
                    if cpu - used < LEAST_SHARE * (now - since):
                        self._rest(now - since)
                        return None
                    since, used = now, cpu
                    self._trusted_until = now + TRUST_S
        except StopIteration as end:
            return (end.value,)


def _use_processor() -> None:
    """For about 10 ms of the calling thread's own time, without the interpreter's lock."""
    hashlib.pbkdf2_hmac("sha256", b"does it get", b"a core?", PROBE_ROUNDS)


def _give_way() -> None:
    """For the calling thread."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:  # a sandbox may forbid it
        log.warning("the learner cannot give way (%s): simulators will feel it more", error)
