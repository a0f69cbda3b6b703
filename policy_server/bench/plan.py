"""What is run, how long and how often."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from policy_server.address import check_address
from policy_server.errors import AddressError, ConfigError

WORK = ("W1", "W1'", "W2", "W3", "W4", "W5", "W7", "W8", "curve", "parts")


@dataclass(frozen=True)
class Plan:
    """The defaults take less than ten minutes on two cores.

    Attributes:
        work: names, in this order.
        repeats: of both sides, by turns.
        seconds: of each window.
        warmup_s: of load before it.
        bind: "tcp://127.0.0.1:*", or an "ipc://" path without suffix.

    Raises:
        ConfigError: it cannot be done.
    """

    work: tuple[str, ...] = WORK
    repeats: int = 5
    seconds: float = 1.0
    warmup_s: float = 0.4
    bind: str = "tcp://127.0.0.1:*"

    def __post_init__(self) -> None:
        for name in self.work:
            if name not in WORK:
                lower = {known.lower(): known for known in WORK}
                close = difflib.get_close_matches(name.lower(), lower, 1)
                hint = f" Did you mean {lower[close[0]]}?" if close else ""
                raise ConfigError(
                    f"--workloads: expected some of {', '.join(WORK)}, got '{name}'.{hint}"
                )
        if self.repeats < 1 or self.seconds <= 0:
            raise ConfigError(
                "expected at least one repeat of more than 0 seconds, got "
                f"--repeats {self.repeats} --seconds {self.seconds:g}."
            )
        scheme, _, rest = self.bind.partition("://")
        try:
            check_address(self.bind, False)
        except AddressError:
            raise ConfigError(
                "--bind: expected tcp://127.0.0.1:* or ipc://PATH, for load is sent to this machine "
                f"only; got '{self.bind}'."
            ) from None
        if scheme == "ipc" and not Path(rest).parent.is_dir():
            raise ConfigError(f"--bind: expected a folder that exists, got '{self.bind}'.")
        if scheme == "tcp" and not self.bind.endswith(":*"):
            raise ConfigError(
                f"--bind: expected a free port (tcp://127.0.0.1:*), since several servers stand at "
                f"the same time; got '{self.bind}'."
            )

    def bind_for(self, name: str) -> str:
        """An address for one of several servers."""
        return f"{self.bind}-{name}" if self.bind.startswith("ipc://") else self.bind

    @property
    def caption(self) -> str:
        scheme = self.bind.partition(":")[0]
        return f"median (lowest-highest) of {self.repeats} windows of {self.seconds:g} s, over {scheme}"
