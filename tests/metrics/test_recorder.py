"""Numbers arrive in every sink, survive crashes and resumes, and read back as they were."""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from policy_server.errors import ConfigError, RunDirError
from policy_server.metrics.history import policies_of, read_history, series
from policy_server.metrics.recorder import Recorder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_record_is_on_the_disk_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ["jsonl", "csv"])
    recorder.record(10, {"p/kl": 0.5, "env_steps": 99, "episodes": np.int64(3)})
    assert lines(tmp_path) == [{"env_steps": 10, "p/kl": 0.5, "episodes": 3}]
    assert rows(tmp_path) == [{"env_steps": "10", "p/kl": "0.5", "episodes": "3"}]
    recorder.record(20, {"p/kl": 1})
    assert [row["env_steps"] for row in lines(tmp_path)] == [10, 20]
    assert next(iter(lines(tmp_path)[0])) == "env_steps"
    recorder.close()
    recorder.close()


def test_columns_grow_and_missing_cells_are_empty(tmp_path: Path) -> None:
    with Recorder(tmp_path, ["csv"]) as recorder:
        recorder.record(1, {"a": 0.1})
        recorder.record(2, {"b": 2, 'odd, "name"': 3})
        recorder.record(3, {"a": 1e-17})
    assert rows(tmp_path) == [
        {"env_steps": "1", "a": "0.1", "b": "", 'odd, "name"': ""},
        {"env_steps": "2", "a": "", "b": "2", 'odd, "name"': "3"},
        {"env_steps": "3", "a": "1e-17", "b": "", 'odd, "name"': ""},
    ]
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_crash_while_columns_grow_leaves_the_old_table(tmp_path: Path, monkeypatch) -> None:
    recorder = Recorder(tmp_path, ["csv"])
    recorder.record(1, {"a": 1})
    before = (tmp_path / "metrics.csv").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(RunDirError, match="metrics cannot be written: No space left"):
            recorder.record(2, {"b": 2})
    assert (tmp_path / "metrics.csv").read_bytes() == before
    recorder.record(3, {"b": 2})
    assert [row["env_steps"] for row in rows(tmp_path)] == ["1", "3"]
    recorder.close()


@pytest.mark.parametrize("torn", [b'{"env_steps": 3, "a"', b"3,", b"\xff" * 70_000])
def test_a_resume_appends_behind_a_repaired_last_line(tmp_path: Path, torn: bytes) -> None:
    with Recorder(tmp_path, ["jsonl", "csv"]) as recorder:
        recorder.record(1, {"a": 1})
        recorder.record(2, {"a": 2})
    for name in ("metrics.jsonl", "metrics.csv"):
        with open(tmp_path / name, "ab") as file:
            file.write(torn)
    with Recorder(tmp_path, ["jsonl", "csv"]) as recorder:
        recorder.record(4, {"a": 4, "b": 5})
    assert lines(tmp_path) == [
        {"env_steps": 1, "a": 1},
        {"env_steps": 2, "a": 2},
        {"env_steps": 4, "a": 4, "b": 5},
    ]
    assert [(row["env_steps"], row["a"], row["b"]) for row in rows(tmp_path)] == [
        ("1", "1", ""),
        ("2", "2", ""),
        ("4", "4", "5"),
    ]


def test_a_file_that_is_only_a_torn_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("env_st")
    with Recorder(tmp_path, ["csv"]) as recorder:
        recorder.record(1, {"a": 1})
    assert rows(tmp_path) == [{"env_steps": "1", "a": "1"}]


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with Recorder(tmp_path, ["jsonl", "csv"]) as recorder:
        recorder.record(1, {"a": math.nan, "b": math.inf, "c": 1.5})
    assert lines(tmp_path) == [{"env_steps": 1, "a": None, "b": None, "c": 1.5}]
    assert rows(tmp_path) == [{"env_steps": "1", "a": "nan", "b": "inf", "c": "1.5"}]


@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_a_value_that_is_no_number_is_refused_before_anything_is_written(tmp_path, value) -> None:
    with Recorder(tmp_path, ["jsonl"]) as recorder, pytest.raises(TypeError, match="metric 'b'"):
        recorder.record(1, {"a": 1, "b": value})
    assert lines(tmp_path) == []


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    with Recorder(tmp_path, ["tensorboard"]) as recorder:
        recorder.record(100, {"p/kl": 0.25, "env_steps": 100})
        recorder.record(200, {"p/kl": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's reader, not ours
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["p/kl"]
    assert [(e.step, e.value) for e in events.Scalars("p/kl")] == [(100, 0.25), (200, 0.5)]


def test_sinks_of_ones_own_and_unknown_ones(tmp_path: Path) -> None:
    class Mine:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def record(self, step: int, values: dict[str, float]) -> None:
            self.seen.append((step, values))

        def close(self) -> None:
            self.seen.append("closed")

    mine = Mine()
    with Recorder(tmp_path, [mine]) as recorder:
        recorder.record(1, {"a": 2})
    assert mine.seen == [(1, {"a": 2}), "closed"]
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigError, match="sinks among jsonl, csv, tensorboard, got 'excel'"):
        Recorder(tmp_path, ["excel"])
    with pytest.raises(RunDirError, match="metrics cannot be written: No such file"):
        Recorder(tmp_path / "none", ["jsonl"])


# -- reading back -----------------------------------------------------------------------------------


def write(folder: Path, steps: list[int], **values: float) -> None:
    with Recorder(folder, ["jsonl"]) as recorder:
        for i, step in enumerate(steps):
            recorder.record(step, {"i": i, **values})


def test_history_is_what_led_to_the_present(tmp_path: Path) -> None:
    write(tmp_path, [10, 20, 30, 40])
    write(tmp_path, [25, 35], resumed=1)  # went on from a checkpoint at 20
    write(tmp_path, [35], again=1)
    history = read_history(tmp_path)
    assert [record["env_steps"] for record in history] == [10, 20, 25, 35, 35]
    assert series(history, "resumed") == ([25, 35], [1, 1])


def test_history_leaves_out_what_is_not_a_number(tmp_path: Path) -> None:
    write(tmp_path, [1], a=math.nan)
    (tmp_path / "metrics.jsonl").open("a").write('{"env_steps": 2, "t": true}\n{"env_st')
    assert read_history(tmp_path) == [{"env_steps": 1, "i": 0}, {"env_steps": 2}]


def test_history_errors(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no metrics here, metrics\.jsonl is missing"):
        read_history(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirError, match="no metrics yet"):
        read_history(tmp_path)
    for bad in ("[]", "{}", "7", "{"):
        (tmp_path / "metrics.jsonl").write_text(f'{{"env_steps": 1}}\n{bad}\n{{"env_steps": 2}}\n')
        with pytest.raises(RunDirError, match="line 2 is damaged"):
            read_history(tmp_path)


def test_policies_are_those_that_have_a_version() -> None:
    history = [{"env_steps": 1, "dropped/x": 1, "b/version": 1}, {"a/version": 1, "b/version": 2}]
    assert policies_of(history) == ["b", "a"]
