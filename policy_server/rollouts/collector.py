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
from itertools import islice

import numpy as np

from policy_server.config import CollectionConfig
from policy_server.rollouts.accounting import Accounts, Drop
from policy_server.rollouts.rows import NONE
from policy_server.rollouts.unrolls import Unroll, UnrollStore
from policy_server.types import Batch

ASYNC_FRAGMENT = 64


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
        self._cap = 0  # steps that may wait in the queue
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
                self._bound_queue(store.ever_finished - self._seen[1])
                self._seen = seen
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

    def _bound_queue(self, new: int) -> None:
        """Drops what is too much, and what is too old; `new` unrolls have come."""
        # Lanes that began together end together: an unroll of each must have room, beside what was
        # left over from the last batch. Where lanes have left, their steps are learned from still,
        # and what comes meanwhile waits behind them: the cap stays until they are worked off.
        each = self.lanes * self.store.length
        room = max(self.config.max_queued_batches * self.batch_steps, each + self.batch_steps)
        self._cap = max(room, self._cap)
        lost = self._drop_surplus()
        if not self.off_policy:
            self._date(new, each)
            lost += self._drop_stale()
        if new and self.store.finished_steps <= room:
            self._cap = room
        elif lost:  # the learner is too slow for so long a queue
            self._cap = max(room, self._cap - self.store.length)

    def _drop_surplus(self) -> int:
        """The oldest unrolls beyond the cap. Returns their steps."""
        gone = []
        while self.store.finished_steps > self._cap:
            gone.append(self.store.pop())
        return self._discard(gone, Drop.OVERFLOW)

    def _date(self, new: int, each: int) -> None:
        """How long the newest unrolls are good for."""
        lag = self.config.max_policy_lag
        if lag is None:  # the batch that is with the learner, those played meanwhile, those ahead
            lag = 1 + math.ceil(each / self.batch_steps) + math.ceil(self._cap / self.batch_steps)
        for unroll in islice(reversed(self.store.finished), new):
            unroll.last_version = unroll.first_version + lag

    def _drop_stale(self) -> int:
        """Unrolls that are not good any more. Returns their steps."""
        store = self.store
        gone = [unroll for unroll in store.finished if unroll.last_version < self.version]
        if gone:
            keep = [unroll for unroll in store.finished if unroll.last_version >= self.version]
            store.finished.clear()
            store.finished.extend(keep)
            store.finished_steps -= sum(unroll.length for unroll in gone)
        return self._discard(gone, Drop.STALE)

    def _discard(self, unrolls: list[Unroll], reason: str) -> int:
        """Counts them, which wait no more, as dropped. Returns their steps."""
        steps = sum(unroll.length for unroll in unrolls)
        self.store.release(unrolls)
        self.accounts.drop(reason, steps)
        return steps
