"""What the operator sees: a live page in a terminal, a line now and then in a log file.

Runs on the thread that calls it; nothing here blocks, draws by itself, or keeps time on its own.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LOG_INTERVAL_S = 5.0
MESSAGES_SHOWN = 5
NARROW = 104  # columns
_STATE_STYLES = {
    "collecting": "green",
    "learning": "cyan",
    "waiting": "yellow",
    "restarting": "bold red",
}
_LOSSES = ("policy_loss", "vf_loss", "entropy", "kl")


class Display:
    """Shows how a run stands.

    Args:
        console: where; None: standard output.
        title: first line, such as "PPO on CartPole-v1".
        stop_steps, stop_return: what the run is to reach, for the bars.
        clock: seconds, monotonic; paces the log lines.
    """

    def __init__(
        self,
        console: Console | None = None,
        title: str = "policy server",
        stop_steps: int | None = None,
        stop_return: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console or Console()
        self.title = title
        self.stop_steps = stop_steps
        self.stop_return = stop_return
        self._clock = clock
        self._live: Live | None = None
        self._status: Mapping[str, Any] | None = None
        self._logged_at: float | None = None
        self._logged: Mapping[str, Any] | None = None
        self._seen: list[str] = []
        self._unlogged: list[str] = []
        self._lowest_return: float | None = None  # where the bar to `stop_return` begins
        self._messages: deque[str] = deque(maxlen=MESSAGES_SHOWN)

    def start(self) -> None:
        """Begins; a terminal gets its live page, anything else one line."""
        if self.console.is_terminal:
            self._live = Live(self.render(), console=self.console, auto_refresh=False)
            self._live.start(refresh=True)
        else:
            self._log(self.title)

    def update(self, status: Mapping[str, Any]) -> None:
        """Shows this status; in a log, only when the last line is old enough.

        Args:
            status: any of `address`, `simulators`, `lanes`, `env_steps`, `steps_per_s`,
                `wall_s`, `episodes`, `episode_return_mean`, `accounting`, `policies`,
                `evaluation`, `messages` (sentences, or counters of the gateway); what is
                missing is not shown.
        """
        self._status = status
        mean = status.get("episode_return_mean")
        if mean is not None and math.isfinite(mean):
            lowest = self._lowest_return
            self._lowest_return = mean if lowest is None else min(mean, lowest)
        self._take_messages(status.get("messages"))
        if self._live is not None:
            self._live.update(self.render(), refresh=True)
        elif not self.console.is_terminal:
            now = self._clock()
            if self._logged_at is None or now - self._logged_at >= LOG_INTERVAL_S:
                self._logged_at = now
                self._log_status()

    def stop(self) -> None:
        """Ends: the last page stays on the screen, a log gets its last line."""
        if self._live is not None:
            self._live.update(self.render(), refresh=True)
            self._live.stop()
            self._live = None
        elif not self.console.is_terminal and self._status is not self._logged:
            self._log_status()

    # -- the page -----------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The page of the newest status."""
        parts: list[RenderableType] = [Text(_clean(self.title), style="bold")]
        if self._status is None:
            return Group(*parts, Text("starting", style="dim"))
        status = self._status
        narrow = self.console.width < NARROW
        policies = status.get("policies") or {}
        parts += [self._facts(status), Text(), _policies_table(policies, narrow)]
        parts += [Text(line, style="magenta") for line in _evaluation_lines(status)]
        parts += [Text(line, style="yellow") for line in _trouble_lines(status)]
        parts += [Text(f"- {message}", style="dim") for message in self._messages]
        return Group(*parts)

    def _facts(self, status: Mapping[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        for style in ("dim", "", "", "dim"):  # what, how much, how far, by the way
            table.add_column(style=style, no_wrap=True)
        if "address" in status:
            table.add_row("address", Text(_clean(status["address"] or "in this process")))
        table.add_row("simulators", short(status.get("simulators")), "", _lanes(status))
        width = 12 if self.console.width < NARROW else 28
        steps, mean = status.get("env_steps"), status.get("episode_return_mean")
        table.add_row(
            "env steps",
            short(steps) + (f" of {short(self.stop_steps)}" if self.stop_steps else ""),
            _bar(steps, 0, self.stop_steps, width),
            f"{short(status.get('steps_per_s'))} steps/s, {duration(status.get('wall_s'))}",
        )
        table.add_row(
            "return",
            short(mean) + ("" if self.stop_return is None else f" of {short(self.stop_return)}"),
            _bar(mean, self._lowest_return, self.stop_return, width),
            f"{short(status.get('episodes'))} episodes",
        )
        return table

    # -- the log ------------------------------------------------------------------------------------

    def _log_status(self) -> None:
        if self._status is None:
            return
        self._logged = self._status
        for message in self._unlogged:
            self._log(f"- {message}")
        self._unlogged.clear()
        self._log(log_line(self._status, self.stop_steps))

    def _log(self, line: str) -> None:
        self.console.print(Text(_clean(line)), soft_wrap=True)

    def _take_messages(self, messages: Any) -> None:
        """Keeps the new ones, whether the caller gives all recent ones or only the new."""
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            return
        now = [_clean(message) for message in messages]
        known = next(
            (n for n in range(min(len(now), len(self._seen)), 0, -1) if self._seen[-n:] == now[:n]),
            0,
        )
        self._seen = now or self._seen
        self._messages.extend(now[known:])
        self._unlogged.extend(now[known:])


def log_line(status: Mapping[str, Any], stop_steps: int | None = None) -> str:
    """A status as one line of plain text."""
    of = f"/{short(stop_steps)}" if stop_steps else ""
    wall_s = status.get("wall_s")
    parts = [] if wall_s is None else [duration(wall_s)]
    parts += [
        f"{short(status.get('env_steps'))}{of} steps",
        f"{short(status.get('steps_per_s'))} steps/s",
        f"{short(status.get('simulators'))} simulators ({_lanes(status)})",
        f"return {short(status.get('episode_return_mean'))} ({short(status.get('episodes'))} episodes)",
    ]
    policies = status.get("policies") or {}
    for name, entry in policies.items():
        alone = len(policies) == 1
        mean = "" if alone else f" return {short(entry.get('episode_return_mean'))}"
        parts.append(
            f"{name}: v{entry.get('version', 0)}{mean} {entry.get('state') or ''}".rstrip()
        )
    return " | ".join([*parts, *_evaluation_lines(status), *_trouble_lines(status)])


def summary_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Mappings as a table: a column per key in order of appearance, numbers to the right."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), (int, float, type(None))) for row in rows)
        table.add_column(
            Text(_clean(column)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    return table


def _policies_table(policies: Mapping[str, Mapping[str, Any]], narrow: bool) -> Table:
    metrics = [
        name for name in _LOSSES if any(name in (p.get("metrics") or {}) for p in policies.values())
    ]
    # A number that is cut in the middle is a wrong number: rather fewer columns.
    padding = (0, 1 if narrow else 2, 0, 0)
    table = Table(header_style="bold", box=None, padding=padding, pad_edge=False)
    table.add_column("policy", no_wrap=True, overflow="ellipsis", max_width=14 if narrow else 24)
    optional = () if narrow else ("episodes", "length", "queued")
    for name in ("version", "return", *metrics, *optional):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name, entry in policies.items():
        numbers = {
            **(entry.get("metrics") or {}),
            "episodes": entry.get("episodes"),
            "length": entry.get("episode_length_mean"),
            "queued": entry.get("queued"),
        }
        state = _clean(entry.get("state") or "")
        table.add_row(
            Text(_clean(name)),
            str(entry.get("version", 0)),
            short(entry.get("episode_return_mean")),
            *(short(numbers.get(column)) for column in (*metrics, *optional)),
            Text(state, style=_STATE_STYLES.get(state, "")),
        )
    return table


def _bar(
    value: float | None, begin: float | None, goal: float | None, width: int
) -> RenderableType:
    """How far from `begin` to `goal`; nothing where there is no goal."""
    if goal is None:
        return ""
    begin = goal if begin is None else begin
    done = 0.0 if value is None or not math.isfinite(value) else value - begin
    # A goal that was reached from the start is a full bar, not a division by zero.
    total = goal - begin if goal > begin else 1.0
    done = total if value is not None and value >= goal else done
    return ProgressBar(total=total, completed=min(max(done, 0.0), total), width=width)


def _lanes(status: Mapping[str, Any]) -> str:
    return f"{short(status.get('lanes'))} lanes"


def _evaluation_lines(status: Mapping[str, Any]) -> list[str]:
    evaluation = status.get("evaluation")
    if not evaluation:
        return []
    policies = evaluation.get("policies") or {}
    each = ", ".join(
        f"{_clean(n)} {short(p.get('episode_return_mean'))}" for n, p in policies.items()
    )
    return [
        f"evaluation: return {short(evaluation.get('episode_return_mean'))} over "
        f"{short(evaluation.get('episodes'))} episodes"
        + (f" ({each})" if len(policies) > 1 else "")
    ]


def _trouble_lines(status: Mapping[str, Any]) -> list[str]:
    """What was not trained on, and which messages were refused; nothing where all is well."""
    lines = []
    for what, counts in (
        ("dropped steps", (status.get("accounting") or {}).get("dropped")),
        ("refused messages", _rejected(status.get("messages"))),
    ):
        some = [f"{_clean(reason)} {short(n)}" for reason, n in (counts or {}).items() if n]
        if some:
            lines.append(f"{what}: {', '.join(some)}")
    return lines


def _rejected(messages: Any) -> Mapping[str, int]:
    found = messages.get("rejected") if isinstance(messages, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def short(value: float | None) -> str:
    """A number in at most seven characters: 12345 -> "12,345", 3.2e7 -> "32M", None -> "-"."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def duration(seconds: float | None) -> str:
    """3725 -> "1:02:05"."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return short(value)
    return _clean(value)


def _clean(text: Any) -> str:
    # Names come from simulators: an escape sequence in one must not drive the terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
