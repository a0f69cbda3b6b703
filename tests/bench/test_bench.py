"""Runs the benchmark and checks that it measured what it says. No timed assertions."""

from __future__ import annotations

import pytest

from tests.bench.report import Conditions, print_table
from tests.bench.suite import ECHO, Plan, run
from tests.bench.workloads import WORKLOADS


@pytest.mark.bench
@pytest.mark.timeout(1200)
def test_the_server_against_an_echo() -> None:
    plan = Plan.from_environment()
    conditions = Conditions.now()
    rows = run(plan)
    print()
    print_table(rows, plan, conditions)
    assert {row.workload for row in rows} == set(plan.workloads)
    for row in rows:
        assert row.rate_ratio.low > 0
        assert row.p50_ratio.low > 0
        for trial in row.trials:
            assert 0 < trial.p50_us <= trial.p99_us
            assert trial.server_cpu_s > 0
            if row.side == ECHO:
                continue
            # Every step that was answered was stored, and none was thrown away unlearned.
            assert trial.accepted == trial.answered * WORKLOADS[row.workload].lanes
            assert trial.balance == 0
            assert trial.overflow == 0
