"""The socket loop: awake while messages come thick and fast, asleep when they do not."""

from __future__ import annotations

import threading
import time

import pytest
import zmq

from policy_server.config import ServerConfig
from policy_server.gateway import loop as module
from policy_server.gateway.loop import LIVELY_S, RouterLoop

PATIENCE_S = 30.0


class Echo:
    """Stands for a gateway: answers each frame with itself.

    Attributes:
        ticks: so far.
        ticked: set by each of them.
    """

    clock = staticmethod(time.monotonic)
    patience_s = PATIENCE_S
    peers = ()

    def __init__(self):
        self.ticks = 0
        self.ticked = threading.Event()

    def answer(self, inbox, now):
        return inbox

    def offer(self, local_path):
        self.local_path = local_path

    def finish(self, now):
        self.ticks += 1
        self.ticked.set()

    def expire(self, now):
        pass


class Rig:
    """The real loop on a thread of its own, and a socket that speaks to it."""

    def __init__(self):
        self.loop = RouterLoop(ServerConfig(bind="tcp://127.0.0.1:*"))
        self.gateway = Echo()
        self.thread = threading.Thread(target=self.loop.run, args=(self.gateway,), daemon=True)
        self.thread.start()
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(self.loop.address)

    def ask(self, frame):
        self.socket.send(frame)
        assert self.socket.poll(10_000), "no answer"
        assert self.socket.recv() == frame

    def burst(self):
        for number in range(300):
            self.ask(b"%d" % number)

    def cpu_s(self):
        """CPU time of the loop's thread so far."""
        return time.clock_gettime(time.pthread_getcpuclockid(self.thread.ident))

    def close(self):
        self.context.destroy(linger=0)
        self.loop.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "`stop` ends its sleep as well"
        self.loop.close()


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def test_it_sleeps_when_a_burst_is_over_and_wakes_for_the_next(rig):
    for _ in range(2):
        rig.burst()
        time.sleep(0.05)  # it may stay awake for a moment
        ticks, cpu = rig.gateway.ticks, rig.cpu_s()
        time.sleep(0.4)
        assert rig.cpu_s() - cpu < 0.04, "a tenth of the silence"
        assert rig.gateway.ticks == ticks
        rig.ask(b"again")  # long before its patience is over


def test_another_thread_ends_its_sleep(rig):
    rig.burst()
    time.sleep(0.05)
    for _ in range(3):
        rig.gateway.ticked.clear()
        rig.loop.wake()
        assert rig.gateway.ticked.wait(10), "it slept on"
    rig.ask(b"and it still listens")


class Script:
    """A poller and a clock: messages come at given times, and nothing else takes time but
    `poll`, a microsecond each.

    Attributes:
        sleeps: the timeouts of all polls that would have slept, in ms.
    """

    def __init__(self, *times):
        self.now, self.times, self.sleeps = 0.0, list(times), []

    def clock(self):
        return self.now

    def poll(self, timeout_ms):
        self.now += 1e-6
        if timeout_ms:
            self.sleeps.append(timeout_ms)
            if self.times and self.times[0] <= self.now + timeout_ms / 1000:
                self.now = max(self.now, self.times[0])
            else:
                self.now += timeout_ms / 1000
        if self.times and self.times[0] <= self.now:
            self.times.pop(0)
            return [("socket", zmq.POLLIN)]
        return []


@pytest.fixture
def waits(monkeypatch):
    """Plays a script: what each `_wait` returned, and the sleeps."""
    loop = RouterLoop(ServerConfig(bind="tcp://127.0.0.1:*"))

    def play(*times, patience_s=0.2, count=None):
        script = Script(*times)
        monkeypatch.setattr(module, "perf_counter", script.clock)
        monkeypatch.setattr(loop, "_poller", script)
        loop._lively = False
        results = [bool(loop._wait(patience_s)) for _ in range(count or len(times))]
        return results, script

    yield play
    loop.close()


def test_close_messages_are_waited_for_awake(waits):
    gap = LIVELY_S / 2
    results, script = waits(1e-6, *(gap * i for i in range(1, 50)))
    assert results == [True] * 50
    assert len(script.sleeps) == 1, "the first one only: nobody could know"


def test_distant_messages_are_not(waits):
    gap = LIVELY_S * 20
    results, script = waits(*(gap * i for i in range(1, 50)))
    assert results == [True] * 49
    assert len(script.sleeps) == 49


def test_a_pause_behind_close_messages_is_slept_through(waits):
    times = [LIVELY_S / 2 * i for i in range(1, 11)] + [0.1]
    results, script = waits(*times, count=12)
    assert results == [True] * 11 + [False]
    assert len(script.sleeps) == 3, "before the first, in the pause, and behind the last"
    assert script.now == pytest.approx(0.3, abs=0.01)


def test_without_patience_it_only_looks(waits):
    results, script = waits(1e-6, LIVELY_S, patience_s=0.0, count=100)
    assert results[0]
    assert not script.sleeps
    assert script.now < 110e-6, "one look each"
