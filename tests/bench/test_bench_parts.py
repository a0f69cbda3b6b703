"""What the benchmark is made of is right: its frames, its ratios, its document."""

from __future__ import annotations

import numpy as np
import pytest

from sim_clients.protocol import Actions, Flag, Hello, Step, decode
from tests.bench.frames import HEAD, StepFrames, hello, like_actions
from tests.bench.report import BEGIN, DOCUMENT, END, Conditions, markdown, replace_figures
from tests.bench.suite import ECHO, SERVER, Plan, Row, Spread, _row
from tests.bench.trial import Trial
from tests.bench.workloads import EPISODE_STEPS, WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_frames_are_steps_of_the_protocol(name: str) -> None:
    workload = WORKLOADS[name]
    greeting = decode(hello(workload))
    assert isinstance(greeting, Hello)
    assert greeting.groups[0].lanes == workload.lanes
    frames = StepFrames(workload, simulator=3)
    over = np.zeros(workload.lanes, int)
    for seq in range(1, EPISODE_STEPS + 2):
        frame = frames.frame(seq)
        assert frame.startswith(HEAD)
        step = decode(frame)
        assert isinstance(step, Step)
        assert step.seq == seq
        (group,) = step.groups
        assert group is not None
        assert len(group.rewards) == 4 * workload.lanes
        assert [len(column) for column in group.observations] == [32 * workload.lanes]
        flags = np.frombuffer(group.flags, np.uint8)
        if seq == 1:
            assert (flags == Flag.FIRST).all()
        else:
            assert set(flags.tolist()) <= {0, Flag.TERMINATED | Flag.FIRST}
            over += flags != 0
    assert (over == 1).all(), "each lane ends one episode per turn of the ring"


def test_sequence_numbers_have_four_bytes_and_one_length() -> None:
    frames = StepFrames(WORKLOADS["W1"], 0)
    assert len({len(frames.frame(seq)) for seq in (1, 2, 200, 70_000, 2**31)}) == 1
    assert decode(frames.frame(2**31)).seq == 2**31  # type: ignore[union-attr]


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_echo_answers_as_much_as_the_server(name: str) -> None:
    actions = decode(like_actions(WORKLOADS[name]))
    assert isinstance(actions, Actions)
    assert [len(column) for column in actions.groups[0].actions] == [8 * WORKLOADS[name].lanes]  # type: ignore[union-attr]


def test_every_simulator_is_in_one_process() -> None:
    for workload in WORKLOADS.values():
        shares = workload.shares()
        assert len(shares) == workload.processes
        assert [n for share in shares for n in share] == list(range(workload.simulators))


def _trials(*rates: float) -> list[Trial]:
    return [Trial(rate, rate, 1e6 / rate, 2e6 / rate, int(rate), 1.0, 0.5) for rate in rates]


def test_ratios_are_taken_within_a_repeat() -> None:
    ours, limit = _trials(100.0, 50.0, 30.0), _trials(200.0, 500.0, 40.0)
    row = _row(WORKLOADS["W1"], SERVER, ours, limit)
    assert row.rate_ratio == Spread(0.5, 0.1, 0.75)
    assert row.p50_ratio.median == pytest.approx(2.0)
    assert row.spread("actions_per_s") == Spread(50.0, 30.0, 100.0)
    assert row.cpu_us("server") == pytest.approx(1e6 / 50)


def test_the_document_takes_new_figures_and_keeps_the_rest() -> None:
    trials = _trials(100.0)
    one = Spread(1.0, 1.0, 1.0)
    rows = [Row("W1", side, trials, one, one) for side in (ECHO, SERVER)]
    conditions = Conditions("today", "2-core machine", "pyzmq 1", "0.00 0.00 0.00")
    figures = markdown(rows, Plan(("W1",), repeats=1), conditions)
    text = DOCUMENT.read_text()
    updated = replace_figures(text, figures)
    assert replace_figures(updated, figures) == updated
    assert figures in updated
    assert updated.partition(BEGIN)[0] == text.partition(BEGIN)[0]
    assert updated.partition(END)[2] == text.partition(END)[2]
    widths = {line.count("|") for line in figures.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    with pytest.raises(ValueError, match="once each"):
        replace_figures("no marks here", figures)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("BENCH_WORKLOADS", "W1,W9", "'W9'"), ("BENCH_REPEATS", "0", "at least one repeat")],
)
def test_a_plan_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Plan.from_environment()


def test_a_plan_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WORKLOADS", "W1',W3")
    monkeypatch.setenv("BENCH_SECONDS", "0.5")
    plan = Plan.from_environment()
    assert plan.workloads == ("W1'", "W3")
    assert plan.seconds == 0.5
    assert plan.repeats == Plan().repeats
