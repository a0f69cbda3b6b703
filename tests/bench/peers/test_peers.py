"""The runner's arithmetic and its programs; with `-m bench`, short windows of every peer."""

from __future__ import annotations

import json

import pytest

from tests.bench.peers import exchange, learning, records, report
from tests.bench.peers.exchange import BARE, CLIENT, ECHO, LOCAL, Peer, Window
from tests.bench.peers.learning import OURS, RLLIB, SB3
from tests.bench.peers.program import OWN, Program, missing
from tests.bench.peers.programs.criterion import BAR, WINDOW_EPISODES, Criterion


def test_a_window_counts_actions_and_takes_percentiles():
    window = Window.of(list(range(1, 102)), seconds=2.0)
    assert window == Window(actions_per_s=50.5, p50_us=51.0, p99_us=100.0)


def test_a_window_in_which_nothing_happened_is_no_measurement():
    with pytest.raises(ValueError, match="at least 2 actions in"):
        Window.of([], 1.0)


def test_ratios_are_taken_within_a_repeat():
    windows = {
        BARE: [Window(100.0, 1, 1), Window(300.0, 1, 1), Window(200.0, 1, 1)],
        LOCAL: [Window(200.0, 1, 1), Window(400.0, 1, 1), Window(100.0, 1, 1)],
        CLIENT: [Window(50.0, 1, 1), Window(100.0, 1, 1), Window(80.0, 1, 1)],
        "slow": [Window(10.0, 1, 1), Window(5.0, 1, 1), Window(4.0, 1, 1)],
    }
    sides = exchange.rows(16, windows, {"slow": CLIENT})["sides"]
    assert sides["slow"]["bare_over_it"] == [50.0, 10.0, 60.0]
    assert sides["slow"]["local_over_it"] == [25.0, 20.0, 80.0]
    assert sides["slow"]["client_over_it"] == [20.0, 5.0, 20.0]
    assert sides["slow"]["actions_per_s"] == [5.0, 4.0, 10.0]
    assert "client_over_it" not in sides[BARE]
    _, lines = report.exchange_table({"16": exchange.rows(16, windows, {"slow": CLIENT})})
    assert lines[-1] == [
        "16", "slow", "5 (4-10)", "1 (1-1)", "1 (1-1)", "Python client", "20 (5.0-20)",
        "25 (20-80)", "50 (10-60)",
    ]  # fmt: skip


def test_the_page_says_what_was_to_be_reached():
    windows = {
        BARE: [Window(300.0, 1, 1)],
        LOCAL: [Window(400.0, 1, 1)],
        CLIENT: [Window(200.0, 1, 1)],
        exchange.RLLIB: [Window(10.0, 1, 1)],
    }
    kept = {str(n): exchange.rows(n, windows, {exchange.RLLIB: CLIENT}) for n in (1, 16)}
    _, many = report.exchange_words(kept)
    assert "16. To reach: 100 times" in many
    assert many.endswith(
        "client has 20 (20-20), bare local sockets 40 (40-40), bare ZeroMQ sockets 30 (30-30)."
    )


def run_of(training_s: float, reached: bool = True) -> dict[str, float | bool]:
    return {
        "reached": reached,
        "env_steps": 1000,
        "training_s": training_s,
        "command_s": training_s + 5,
    }


def test_the_verdict_is_of_medians_against_the_faster_peer():
    runs = {
        str(seed): {OURS: run_of(mine), SB3: run_of(sb3), RLLIB: run_of(60.0, reached=False)}
        for seed, (mine, sb3) in enumerate([(1.0, 9.0), (3.0, 6.0), (7.0, 5.0)])
    }
    result = learning.verdict(runs)
    assert result["faster_peer"] == SB3
    assert result["ratio"] == {"training_s": 3.0 / 6.0, "command_s": 8.0 / 11.0}
    assert result["medians"][RLLIB]["training_s"] == float("inf")
    _, lines = report.learning_table({"runs": runs})
    assert lines[-1] == ["median", RLLIB, "not reached", "not reached", "not reached"]
    assert lines[2] == ["0", RLLIB, "> 1,000", "> 60.0", "> 65.0"]


def test_the_bar_needs_a_full_window_and_keeps_the_first_time():
    criterion = Criterion()
    criterion.start()
    for n in range(1, WINDOW_EPISODES):
        assert not criterion.episode(500.0, 500 * n)
    assert criterion.reached_s is None
    assert criterion.episode(0.0, 9500)
    assert (criterion.mean, criterion.env_steps) == (BAR, 9500)
    reached_s = criterion.reached_s
    assert criterion.episode(500.0, 10_000)
    assert (criterion.reached_s, criterion.env_steps) == (reached_s, 9500)


def test_records_keep_what_was_not_measured_again(tmp_path):
    path = tmp_path / "figures.json"
    assert records.load(path) == {}
    records.save(path, {"1": {"simulators": 1}})
    assert records.load(path) == {"1": {"simulators": 1}}
    records.save(None, {})
    assert json.loads(path.read_text()) == {"1": {"simulators": 1}}


def test_versions_are_those_pinned():
    assert "torch 2.13.0" in records.versions("learning")
    assert records.versions("rllib-2.30").startswith("ray 2.30.0, ")


def test_a_program_that_dies_says_why():
    program = Program(OWN, "unix_server.py", "no number")
    with pytest.raises(RuntimeError, match="invalid literal for int"):
        program.hear()
    program.end()


def test_programs_on_a_unix_socket_measure_each_other():
    peer = Peer(OWN, BARE, ("unix_server.py", 20), ("unix_client.py", 60, 3, 2))
    with exchange.standing({"one": peer, "other": peer}) as sides:
        windows = [side.window(0.1, 0.02) for side in sides.values()]
    for window in windows:
        assert window.actions_per_s > 0
        assert 0 < window.p50_us <= window.p99_us


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("simulators", [1, 16])
def test_every_peer_answers(simulators):
    chosen = exchange.peers(simulators)
    absent = missing({peer.environment for peer in chosen.values()})
    if absent:
        pytest.skip(f"{', '.join(absent)}: not made; run `make peers`")
    record = exchange.run(simulators, 1, 0.5, 0.2, chosen)
    assert set(record["sides"]) == {BARE, LOCAL, CLIENT, ECHO, *chosen}
    for side in record["sides"].values():
        assert side["actions_per_s"][0] > 0
        assert 0 < side["p50_us"][0] <= side["p99_us"][0]


def test_the_runner_asks_for_make_peers(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.bench.peers.program.ENVIRONMENTS", tmp_path)
    assert missing({OWN, "grpc", "learning"}) == ["grpc", "learning"]
    with pytest.raises(FileNotFoundError, match="make peers"):
        Program("grpc", "grpc_server.py", "bytes")
