"""What the operator reads: on a terminal, in a log, with anything missing."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from policy_server.display import Display, duration, log_line, short, summary_table


def policy(**changes: Any) -> dict[str, Any]:
    metrics = {"policy_loss": -0.01234, "vf_loss": 12.345, "entropy": 1.2345, "kl": 0.00012}
    entry = {
        "version": 38, "episodes": 1234, "episode_return_mean": 9.83, "episode_length_mean": 100.0,
        "queued": 1600, "state": "learning", "metrics": metrics,
    }  # fmt: skip
    return entry | changes


STATUS: dict[str, Any] = {
    "address": "tcp://127.0.0.1:5555",
    "simulators": 2,
    "lanes": 32,
    "env_steps": 123_456,
    "steps_per_s": 8123.4,
    "wall_s": 75.2,
    "episodes": 1234,
    "episode_return_mean": 9.53,
    "accounting": {
        "accepted": 123_456,
        "trained": 120_000,
        "queued": 3000,
        "dropped": {"stale_policy": 0, "interrupted": 456},
    },
    "policies": {"red": policy(), "blue": policy(version=37, state="restarting", queued=1400)},
    "evaluation": {
        "episodes": 10,
        "episode_return_mean": 10.2,
        "policies": {"red": {"episode_return_mean": 10.4}, "blue": {"episode_return_mean": -0.2}},
    },
    "messages": ["simulator 'one' left"],
}


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def page(display: Display, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(display.render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def written(display: Display) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


# -- a terminal ---------------------------------------------------------------------------------


def test_the_page_shows_everything() -> None:
    display = Display(terminal(), "PPO on arena", stop_steps=400_000, stop_return=12)
    display.start()
    assert "starting" in written(display)
    display.update(STATUS)
    lines = page(display)
    text = "\n".join(lines)
    assert lines[0] == "PPO on arena"
    for part in (
        "tcp://127.0.0.1:5555", "32 lanes", "123,456 of 400,000", "8,123 steps/s, 0:01:15",
        "9.53 of 12", "1,234 episodes", "dropped steps: interrupted 456", "- simulator 'one' left",
        "evaluation: return 10.2 over 10 episodes (red 10.4, blue -0.2)",
    ):  # fmt: skip
        assert part in text
    assert "stale_policy" not in text
    header = next(line for line in lines if line.startswith("policy"))
    columns = [c.strip() for c in header.split("  ") if c.strip()]
    assert columns == [
        "policy", "version", "return", "policy loss", "vf loss", "entropy", "kl", "episodes",
        "length", "queued", "state",
    ]  # fmt: skip
    blue = next(line for line in lines if line.startswith("blue")).split()
    assert blue == [
        "blue", "37", "9.83", "-0.0123", "12.3", "1.23", "1.2e-04", "1,234", "100", "1,400",
        "restarting",
    ]  # fmt: skip
    display.stop()
    assert "blue" in written(display)
    display.stop()


def bar(display: Display, row: str) -> float:
    line = next(line for line in page(display) if line.startswith(row))
    return line.count("━") + 0.5 * line.count("╸")


def test_bars_grow_with_what_is_reached() -> None:
    display = Display(terminal(), stop_steps=1000, stop_return=20)
    lengths = []
    for steps, mean in [(0, None), (250, -20), (500, 0), (1000, 20), (1500, 30)]:
        display.update({**STATUS, "env_steps": steps, "episode_return_mean": mean})
        lengths.append((bar(display, "env steps"), bar(display, "return")))
    assert lengths == [(0, 0), (7, 0), (14, 14), (28, 28), (28, 28)]


def test_a_goal_that_is_reached_from_the_start_is_a_full_bar() -> None:
    display = Display(terminal(), stop_return=5)
    display.update({**STATUS, "episode_return_mean": 9})
    assert bar(display, "return") == 28


def test_without_goals_there_are_no_bars() -> None:
    display = Display(terminal())
    display.update(STATUS)
    assert "━" not in "\n".join(page(display))


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_number_is_cut(width: int) -> None:
    display = Display(terminal(width), "t", stop_steps=100_000_000, stop_return=12)
    display.update(STATUS | {"env_steps": 98_765_432})
    lines = page(display, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines)
    blue = next(line for line in lines if line.startswith("blue"))
    for part in ("37", "9.83", "-0.0123", "12.3", "1.23", "1.2e-04", "restarting"):
        assert part in blue


@pytest.mark.parametrize("missing", sorted(STATUS))
def test_anything_may_be_missing_or_none(missing: str) -> None:
    less = {key: value for key, value in STATUS.items() if key != missing}
    for status in (less, {**STATUS, missing: None}, {}):
        display = Display(terminal(), stop_steps=10, stop_return=1.0)
        display.update(status)
        assert page(display)
        assert log_line(status)


def test_anything_may_be_missing_in_a_policy() -> None:
    display = Display(terminal())
    display.update({"policies": {"red": {}, "blue": policy(metrics=None, state=None)}})
    assert "red 0 - - - -" in [" ".join(line.split()) for line in page(display)]


def test_text_from_elsewhere_neither_drives_the_terminal_nor_marks_up() -> None:
    evil = "a\x1b[2Jb[bold red]c\n"
    status = {
        "policies": {evil: policy(state=evil)},
        "messages": [evil],
        "accounting": {"dropped": {evil: 1}},
    }
    for console in (terminal(), log()):
        display = Display(console, evil)
        display.start()
        display.update(status)
        display.stop()
        assert "\x1b[2J" not in written(display)
        assert "[bold red]c" in written(display)


# -- messages -----------------------------------------------------------------------------------


def test_messages_are_shown_once_whether_all_or_only_new_ones_come() -> None:
    rolling = [["a"], ["a", "b"], ["a", "b"], ["b", "c"], []]
    fresh = [["a"], ["b"], [], ["c"], []]
    for batches in (rolling, fresh):
        display = Display(log())
        for batch in batches:
            display.update({"messages": batch})
        assert [line for line in page(display) if line.startswith("- ")] == ["- a", "- b", "- c"]


def test_only_the_newest_messages_stay() -> None:
    display = Display(terminal())
    display.update({"messages": [str(i) for i in range(20)]})
    shown = [line for line in page(display) if line.startswith("- ")]
    assert shown == ["- 15", "- 16", "- 17", "- 18", "- 19"]


def test_counters_of_refused_messages() -> None:
    display = Display(terminal())
    display.update({"messages": {"received": 10, "rejected": {"bad_reward": 2, "malformed": 0}}})
    assert "refused messages: bad_reward 2" in page(display)


# -- a log --------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_five_seconds_and_one_at_the_end() -> None:
    clock = Clock()
    display = Display(log(), "PPO on arena", clock=clock)
    display.start()
    for i in range(81):  # ten seconds
        display.update({**STATUS, "env_steps": i, "messages": []})
        clock.now += 0.125
    display.stop()
    lines = written(display).splitlines()
    assert lines[0] == "PPO on arena"
    assert [line.split(" | ")[1] for line in lines[1:]] == ["0 steps", "40 steps", "80 steps"]
    assert "\x1b" not in written(display)


def test_the_last_line_is_not_written_twice() -> None:
    display = Display(log(), clock=Clock())
    display.start()
    display.stop()
    display.update(STATUS)
    display.stop()
    display.stop()
    assert written(display).count("123,456 steps") == 1


def test_messages_wait_for_the_next_line_and_come_once() -> None:
    clock = Clock()
    display = Display(log(), clock=clock)
    display.update({"messages": ["one"], "env_steps": 1})
    display.update({"messages": ["one", "two"], "env_steps": 2})
    clock.now += 5
    display.update({"messages": ["one", "two"], "env_steps": 3})
    lines = [line for line in written(display).splitlines() if line.startswith("- ")]
    assert lines == ["- one", "- two"]


def test_a_line_of_log() -> None:
    assert log_line(STATUS, 400_000) == (
        "0:01:15 | 123,456/400,000 steps | 8,123 steps/s | 2 simulators (32 lanes) | "
        "return 9.53 (1,234 episodes) | red: v38 return 9.83 learning | "
        "blue: v37 return 9.83 restarting | "
        "evaluation: return 10.2 over 10 episodes (red 10.4, blue -0.2) | "
        "dropped steps: interrupted 456"
    )


# -- pieces ---------------------------------------------------------------------------------------


def test_summary_table() -> None:
    console = Console(file=io.StringIO(), width=60, record=True)
    rows = [
        {"policy": "a", "return": 1.23456, "steps": 12345},
        {"policy": "[b]", "return": None, "note": "x"},
    ]
    console.print(summary_table(rows, "Result"))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert [line.split() for line in lines] == [
        ["Result"],
        ["policy", "return", "steps", "note"],
        ["a", "1.23", "12,345", "-"],
        ["[b]", "-", "-", "x"],
    ]
    assert lines[2] == "a         1.23  12,345  -"  # numbers to the right


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (12345, "12,345"), (9.53, "9.53"), (475.25, "475.2"), (0.00012, "1.2e-04"),
        (-0.5, "-0.5"), (8123.4, "8,123"), (3.21e7, "32.1M"), (5e9, "5G"), (math.nan, "nan"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_short(value: float | None, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0:00:00"), (3725.9, "1:02:05"), (360000, "100:00:00")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
