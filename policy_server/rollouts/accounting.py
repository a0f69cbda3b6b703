"""Every accepted step is trained on or dropped for a named reason: the books.

    accepted = trained + queued + sum(dropped)

`queued` is counted in the store and the learner's hands, not derived, so that the identity can
fail. The books travel with a checkpoint: what a dead server had queued is dropped as
`server_restart` when its successor opens them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Drop:
    """Reasons a step is not trained on."""

    STALE = "stale_policy"  # chosen by a policy version that is too old by now
    INTERRUPTED = "interrupted"  # the simulator vanished before the outcome came
    OVERFLOW = "overflow"  # simulators faster than the learner
    RESTART = "server_restart"  # queued when the server (or its learner) died
    EVALUATION = "evaluation"  # played during an evaluation
    FROZEN = "frozen"  # of a policy that is not to be trained

    ALL = (STALE, INTERRUPTED, OVERFLOW, RESTART, EVALUATION, FROZEN)


@dataclass
class Accounts:
    """The books of one policy, in steps."""

    accepted: int = 0
    trained: int = 0
    in_flight: int = 0  # handed to the learner, no result yet
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Drop.ALL, 0))

    def drop(self, reason: str, steps: int) -> None:
        self.dropped[reason] += steps

    def balance(self, queued: int) -> int:
        """0 where every step is accounted for; `queued` as counted in the store."""
        return self.accepted - self.trained - self.in_flight - queued - sum(self.dropped.values())

    def report(self, queued: int) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "trained": self.trained,
            "queued": queued + self.in_flight,
            "dropped": dict(self.dropped),
            "balance": self.balance(queued),
        }

    def state(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "trained": self.trained, "dropped": dict(self.dropped)}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Accounts:
        """Opens the books of a server that is gone: what it had queued is lost."""
        accounts = cls(int(state["accepted"]), int(state["trained"]))
        for reason, steps in state["dropped"].items():
            accounts.dropped[reason] = int(steps)
        accounts.drop(Drop.RESTART, accounts.balance(0))
        return accounts
