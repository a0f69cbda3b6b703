"""A real gateway behind a real socket in this process, and a proxy that mistreats connections."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from policy_server.gateway.loop import RouterLoop
from sim_clients.client import Client, Group
from tests.gateway.conftest import World
from tests.gateway.ledger import ACTION, OBSERVATION, Auditor, stamp_reward


class LiveWorld(World):
    """A world whose gateway runs on a thread of its own. `address`: where."""

    def __init__(self, bind: str = "tcp://127.0.0.1:*", **sections: Any):
        super().__init__(**sections)
        self.gateway.clock = __import__("time").monotonic
        self.loop = RouterLoop(replace(self.settings.server, bind=bind))
        self.address = self.loop.address
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self.loop.run(self.gateway)
        except BaseException as error:
            self.error = error

    def on_loop(self, command: Any) -> Any:
        """Runs on the gateway's thread; its result."""
        future = self.gateway.submit(command)
        self.loop.wake()
        return future.result(20)

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(20)
        self.loop.close()
        assert self.error is None, repr(self.error)


@contextmanager
def live(**sections: Any) -> Iterator[LiveWorld]:
    world = LiveWorld(**sections)
    try:
        yield world
    finally:
        world.close()


class Player:
    """A ledger simulator on the real client: one lane per environment, stamps everywhere."""

    def __init__(self, number: int, address: str, auditor: Auditor, lanes: int = 3, **client: Any):
        self.number, self.lanes, self.auditor = number, lanes, auditor
        self.rng = random.Random(number)
        self.client = Client(
            address, Group(OBSERVATION, ACTION, lanes), identity=f"p{number}", **client
        )
        self.episode, self.at = [0] * lanes, [0] * lanes
        self.steps = 0
        self._last = (
            np.zeros(lanes, np.float32),
            np.zeros(lanes, bool),
            np.zeros(lanes, bool),
            np.zeros((lanes, 4)),
        )

    def play(self, ticks: int) -> None:
        """Steps all lanes so many times."""
        n = self.lanes
        rewards, ended, truncated, finals = self._last
        for _ in range(ticks):
            obs = np.array([[self.number, i, self.episode[i], self.at[i]] for i in range(n)], float)
            keys = [(self.number, i, self.episode[i], self.at[i]) for i in range(n)]
            if self.steps == 0:
                category, reals = self.client.step(obs)
            else:
                category, reals = self.client.step(obs, rewards, ended, truncated, final_obs=finals)
            for i, key in enumerate(keys):
                self.auditor.executed[key] = (int(category[i]), *reals[i].tolist())
            self.steps += n
            ended[:], truncated[:] = False, False
            for i, key in enumerate(keys):
                rewards[i] = stamp_reward(*key)
                self.at[i] += 1
                fate = self.rng.random()
                if fate < 0.1 or self.at[i] > 100:
                    (ended if fate < 0.05 else truncated)[i] = True
                    finals[i] = [self.number, i, self.episode[i], self.at[i]]
                    kind = "terminated" if ended[i] else "truncated"
                    self.auditor.endings[self.number, i, self.episode[i]] = (kind, self.at[i])
                    self.episode[i] += 1
                    self.at[i] = 0


class RoughProxy:
    """A TCP proxy that cuts connections in mid-frame, over and over.

    Attributes:
        cuts: connections it has ended.
    """

    def __init__(self, target: str, seed: int, cut_after: tuple[int, int] = (400, 4000)):
        host, port = target.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._rng = random.Random(seed)
        self._cut_after = cut_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._running = True
        self.cuts = 0
        self.gentle = False
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while self._running:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._pump, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _pump(self, client: socket.socket) -> None:
        server = socket.create_connection(self._target)
        allowance = self._rng.randint(*self._cut_after)
        with client, server:
            while self._running:
                ready, _, _ = select.select([client, server], [], [], 0.1)
                for source in ready:
                    data = source.recv(4096)
                    if not data:
                        return
                    other = server if source is client else client
                    if not self.gentle and len(data) >= allowance:
                        # Half of it arrives, then nothing: reply or request, as it comes.
                        other.sendall(data[: allowance // 2])
                        self.cuts += 1
                        return
                    allowance -= len(data)
                    other.sendall(data)

    def close(self) -> None:
        self._running = False
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
