"""Which lane is in which episode, and how that episode goes.

Arrays over the slots of one desk. Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np

from policy_server.compiled import compiled
from policy_server.types import Episode


class EpisodeLedger:
    """Open episodes of all lanes of one policy.

    Attributes:
        missed: numbers of those that are over and were not `types.Episode.whole`, until they are
            taken.

    Attributes (all by slot):
        open: an episode is under way.
        complete: its beginning was seen, and nothing of it was missed.
        evaluating: it is an evaluation episode.
        busy: a request of the lane waits for its reply.
        number: running number of the episode.
        length, total: steps and sum of rewards so far.
        keys, draws: the lane's random numbers and how many actions it drew.
    """

    def __init__(self, policy: str):
        self.policy = policy
        self.episodes = 0
        self.empty = 0
        self.missed: list[int] = []
        self._free: list[int] = []
        self._seats: dict[int, tuple[str, str, int]] = {}  # slot -> (group, session, lane)
        self._arrays(0)

    def _arrays(self, slots: int) -> None:
        self.open = np.zeros(slots, bool)
        self.complete = np.zeros(slots, bool)
        self.evaluating = np.zeros(slots, bool)
        self.busy = np.zeros(slots, bool)
        self.number = np.zeros(slots, np.int64)
        self.length = np.zeros(slots, np.int64)
        self.total = np.zeros(slots, np.float64)
        self.keys = np.zeros(slots, np.uint64)
        self.draws = np.zeros(slots, np.uint64)

    @property
    def size(self) -> int:
        return len(self.open)

    @property
    def seated(self) -> int:
        """Lanes that have a slot."""
        return len(self._seats)

    def seat(self, group: str, session: str, keys: np.ndarray) -> np.ndarray:
        """Slots for a group's lanes, in order: int64[lanes]."""
        missing = len(keys) - len(self._free)
        if missing > 0:
            self._grow(missing)
        slots = np.array([self._free.pop() for _ in range(len(keys))], np.int64)
        self.keys[slots] = keys
        self.draws[slots] = 0
        self.busy[slots] = False
        for lane, slot in enumerate(slots.tolist()):
            self._seats[slot] = (group, session, lane)
        return slots

    def _grow(self, slots: int) -> None:
        old, arrays = self.size, self.__dict__
        size = max(2 * old, old + slots, 16)
        before = {k: v for k, v in arrays.items() if isinstance(v, np.ndarray)}
        self._arrays(size)
        for name, array in before.items():
            arrays[name][:old] = array
        self._free = list(range(size - 1, old - 1, -1)) + self._free

    def unseat(self, slots: np.ndarray) -> None:
        for slot in slots.tolist():
            del self._seats[slot]
        self._free.extend(slots[::-1].tolist())

    def start(self, slots: np.ndarray, complete: bool) -> None:
        self.open[slots] = True
        self.complete[slots] = complete
        self.evaluating[slots] = False
        self.length[slots] = 0
        self.total[slots] = 0.0
        self.number[slots] = self.episodes + np.arange(len(slots))
        self.episodes += len(slots)

    def take_missed(self) -> np.ndarray:
        """int64[n]"""
        taken, self.missed = self.missed, []
        return np.array(taken, np.int64)

    def step(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        _add(slots, rewards, self.total, self.length)

    def end(self, slot: int, ending: str, metrics: dict[str, float]) -> Episode:
        group, session, lane = self._seats[slot]
        self.open[slot] = False
        return Episode(
            self.policy,
            group,
            session,
            lane,
            int(self.number[slot]),
            int(self.length[slot]),
            float(self.total[slot]),
            ending,
            bool(self.complete[slot]),
            bool(self.evaluating[slot]),
            metrics,
        )


@compiled("void(i8[::1], f4[::1], f8[::1], i8[::1])")
def _add(slots: np.ndarray, rewards: np.ndarray, total: np.ndarray, length: np.ndarray) -> None:
    for i in range(len(slots)):
        total[slots[i]] += rewards[i]
        length[slots[i]] += 1
