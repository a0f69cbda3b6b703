"""A checkpoint comes back exactly, or an error says which file is to blame; nothing runs."""

from __future__ import annotations

import json
import logging
import os
import pickle
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from policy_server.checkpoints import Checkpoint, CheckpointStore, store
from policy_server.checkpoints.checkpoint import folder_name
from policy_server.errors import CheckpointError
from policy_server.types import PolicyState
from sim_clients.protocol.spaces import Box, Dict, Discrete, from_wire

NAMES = ["default_policy", "../x", "..", "a/b\\c", "ä π 🎲", "CON", "x" * 128, "🎲" * 128, "a%2Fb"]


def state(seed: int) -> PolicyState:
    rng = np.random.default_rng(seed)
    tensors = {
        "w": rng.normal(size=(4, 3)).astype(np.float32),
        "b": np.asarray(rng.normal(size=(3, 4)).T),  # not contiguous
        "a scalar": np.array(seed, np.int64),
        "empty": np.zeros((0, 3), np.float64),
        "flags": np.array([True, False]),
        "big endian": np.arange(3, dtype=">f4"),
        "half": np.array([0.5, np.inf, np.nan], np.float16),
    }
    return PolicyState(tensors, {"rng": rng.bit_generator.state, "best": -np.inf, "n": [1, None]})


def checkpoint(step: int = 100, names: tuple[str, ...] = ("red", "blue")) -> Checkpoint:
    uneven = Box(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]), (2,))
    observation = Dict({"uneven": uneven, "even": Box(-np.inf, np.inf, (3,))})
    spaces = {
        name: {"observation": observation.to_wire(), "action": Discrete(3).to_wire(), "mask": True}
        for name in names
    }
    return Checkpoint(
        step,
        {name: state(i) for i, name in enumerate(names)},
        spaces,
        {"algorithm": "PPO", "training": {"lr": 1e-4}},
        {"episodes": 7, "seed": 2**127},
    )


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert replace(one, policies={}) == replace(other, policies={})
    assert list(one.policies) == list(other.policies)
    for name, policy in one.policies.items():
        assert policy.data == other.policies[name].data
        tensors = other.policies[name].tensors
        assert list(policy.tensors) == list(tensors)
        for key, tensor in policy.tensors.items():
            # Numbers are the same; the byte order is this machine's.
            assert tensors[key].dtype.newbyteorder("=") == tensor.dtype.newbyteorder("=")
            np.testing.assert_array_equal(tensors[key], tensor)


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path / "new" / "folder").save(checkpoint())
    assert path.name == "checkpoint_000000000100"
    loaded = CheckpointStore(tmp_path / "new" / "folder").load()
    assert_same(loaded, checkpoint())
    assert_same(CheckpointStore(tmp_path).load(path), checkpoint())
    space = from_wire(loaded.spaces["red"]["observation"])
    assert space.to_wire() == checkpoint().spaces["red"]["observation"]


def test_json_files_are_readable_by_anybody(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    assert json.loads((path / "settings.json").read_text())["algorithm"] == "PPO"
    spaces = json.loads((path / "state.json").read_text())["spaces"]["red"]["observation"]
    low = spaces[1][0][1][3]
    assert low == {"hex": np.array([-np.inf, 0], "<f4").tobytes().hex()}
    assert spaces[1][1][1][3] == {"float": "-inf"}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_policy_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    inside = CheckpointStore(tmp_path / "store").save(checkpoint(names=(name, "other")))
    assert_same(CheckpointStore(tmp_path).load(inside), checkpoint(names=(name, "other")))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    folders = {path.name for path in (inside / "policies").iterdir()}
    assert folders == {folder_name(name), "other"}


def test_names_get_distinct_folders() -> None:
    long = "🎲" * 127
    names = [*NAMES, long + "a", long + "b"]
    assert len({folder_name(name) for name in names}) == len(names)
    assert all(len(folder_name(name)) <= 200 for name in names)


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="policy name"):
        CheckpointStore(tmp_path).save(checkpoint(names=(name,)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "data", "text"),
    [
        ({"w": np.array([object()])}, {}, "tensor 'w'.*object"),
        ({"w": np.array(["text"])}, {}, "tensor 'w'"),
        ({"w": [1.0]}, {}, "tensor 'w'.*list"),
        ({}, {"a": {"b": [np.float32(1)]}}, r"a\.b\[0\].*float32"),
        ({}, {"a": {1: 2}}, "key, got 1"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, tensors, data, text) -> None:
    kept = CheckpointStore(tmp_path).save(checkpoint(1))
    bad = replace(checkpoint(2), policies={"red": PolicyState(tensors, data)})
    with pytest.raises(CheckpointError, match=text):
        CheckpointStore(tmp_path).save(bad)
    assert list(tmp_path.iterdir()) == [kept]


# -- which one is kept, which one is newest -----------------------------------------------------


def steps(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("checkpoint_").lstrip("0") for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        assert keeper.latest() != keeper.save(checkpoint(step))
    assert steps(tmp_path) == ["20", "30"]
    assert keeper.latest() == tmp_path / "checkpoint_000000000030"


def test_zero_keeps_all(tmp_path: Path) -> None:
    for step in range(1, 6):
        CheckpointStore(tmp_path, keep=0).save(checkpoint(step))
    assert steps(tmp_path) == ["1", "2", "3", "4", "5"]


def test_newest_is_the_one_written_last_even_at_an_earlier_step(tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path, keep=2)
    for step in (50, 60, 15):
        written = keeper.save(checkpoint(step))
    assert keeper.latest() == written
    assert keeper.load().step == 15
    keeper.save(checkpoint(16))
    assert steps(tmp_path) == ["15", "16"]


def test_the_same_step_twice_gets_another_name(tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path, keep=0)
    paths = [keeper.save(replace(checkpoint(7), data={"n": n})) for n in range(11)]
    assert [path.name for path in paths[:2]] == [
        "checkpoint_000000000007",
        "checkpoint_000000000007-2",
    ]
    assert keeper.load().data == {"n": 10}
    assert keeper.folders()[0] == paths[-1]


def test_an_empty_store(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").latest() is None
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        CheckpointStore(tmp_path).load()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        CheckpointStore(tmp_path).load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="missing"):
        CheckpointStore(tmp_path).load(tmp_path / "checkpoint_000000000001")
    with pytest.raises(CheckpointError, match="keep"):
        CheckpointStore(tmp_path, keep=-1)
    with pytest.raises(CheckpointError, match="step"):
        CheckpointStore(tmp_path).save(checkpoint(-1))


def test_a_run_folder_will_do(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "checkpoints").save(checkpoint())
    assert_same(CheckpointStore(tmp_path).load(), checkpoint())


def test_a_renamed_checkpoint_still_loads(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    assert_same(CheckpointStore(tmp_path).load(path.rename(tmp_path / "best")), checkpoint())


# -- the writer dies ------------------------------------------------------------------------------


def _primitives(monkeypatch: pytest.MonkeyPatch, before) -> None:
    """Calls `before(write)` at every point that touches the disk; `write` does half of it."""
    for owner, name in [(os, "fsync"), (os, "rename"), (Path, "mkdir"), (store.shutil, "rmtree")]:
        real = getattr(owner, name)

        def wrapped(*args, _real=real, **kwargs):
            before(lambda: None)
            return _real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)
    real_write = store._write_file

    def write(path: Path, content: bytes) -> None:
        before(lambda: path.write_bytes(content[: len(content) // 2]))
        real_write(path, content)

    monkeypatch.setattr(store, "_write_file", write)


def test_a_writer_killed_anywhere_leaves_the_previous_ones_whole(tmp_path, monkeypatch) -> None:
    points = []
    with monkeypatch.context() as patch:
        _primitives(patch, points.append)
        CheckpointStore(tmp_path / "count", keep=1).save(checkpoint(1))
        points.clear()
        CheckpointStore(tmp_path / "count", keep=1).save(checkpoint(2))
    assert len(points) > 15
    old, new, finished = checkpoint(1), checkpoint(2), 0
    for fatal in range(len(points)):
        folder = tmp_path / f"run{fatal}"
        CheckpointStore(folder, keep=1).save(old)
        child = os.fork()
        if child == 0:  # a real death: no handler, no finally, nothing flushed
            calls = iter(range(1_000_000))

            def before(half, calls=calls, fatal=fatal) -> None:
                if next(calls) == fatal:
                    half()
                    os._exit(9)

            _primitives(monkeypatch, before)
            try:
                CheckpointStore(folder, keep=1).save(new)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        loaded = CheckpointStore(folder).load()
        finished += loaded.step == 2
        assert_same(loaded, old if loaded.step == 1 else new)
        # The successor cleans up and goes on.
        CheckpointStore(folder, keep=1).save(checkpoint(3))
        assert [path.name for path in folder.iterdir()] == ["checkpoint_000000000003"]
    assert 0 < finished < len(points)


@pytest.mark.parametrize("fatal", [0, 1, 5, 9])
def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(
    tmp_path, monkeypatch, fatal
) -> None:
    kept = CheckpointStore(tmp_path).save(checkpoint(1))
    real, calls = os.fsync, iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == fatal:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left"):
        CheckpointStore(tmp_path).save(checkpoint(2))
    assert list(tmp_path.iterdir()) == [kept]


# -- somebody tampered, or a disk rotted ------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint(names=("red",)))
    for file in files(path):
        good = file.read_bytes()
        for at in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            bad = bytearray(good)
            bad[at] ^= 1 << (at % 8)
            file.write_bytes(bad)
            # A manifest is its own witness: a flip there may only hit its white space.
            if file.name == "manifest.json":
                try:
                    assert_same(CheckpointStore(tmp_path).load(path), checkpoint(names=("red",)))
                except CheckpointError:
                    continue
            else:
                with pytest.raises(CheckpointError, match=str(file)):
                    CheckpointStore(tmp_path).load(path)
        file.write_bytes(good)


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing"])
def test_a_file_of_another_length_is_named(tmp_path: Path, damage: str) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint(names=("red",)))
    for file in files(path):
        good = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(good[:-1] if damage == "shorter" else good + b"x")
        with pytest.raises(CheckpointError, match=str(file)):
            CheckpointStore(tmp_path).load(path)
        file.write_bytes(good)


def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, caplog) -> None:
    keeper = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        newest = keeper.save(checkpoint(step))
    victim = newest / "policies" / "red" / "tensors.safetensors"
    victim.write_bytes(victim.read_bytes()[:-8])
    (tmp_path / "checkpoint_000000000002" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert keeper.load().step == 1
    assert str(victim) in caplog.text
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors"):
        keeper.load(newest)
    (tmp_path / "checkpoint_000000000001" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 3"):
        keeper.load()


def rewrite(folder: Path, relative: str, content: bytes) -> None:
    """What a forger does: another content, and a manifest that vouches for it."""
    (folder / relative).write_bytes(content)
    if relative == "manifest.json":
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == relative:
            entry |= {"size": len(content), "sha256": sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Canary:
    def __reduce__(self):
        return (os.mkdir, (os.environ["CANARY"],))


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_refused_and_never_runs(tmp_path: Path, monkeypatch, protocol: int) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    store_ = CheckpointStore(tmp_path / "store")
    for relative in [str(f.relative_to(p)) for p in [store_.save(checkpoint())] for f in files(p)]:
        path = store_.save(checkpoint())
        rewrite(path, relative, pickle.dumps(Canary(), protocol))
        with pytest.raises(CheckpointError, match="expected"):
            store_.load(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "named",
    ["../secret.json", "/etc/hostname", "policies/../../secret.json", "policies/./state.json",
     "policies/a/b/state.json", ".hidden", "policies\\red\\state.json", "settings.json\n", "", 7],
)  # fmt: skip
def test_a_manifest_that_names_other_files_is_refused(tmp_path: Path, named: object) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    (tmp_path / "secret.json").write_text("{}")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"].append({"path": named, "size": 2, "sha256": sha256(b"{}").hexdigest()})
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="refused"):
        CheckpointStore(tmp_path).load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "expected checkpoint format 1, got 2"),
        ({"format": "1"}, "expected checkpoint format 1"),
        ({"step": -1}, "damaged"),
        ({"serial": None}, "damaged"),
        ({"files": {}}, "missing in manifest.json"),
        ({"files": [7]}, "damaged"),
        ({"files": [{"path": "state.json", "size": "2", "sha256": ""}]}, "damaged"),
        ({"files": [{"path": "state.json", "size": 2, "sha256": ""}] * 2}, "twice"),
    ],
)
def test_a_strange_manifest_is_refused(tmp_path: Path, change: dict, text: str) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    manifest = json.loads((path / "manifest.json").read_text()) | change
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=text):
        CheckpointStore(tmp_path).load(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"7", b"\xff", b"", b'{"format": 1}'])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        CheckpointStore(tmp_path).load(path)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"[]", b'{"step": 1}',
     b'{"step": true, "policies": [], "spaces": {}, "data": {}}',
     b'{"step": 1, "policies": [["x"]], "spaces": {}, "data": {}}',
     b'{"step": 1, "policies": ["../../x"], "spaces": {}, "data": {}}',
     b'{"step": 1, "policies": [], "spaces": {"red": {"observation": {"evil": 1}}}, "data": {}}',
     b'{"step": 1, "policies": [], "spaces": {"red": 7}, "data": {}}'],
)  # fmt: skip
def test_a_forged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    rewrite(path, "state.json", content)
    with pytest.raises(CheckpointError, match=str(path)):
        CheckpointStore(tmp_path).load(path)


def test_the_state_of_another_policy_is_refused(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    rewrite(path, "policies/red/state.json", (path / "policies/blue/state.json").read_bytes())
    with pytest.raises(CheckpointError, match="state of policy 'red'"):
        CheckpointStore(tmp_path).load(path)


@pytest.mark.parametrize("relative", ["settings.json", "manifest.json", "policies", "policies/red"])
def test_links_are_refused(tmp_path: Path, relative: str) -> None:
    path = CheckpointStore(tmp_path / "store").save(checkpoint())
    (path / relative).rename(tmp_path / "elsewhere")
    (path / relative).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"refused, expected .*, got a link"):
        CheckpointStore(tmp_path / "store").load(path)


def test_a_linked_checkpoint_is_refused_and_not_found(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path / "store").save(checkpoint())
    link = tmp_path / "checkpoint_000000000999"
    link.symlink_to(path)
    with pytest.raises(CheckpointError, match="got a link"):
        CheckpointStore(tmp_path).load(link)
    assert CheckpointStore(tmp_path).latest() is None


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(checkpoint())
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(CheckpointError, match="expected a plain file"):
        CheckpointStore(tmp_path).load(path)
