"""No run is overwritten by accident, and nothing that a run did not make is ever deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policy_server.errors import RunDirError
from policy_server.metrics.run_dir import is_run_dir, prepare_run_dir, read_settings

SETTINGS = {"algorithm": "PPO", "training": {"lr": 1e-4}}


def finished_run(folder: Path) -> Path:
    prepare_run_dir(folder, SETTINGS)
    for name in (
        "metrics.jsonl", "metrics.csv", "plot.png", "tensorboard/events.out.tfevents.1.host.2.0",
        "checkpoints/checkpoint_000000000100/policies/red/state.json",
        "checkpoints/.writing-0123/state.json", "simulators/0.log",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    return folder


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_new_folder_is_made_with_its_settings(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = prepare_run_dir("runs/one", SETTINGS)
    assert folder == tmp_path / "runs" / "one"
    assert contents(folder) == {"settings.json"}
    assert read_settings(folder) == json.loads((folder / "settings.json").read_text()) == SETTINGS
    assert is_run_dir(folder)
    assert not is_run_dir(tmp_path)


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert contents(prepare_run_dir(tmp_path, SETTINGS)) == {"settings.json"}
    assert contents(prepare_run_dir(tmp_path / "without", None)) == set()


def test_a_run_that_is_there_is_refused(tmp_path: Path) -> None:
    before = contents(finished_run(tmp_path))
    with pytest.raises(RunDirError, match=r"a run is here already: give --resume .* --force"):
        prepare_run_dir(tmp_path, SETTINGS)
    assert contents(tmp_path) == before


def test_resume_keeps_everything_and_takes_the_new_settings(tmp_path: Path) -> None:
    before = contents(finished_run(tmp_path))
    prepare_run_dir(tmp_path, {"algorithm": "DQN"}, resume=True)
    assert contents(tmp_path) == before
    assert (tmp_path / "metrics.jsonl").read_text() == "old"
    assert read_settings(tmp_path) == {"algorithm": "DQN"}


def test_force_deletes_what_a_run_makes(tmp_path: Path) -> None:
    prepare_run_dir(finished_run(tmp_path), {"algorithm": "DQN"}, force=True)
    assert contents(tmp_path) == {"settings.json"}
    assert read_settings(tmp_path) == {"algorithm": "DQN"}
    prepare_run_dir(tmp_path / "new", SETTINGS, force=True)  # nothing to delete is fine


def test_force_deletes_nothing_else(tmp_path: Path) -> None:
    finished_run(tmp_path)
    mine = {
        "notes.txt", "metrics.csv.bak", "checkpoints/best/state.json", "checkpoints/README",
        "tensorboard/mine", "simulators/notes.md", "checkpoints/checkpoint_best/x",
    }  # fmt: skip
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    prepare_run_dir(tmp_path, SETTINGS, force=True)
    left = {name for name in contents(tmp_path) if (tmp_path / name).is_file()}
    assert left == mine | {"settings.json"}


def test_force_follows_no_links(tmp_path: Path) -> None:
    run, other = finished_run(tmp_path / "run"), finished_run(tmp_path / "other")
    before = contents(other)
    for name in ("tensorboard", "simulators"):
        for entry in (run / name).iterdir():
            entry.unlink()
        (run / name).rmdir()
    (run / "tensorboard").symlink_to(other / "tensorboard")
    (run / "simulators").symlink_to(other / "simulators")
    linked = run / "checkpoints" / "checkpoint_000000000999"
    linked.symlink_to(other / "checkpoints" / "checkpoint_000000000100")
    prepare_run_dir(run, SETTINGS, force=True)
    assert contents(other) == before
    assert not linked.is_symlink()


def test_a_clearing_that_was_interrupted_can_be_repeated(tmp_path: Path, monkeypatch) -> None:
    finished_run(tmp_path)

    def die(self: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            prepare_run_dir(tmp_path, SETTINGS, force=True)
    prepare_run_dir(tmp_path, SETTINGS, force=True)
    assert contents(tmp_path) == {"settings.json"}


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, flags: dict[str, bool]) -> None:
    (tmp_path / "metrics.csv").write_text("somebody else's")
    with pytest.raises(RunDirError, match=r"holds 'metrics\.csv' and no settings\.json"):
        prepare_run_dir(tmp_path, SETTINGS, **flags)
    assert contents(tmp_path) == {"metrics.csv"}


def test_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="expected a folder for the run, got a file"):
        prepare_run_dir(tmp_path / "file", SETTINGS)
    with pytest.raises(RunDirError, match="cannot be used: Not a directory"):
        prepare_run_dir(tmp_path / "file" / "below", SETTINGS)
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(RunDirError, match="no run to resume: leave out --resume"):
            prepare_run_dir(tmp_path / name, SETTINGS, resume=True)
    with pytest.raises(RunDirError, match="give one of the two"):
        prepare_run_dir(tmp_path / "none", SETTINGS, resume=True, force=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_settings(tmp_path: Path, content: str) -> None:
    with pytest.raises(RunDirError, match=r"settings\.json is missing"):
        read_settings(tmp_path)
    (tmp_path / "settings.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunDirError, match=r"settings\.json: "):
        read_settings(tmp_path)
