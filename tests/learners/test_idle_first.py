"""Steps on a thread that gives way, and on the caller's where that gets nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from handmade import random_batch

from policy_server.algorithms.ppo_options import PPOTraining
from policy_server.config import ModelConfig, PreprocessingConfig
from policy_server.learners import idle_first
from policy_server.learners.idle_first import IdleFirst
from policy_server.learners.learner import Learner
from policy_server.stepwise import Steps, at_once
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete

SPACES = PolicySpaces(Box(-1, 1, (3,)), Discrete(3))

pytestmark = pytest.mark.skipif(
    not idle_first.supported, reason="this system has no SCHED_IDLE, and learners do without it"
)


def steps(until: float, places: list[tuple[bool, int]]) -> Steps[str]:
    """Uses the processor, and notes where: on the caller's thread? by which policy?"""
    caller = threading.main_thread()
    while time.monotonic() < until:
        places.append((threading.current_thread() is caller, os.sched_getscheduler(0)))
        used = time.thread_time()
        while time.thread_time() - used < 0.001:
            pass
        yield
    return "done"


@pytest.fixture
def one_core() -> Iterator[int]:
    """This thread, and those it starts, share one core from now on."""
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


ROOM = 100
"""Places in half a second, of about 400 on a core that nobody else wants: it was not starved."""


def test_where_there_is_room_all_of_it_gives_way():
    for _ in range(40):  # the machine may be busy with something else
        places: list[tuple[bool, int]] = []
        drive = IdleFirst()
        for _ in range(2):
            assert drive(steps(time.monotonic() + 0.25, places)) == "done"
        gave_way = places.count((False, os.SCHED_IDLE))
        assert len(places) - gave_way == places.count((True, os.SCHED_OTHER))
        assert os.sched_getscheduler(0) != os.SCHED_IDLE
        if gave_way == len(places) >= ROOM:
            break
    assert gave_way == len(places) >= ROOM


@contextmanager
def one_that_never_sleeps() -> Iterator[subprocess.Popen[bytes]]:
    program = "print(flush=True)\nwhile True: pass"
    busy = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()  # it runs
        yield busy
    finally:
        busy.kill()
        busy.communicate()


@pytest.mark.timeout(60)
def test_where_others_become_busy_the_caller_goes_on(one_core):
    """In the middle of an update, which began when there had been room."""
    places: list[tuple[bool, int]] = []
    drive = IdleFirst()
    drive._trusted_until = time.monotonic() + 1.0
    with one_that_never_sleeps():
        assert drive(steps(time.monotonic() + 6.0, places)) == "done"
    mine = [by_policy for caller, by_policy in places if caller]
    assert mine, "the thread that gives way was starved to the end"
    assert os.SCHED_IDLE not in mine


@pytest.mark.timeout(60)
def test_to_try_in_vain_costs_little(one_core):
    """Beside one who never sleeps the caller's thread alone would get half of the core."""
    places: list[tuple[bool, int]] = []
    with one_that_never_sleeps():
        began, used = time.monotonic(), time.process_time()
        assert IdleFirst()(steps(began + 8.0, places)) == "done"
        share = (time.process_time() - used) / (time.monotonic() - began)
    assert share > 0.25
    assert {caller for caller, _ in places} == {True}


@pytest.mark.timeout(60)
def test_a_long_step_is_not_begun_where_there_is_no_core(one_core):
    """Nobody could call it back."""
    places: list[tuple[bool, int]] = []

    def long() -> Steps[str]:
        places.append((threading.current_thread() is threading.main_thread(), 0))
        used = time.thread_time()
        while time.thread_time() - used < 0.1:
            pass
        yield
        return "done"

    with one_that_never_sleeps():
        began = time.monotonic()
        assert IdleFirst()(long()) == "done"
        assert places == [(True, 0)]
        # Half a core, or at the worst what is left beside a few such processes; not a day.
        assert time.monotonic() - began < 20


def test_where_it_is_forbidden_the_work_is_done_all_the_same(monkeypatch, caplog):
    def forbidden(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    places: list[tuple[bool, int]] = []
    assert IdleFirst()(steps(time.monotonic() + 0.5, places)) == "done"
    assert (False, os.SCHED_OTHER) in places
    assert {policy for _, policy in places} == {os.SCHED_OTHER}
    assert "cannot give way" in caplog.text


def test_an_update_is_the_same_there():
    here, there = (
        Learner(
            "blue", SPACES, "PPO", PPOTraining(minibatch_size=8, num_epochs=2),
            ModelConfig(hidden=(8,)), PreprocessingConfig(), seed=1, device="cpu",
        )
        for _ in range(2)
    )  # fmt: skip
    batch = random_batch(here.algorithm.network, SPACES, 6, 4, 0)
    mine, its = here.update(batch, 0), there.update(batch, 0, IdleFirst())
    assert mine.metrics == its.metrics
    assert (mine.weights == its.weights).all()


def test_what_goes_wrong_goes_wrong_for_the_caller():
    def broken() -> Steps[None]:
        yield
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        IdleFirst()(broken())
    with pytest.raises(ValueError, match="half way"):
        at_once(broken())
