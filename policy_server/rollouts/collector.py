"""When a lane may begin a step, and when a batch is complete.

Synchronous: a batch is a number of unrolls of T steps, all of one policy version. A lane may
begin another unroll while

    promised = finished steps + open unrolls * T  <  steps per batch,

else its request waits until the learner is done. Where no step is ever too old and T is given, lanes
that have no part in the batch yet may join it in any case: a short batch is no reason to take turns.
Fast lanes wait for slow ones, but no longer than `straggler_s`; then they collect the rest themselves
and the slow lanes' unrolls are cut short (their step in flight is dropped as stale).

Ahead: the same, but the next batch is filled while the learner works, and then its lanes wait. It
is of up to two policy versions.

Asynchronous: nobody waits. Unrolls queue up; the learner takes the oldest that are not too old,
and the queue is bounded.

Lives on the gateway's thread.
"""

from __future__ import annotations

import math

import numpy as np

from policy_server.config import CollectionConfig
from policy_server.rollouts.accounting import Accounts, Drop
from policy_server.rollouts.rows import NONE
from policy_server.rollouts.unrolls import Unroll, UnrollStore
from policy_server.types import Batch

ASYNC_FRAGMENT = 64
LEAST_LAG = 4
"""Versions; where nothing is said of `max_policy_lag`, there is at least so much."""


class Collector:
    """Decides over one policy's unroll store.

    Attributes:
        batch_steps: steps per batch.
        off_policy: no step is ever too old.
        learning: a batch is with the learner.
        ahead: the next one is filled meanwhile.
        paused: no batch is wanted now.
        lanes: lanes that play by this policy, to share a batch among.
        version: of the policy that acts now.
    """

    def __init__(
        self,
        config: CollectionConfig,
        store: UnrollStore,
        accounts: Accounts,
        batch_steps: int,
        off_policy: bool = False,
    ):
        self.config = config
        self.store = store
        self.accounts = accounts
        self.batch_steps = batch_steps
        self.off_policy = off_policy
        self.synchronous = config.mode == "sync"
        self.ahead = self.synchronous and config.ahead
        self.learning = False
        self.paused = False
        self.lanes = 0
        self.version = 0
        self._seen = (-1, -1)  # version and unrolls ever finished when the queue was looked at
        self._room = 0  # steps that may wait in the queue, by those who play
        self._kept = 0  # and those that have waited since there was more room, for more lanes
        self._lag = 0  # versions that may lie between them and the policy
        self._granted = 0  # steps promised in this tick and not yet open
        self._waiting_since: float | None = None  # a lane was refused its unroll
        if not self.synchronous:
            store.set_length(min(config.fragment_length or ASYNC_FRAGMENT, batch_steps))

    # -- may a lane go on? ----------------------------------------------------------------------

    @property
    def collecting(self) -> bool:
        """A batch is being filled."""
        return not (self.paused or (self.learning and not self.ahead))

    def would_grant(self, lanes: np.ndarray, now: float) -> bool:
        """May these lanes, int64 `[n]`, begin an unroll each?"""
        if not self.synchronous:
            return True
        if not self.collecting:
            return False
        self._share()
        promised = (
            self.store.finished_steps + self.store.open_unrolls * self.store.length + self._granted
        )
        if promised < self.batch_steps or (not self.learning and self._lifted(now)):
            return True
        if self.off_policy and self.config.fragment_length and self._new(lanes):
            return True
        if self._waiting_since is None:
            self._waiting_since = now
        return False

    def grant(self, unrolls: int) -> None:
        """So many more begin in this tick."""
        self._granted += unrolls * self.store.length

    def lift(self, now: float) -> None:
        """There is nobody left to wait for."""
        if self._waiting_since is not None:
            self._waiting_since = now - self.config.straggler_s

    def start_over(self) -> None:
        """Who waited before waits no longer."""
        self._waiting_since = None

    def tick_done(self) -> None:
        self._granted = 0

    def _share(self) -> None:
        """At the beginning of a batch: T such that all lanes together fill it."""
        if self.store.open_unrolls or self.store.finished or self._granted:
            return
        share = math.ceil(self.batch_steps / max(1, self.lanes))
        self.store.set_length(min(self.config.fragment_length or share, self.batch_steps))

    def _new(self, lanes: np.ndarray) -> bool:
        """None of them has a part in this batch."""
        return not {unroll.lane for unroll in self.store.finished}.intersection(lanes.tolist())

    def _lifted(self, now: float) -> bool:
        since = self._waiting_since
        return since is not None and now - since >= self.config.straggler_s

    # -- is there a batch? ----------------------------------------------------------------------

    def ready(self, now: float) -> bool:
        """Can `take` be called?"""
        store = self.store
        if not self.synchronous:
            seen = self.version, store.ever_finished
            if seen != self._seen:  # else nothing is staler or more than it was
                self._seen = seen
                self._drop_surplus()
                if not self.off_policy:
                    self._drop_stale()
        if self.learning or self.paused:
            return False
        if not self.synchronous:
            return store.finished_steps >= self.batch_steps
        if store.finished_steps >= self.batch_steps and store.open_unrolls == 0:
            return True
        return self._lifted(now) and store.finished_steps + store.open_steps >= self.batch_steps

    def take(self) -> Batch:
        """The batch. Synchronous: everything there is; whatever is still open is cut."""
        if self.synchronous:
            self.cut()
            wanted = self.store.finished_steps
        else:
            wanted = self.batch_steps
        unrolls: list[Unroll] = []
        steps = 0
        while steps < wanted:
            unrolls.append(self.store.pop())
            steps += unrolls[-1].length
        self._kept = max(0, self._kept - steps)
        self.learning = True
        self._waiting_since = None
        self.accounts.in_flight += steps
        return self.store.gather(unrolls)

    def cut(self) -> None:
        """Ends all open unrolls; their steps in flight will be stale when they come."""
        lanes = np.flatnonzero(self.store.base != NONE)
        if len(lanes):
            self.accounts.drop(Drop.STALE, int(self.store.pending[lanes].sum()))
            self.store.finish(lanes)

    def learned(self, steps: int) -> None:
        """The learner is done with `steps` steps."""
        self.learning = False
        self.accounts.in_flight -= steps
        self.accounts.trained += steps

    # -- asynchronous: bounded and not too old ---------------------------------------------------

    def _drop_stale(self) -> None:
        """Unrolls that began more than `max_policy_lag` versions ago go."""
        lag = self.config.max_policy_lag
        if lag is None:
            # Lanes that began together end together: while they are played those before them are
            # learned from, and then they wait for one another. Also where lanes have left since.
            wave = math.ceil(self.lanes * self.store.length / self.batch_steps)
            lag = self._lag = max(LEAST_LAG, 2 * wave + 1, self._lag if self._kept else 0)
        oldest = self.version - lag
        store = self.store
        if any(unroll.first_version < oldest for unroll in store.finished):
            keep = [u for u in store.finished if u.first_version >= oldest]
            gone = [u for u in store.finished if u.first_version < oldest]
            store.finished.clear()
            store.finished.extend(keep)
            self._discard(gone, Drop.STALE)

    def _drop_surplus(self) -> None:
        # Lanes that began together end together: an unroll of each must have room, beside what was
        # left over from the last batch. Where lanes leave, what waits already may go on waiting.
        one_each = self.lanes * self.store.length + self.batch_steps
        room = max(self.config.max_queued_batches * self.batch_steps, one_each)
        if room < self._room:  # what comes meanwhile waits behind it
            self._kept = self.store.finished_steps + room
        self._room = room
        while self.store.finished_steps > room + self._kept:
            unroll = self.store.pop()
            self._kept = max(0, self._kept - unroll.length)
            self.store.release([unroll])
            self.accounts.drop(Drop.OVERFLOW, unroll.length)

    def _discard(self, unrolls: list[Unroll], reason: str) -> None:
        steps = sum(unroll.length for unroll in unrolls)
        self.store.finished_steps -= steps
        self.store.release(unrolls)
        self.accounts.drop(reason, steps)
