"""How much is learned for what was collected.

With a ratio of r samples per insert, and nothing drawn before `learning_starts` steps are there,
the learner owes

    debt = r * (inserted - learning_starts) - sampled        samples, from then on,

and pays in gradient steps of `batch_size` samples while debt >= batch_size. So |debt| stays below
one batch (synchronous collection: simulators wait meanwhile). Where simulators do not wait for a
learner that is too slow, it pays at most `most_steps` gradient steps at a time; the rest is
forgiven, and counted. So is what cannot be paid because nothing can be drawn.

Source: the SampleToInsertRatio of Cassirer et al. (Reverb), https://arxiv.org/abs/2102.04736.
"""

from __future__ import annotations

from typing import Any


class RateLimiter:
    """Args:
        samples_per_insert: r, > 0.
        learning_starts: steps before the first sample.
        batch_size: samples of one gradient step.
        most_steps: gradient steps at a time; None: as many as are owed.

    Attributes:
        inserted, sampled, forgiven: steps, samples and samples so far.
    """

    def __init__(
        self,
        samples_per_insert: float,
        learning_starts: int,
        batch_size: int,
        most_steps: int | None = None,
    ):
        self._ratio, self._starts = samples_per_insert, learning_starts
        self._batch, self._most = batch_size, most_steps
        self.inserted = 0
        self.sampled = 0
        self.forgiven = 0.0

    @property
    def debt(self) -> float:
        """Samples that are owed."""
        due = self._ratio * max(0, self.inserted - self._starts)
        return due - self.sampled - self.forgiven

    @property
    def open(self) -> bool:
        """Whether samples may be drawn at all."""
        return self.inserted >= self._starts

    def insert(self, steps: int) -> int:
        """So many more are there; how many gradient steps are to be made now."""
        self.inserted += steps
        if not self.open:
            return 0
        owed = int(max(0.0, self.debt) // self._batch)
        steps_now = owed if self._most is None else min(owed, self._most)
        self.sampled += steps_now * self._batch
        if owed > steps_now:
            self.forgiven += (owed - steps_now) * self._batch
        return steps_now

    def forgive(self, steps: int) -> None:
        """So many of the gradient steps that were to be made now could not be."""
        self.sampled -= steps * self._batch
        self.forgiven += steps * self._batch

    @property
    def metrics(self) -> dict[str, float]:
        """For the operator."""
        later = max(1, self.inserted - self._starts)
        return {
            "samples_per_insert": self.sampled / later,
            "samples_owed": self.debt,
            "samples_forgiven": float(self.forgiven),
        }

    def start_over(self) -> None:
        """The steps are gone."""
        self.inserted = self.sampled = 0
        self.forgiven = 0.0

    def state(self) -> dict[str, Any]:
        return {"inserted": self.inserted, "sampled": self.sampled, "forgiven": self.forgiven}

    def load(self, state: dict[str, Any]) -> None:
        self.inserted, self.sampled = int(state["inserted"]), int(state["sampled"])
        self.forgiven = float(state["forgiven"])
