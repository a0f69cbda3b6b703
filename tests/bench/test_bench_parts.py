"""What the benchmark is made of is right: its frames, its ratios, its documents."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from policy_server.bench import exchange, suite
from policy_server.bench.conditions import Conditions
from policy_server.bench.document import BEGIN, END, replace_figures, write_numbers, write_page
from policy_server.bench.figure import (
    Figure,
    Result,
    Spread,
    at_least,
    at_most,
    by_turns,
    compare,
)
from policy_server.bench.frames import HEAD, StepFrames, hello, like_actions
from policy_server.bench.picture import draw
from policy_server.bench.plan import WORK, Plan
from policy_server.bench.table import cells, markdown
from policy_server.bench.trial import Trial
from policy_server.bench.workloads import FRAMES, MANY, NEWEST, ONE, WIDE
from policy_server.cli import main
from policy_server.errors import ConfigError
from policy_server.settings import Settings
from sim_clients.protocol import Actions, Flag, Hello, Step, decode

WORKLOADS = [MANY, ONE, WIDE, FRAMES, NEWEST]


# -- frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.title)
def test_frames_are_steps_of_the_protocol(workload):
    greeting = decode(hello(workload))
    assert isinstance(greeting, Hello)
    assert greeting.groups[0].lanes == workload.lanes
    size = workload.observation.dtype.itemsize * int(np.prod(workload.observation.shape))
    frames = StepFrames(workload, simulator=3)
    over = np.zeros(workload.lanes, int)
    for seq in range(1, workload.episode_steps + 2):
        frame = frames.frame(seq)
        assert frame.startswith(HEAD)
        step = decode(frame)
        assert isinstance(step, Step)
        assert step.seq == seq
        (group,) = step.groups
        assert group is not None
        assert len(group.rewards) == 4 * workload.lanes
        assert [len(column) for column in group.observations] == [size * workload.lanes]
        flags = np.frombuffer(group.flags, np.uint8)
        if seq == 1:
            assert (flags == Flag.FIRST).all()
        else:
            assert set(flags.tolist()) <= {0, Flag.TERMINATED | Flag.FIRST}
            over += flags != 0
    assert (over == 1).all(), "each lane ends one episode per turn of the ring"


def test_sequence_numbers_have_four_bytes_and_one_length():
    frames = StepFrames(MANY, 0)
    assert len({len(frames.frame(seq)) for seq in (1, 2, 200, 70_000, 2**31)}) == 1
    assert decode(frames.frame(2**31)).seq == 2**31


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.title)
def test_the_echo_answers_as_much_as_the_server(workload):
    actions = decode(like_actions(workload))
    assert isinstance(actions, Actions)
    assert [len(column) for column in actions.groups[0].actions] == [8 * workload.lanes]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.title)
def test_every_simulator_is_in_one_process(workload):
    shares = workload.shares()
    assert len(shares) == workload.processes
    assert [n for share in shares for n in share] == list(range(workload.simulators))


def test_the_newest_frame_is_a_quarter_of_the_stack():
    assert len(StepFrames(FRAMES, 0).frame(1)) > 28_224
    assert len(StepFrames(NEWEST, 0).frame(1)) < 28_224 / 4 + 100
    assert (
        Settings.from_mapping(NEWEST.settings("tcp://127.0.0.1:*")).preprocessing.frame_stack == 4
    )


# -- figures ----------------------------------------------------------------------------------------


def trials(*rates: float) -> list[Trial]:
    return [Trial(rate, rate, 1e6 / rate, 2e6 / rate, int(rate), 1.0, 0.5) for rate in rates]


def test_ratios_are_taken_within_a_repeat():
    ours, limit = trials(100.0, 50.0, 30.0), trials(200.0, 500.0, 40.0)
    rate = compare("messages", "messages_per_s", "/s", ours, limit, "echo", at_least(0.5))
    assert Spread.of(rate.ours) == (50.0, 30.0, 100.0)
    assert Spread.of(rate.verdicts) == (0.5, 0.1, 0.75)
    assert rate.met is True
    p50 = compare("p50", "p50_us", "µs", ours, limit, "echo", at_most(1.9))
    assert Spread.of(p50.verdicts).median == pytest.approx(2.0)
    assert p50.met is False
    assert p50.client_share == pytest.approx(1 / 3)
    assert ours[0].server_us == pytest.approx(1e4)


def test_a_target_without_a_limit_speaks_of_the_figure_itself():
    figure = Figure("wait", "ms", (3.0, 9.0, 4.0), None, "", at_most(5))
    assert figure.verdicts == figure.ours
    assert figure.met is True
    assert Figure("wait", "ms", (3.0,), None, "", None).met is None


def test_sides_take_turns():
    seen = []

    def side(name):
        def measured():
            seen.append(name)
            return trials(1.0)[0]

        return measured

    done = by_turns("W", {"A": side("A"), "B": side("B")}, Plan(repeats=3), lambda text: None)
    assert seen == ["A", "B"] * 3
    assert {name: len(of) for name, of in done.items()} == {"A": 3, "B": 3}


# -- the plan and the command ------------------------------------------------------------------------


def test_there_is_work_behind_every_name():
    assert tuple(suite.WORKS) == WORK


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"work": ("W1", "W9")}, "'W9'"),
        ({"work": ("w3",)}, "Did you mean W3"),
        ({"repeats": 0}, "at least one repeat"),
        ({"seconds": 0.0}, "more than 0 seconds"),
        ({"bind": "tcp://127.0.0.1:5555"}, "free port"),
        ({"bind": "tcp://10.9.9.9:*"}, "this machine"),
        ({"bind": "udp://x"}, "expected tcp://127.0.0.1"),
        ({"bind": "ipc:///nonexistent/x"}, "a folder that exists"),
    ],
)
def test_a_plan_says_what_is_wrong(fields, message):
    with pytest.raises(ConfigError, match=message):
        Plan(**fields)


@pytest.mark.parametrize("option", ["--json", "--png"])
def test_a_file_that_cannot_be_written_is_found_out_before_anything_is_measured(tmp_path, option):
    command = ["bench", "--workloads", "W1", option, str(tmp_path)]
    outcome = CliRunner().invoke(main, command)
    assert outcome.exit_code == 2
    assert "expected a file to write to" in outcome.output


def test_several_servers_have_several_addresses():
    plan = Plan(bind="ipc:///tmp/bench")
    assert plan.bind_for("echo") != plan.bind_for("gateway")
    assert Plan().bind_for("echo") == "tcp://127.0.0.1:*"


CONDITIONS = Conditions("today", "2-core machine", "pyzmq 1", "0.00 0.00 0.00")
RESULTS = [
    Result(
        "W1",
        MANY.title,
        (
            compare("messages", "messages_per_s", "/s", trials(80, 90), trials(100, 100), "echo", at_least(0.75)),
            compare("p50", "p50_us", "µs", trials(80, 90), trials(10, 10), "echo", at_most(0.01)),
        ),
        {exchange.ECHO: trials(100, 100), exchange.SERVER: trials(80, 90)},
    ),
    Result(
        "curve",
        "cost",
        (Figure("cost", "µs", (40.0, 50.0), None, "", None),),
        curves={"CPU µs": {1: (40.0, 50.0), 2: (44.0, 45.0)}},
        notes=("one note",),
    ),
]  # fmt: skip
PLAN = Plan(("W1", "curve"), repeats=2)


def test_the_command_prints_and_writes(monkeypatch, tmp_path):
    monkeypatch.setattr("policy_server.bench.command.run", lambda plan, tell: RESULTS)
    folder = tmp_path / "new" / "folder"
    command = ["bench", "--workloads", "W1,curve", "--repeats", "2", "--write", str(folder)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for word in ("W1", "messages", "≥ 0.75", "yes", "no", "33%", "one note", "pyzmq", "load"):
        assert word in done.output, word
    numbers = json.loads((folder / "results.json").read_text())
    assert numbers["plan"]["work"] == ["W1", "curve"]
    assert numbers["results"][0]["figures"][0]["verdicts"] == [0.8, 0.9]
    assert [len(of) for of in numbers["results"][0]["trials"].values()] == [2, 2]
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "| W1 | messages |" in (folder / "README.md").read_text()


def test_the_command_refuses_what_it_cannot_do():
    done = CliRunner().invoke(main, ["bench", "--workloads", "W6"])
    assert done.exit_code == 2
    assert "expected some of W1" in done.output


def test_files_and_pictures(tmp_path):
    write_numbers(tmp_path / "a.json", RESULTS, PLAN, CONDITIONS)
    assert json.loads((tmp_path / "a.json").read_text())["conditions"]["date"] == "today"
    draw(tmp_path / "a.png", RESULTS, PLAN, CONDITIONS)
    draw(tmp_path / "few.png", RESULTS[1:], PLAN, CONDITIONS)
    for name in ("a.png", "few.png"):
        assert (tmp_path / name).stat().st_size > 5_000


def test_every_line_is_as_wide_as_the_table():
    text = markdown(RESULTS, PLAN, CONDITIONS)
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert cells("W1", RESULTS[0].figures[0])[4] == "0.85 (0.8-0.9)"


def test_the_page_takes_new_figures_and_keeps_the_rest(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nbehind\n")
    write_page(page, RESULTS, PLAN, CONDITIONS)
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}")
    assert text.endswith(f"{END}\n\nbehind\n")
    assert "old" not in text
    write_page(page, RESULTS, PLAN, CONDITIONS)
    assert page.read_text() == text
    with pytest.raises(ConfigError, match="once each"):
        replace_figures("no marks here", "figures")
