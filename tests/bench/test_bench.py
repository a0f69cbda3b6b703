"""Runs the benchmarks in short and checks that they measured what they say. No timed assertions."""

from __future__ import annotations

from typing import Any

import pytest

from policy_server.bench import curve, exchange, learning, parts, publication
from policy_server.bench.plan import Plan
from policy_server.bench.suite import run
from policy_server.bench.workloads import WIDE

SHORT: dict[str, Any] = {"repeats": 1, "seconds": 0.3, "warmup_s": 0.1}


@pytest.mark.bench
@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:*", "ipc"])
@pytest.mark.parametrize("name", ["W1", "W1'", "W3", "W4"])
def test_nothing_is_lost_however_fast_it_comes(name, bind, tmp_path):
    if bind == "ipc":
        bind = f"ipc://{tmp_path}/bench"
    (result,) = run(Plan((name,), bind=bind, **SHORT))
    assert any(side.startswith(exchange.ECHO) for side in result.trials)
    assert len(result.trials) >= 4
    lanes = WIDE.lanes if name == "W3" else 1
    for side, trials in result.trials.items():
        for trial in trials:
            assert 0 < trial.p50_us <= trial.p99_us
            assert trial.env_steps_per_s == trial.messages_per_s * lanes
            assert 0 < trial.client_share < 1
            if side.startswith((exchange.ECHO, exchange.LOCAL_ECHO)):
                assert trial.accepted is None
                continue
            # Every step that was answered was stored, and none was thrown away unlearned.
            assert trial.accepted == trial.answered * lanes
            assert trial.balance == 0
            assert trial.overflow == 0


@pytest.mark.bench
def test_slow_simulators_lose_nothing_either():
    (result,) = run(Plan(("W2",), **SHORT))
    assert len(result.trials) == 6
    for side, trials in result.trials.items():
        for trial in trials:
            assert trial.p50_us > 5_000
            if "served" in side:
                assert trial.accepted == trial.answered
                assert (trial.balance, trial.overflow) == (0, 0)
            else:
                assert trial.server_cpu_s == 0.0


@pytest.mark.bench
def test_the_learner_learns_while_it_should_and_rests_while_it_should():
    (result,) = run(Plan(("W5",), **SHORT))
    assert len(result.trials) in (4, 8)  # with one core, or with several
    for side, trials in result.trials.items():
        lanes = WIDE.lanes if side.startswith("W3") else 1
        for trial in trials:
            assert trial.accepted == trial.answered * lanes
            assert trial.balance == 0
            assert trial.learner_cpu is not None
            assert (trial.learner_cpu > 0.1) == side.endswith(learning.LEARN)


@pytest.mark.bench
def test_publications_are_seen_after_they_were_made(monkeypatch):
    monkeypatch.setattr(publication, "SIZES", publication.SIZES[:1])
    (result,) = run(Plan(("W8",), repeats=3))
    until, longest = result.figures
    assert len(until.ours) == len(longest.ours) == 3
    assert 0 < min(until.ours) <= max(until.ours) < 10_000
    assert min(longest.ours) > 0


@pytest.mark.bench
@pytest.mark.parametrize("name", ["W7", "curve"])
def test_the_other_work_gives_figures(name):
    (result,) = run(Plan((name,), **SHORT))
    judged = [figure for figure in result.figures if figure.target is not None]
    assert judged
    assert all(value > 0 for figure in judged for value in figure.verdicts)
    for points in result.curves.values():
        assert tuple(points) == curve.COUNTS


@pytest.mark.bench
def test_every_part_runs_beside_its_like():
    (result,) = run(Plan(("parts",), **SHORT))
    assert [figure.what for figure in result.figures] == [part.what for part in parts.PARTS]
    assert all(value > 0 for figure in result.figures for value in figure.verdicts)
