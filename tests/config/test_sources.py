"""Presets, files and flags: what they may say, and who wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from policy_server import config_sources
from policy_server.config_sources import apply_overrides, load_file, merge, preset, preset_names
from policy_server.errors import ConfigError

EXPECTED = {"algorithm": "PPO", "training": {"lr": 0.001}, "model": {"hidden": [64, 32]}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'algorithm = "PPO"\n[training]\nlr = 1e-3\n[model]\nhidden = [64, 32]\n'),
        ("a.yaml", "algorithm: PPO\ntraining: {lr: 0.001}\nmodel:\n  hidden: [64, 32]\n"),
        ("a.YML", "algorithm: PPO\ntraining: {lr: 0.001}\nmodel:\n  hidden: [64, 32]\n"),
        ("a.json", '{"algorithm": "PPO", "training": {"lr": 1e-3}, "model": {"hidden": [64, 32]}}'),
    ],
)
def test_files_of_each_kind(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert load_file(tmp_path / name) == EXPECTED
    assert load_file(str(tmp_path / name)) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "a.ini",
            b"",
            "expected a settings file that ends in .toml, .yaml, .yml, .json, got '.ini'",
        ),
        ("a", b"", "got 'no ending'"),
        ("a.toml", b"lr = ", "not valid TOML"),
        ("a.toml", b"lr = 1\nlr = 2", "not valid TOML"),
        ("a.toml", b"\xff\xfe", "not valid TOML"),
        ("a.yaml", b"a: [1", "not valid YAML"),
        ("a.yaml", b"- 1\n- 2", "expected sections such as `training:` at the top, got list"),
        ("a.yaml", b"", "got an empty file"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.json", b"x" * (2 << 20), "expected at most 1048576 bytes"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value).removesuffix("\n")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such settings file\.$"):
        load_file(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_file(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.mkdir [{canary}]", "!!python/name:os.system", "!!python/tuple [1, 2]",
     "!include other.yaml", "!!python/object/new:os.mkdir [{canary}]"],
)  # fmt: skip
def test_yaml_tags_are_refused_and_nothing_runs(tmp_path: Path, tag: str) -> None:
    path, canary = tmp_path / "evil.yaml", tmp_path / "canary"
    path.write_text(f"training:\n  lr: {tag.format(canary=canary)}\n")
    with pytest.raises(ConfigError, match=r"in line 2: settings are plain data; tags .* refused"):
        load_file(path)
    assert not os.path.exists(canary)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("4000", 4000),
        ("1_000", 1000),
        ("inf", float("inf")),
        ("true", True),
        ("null", None),
        ("[64, 64]", [64, 64]),
        ("[[0, 1.0], [100, 0.5]]", [[0, 1.0], [100, 0.5]]),
        ("{a = 1}", {"a": 1}),
        ('{"a": null}', {"a": None}),
        ('"4000"', "4000"),
        ("tanh", "tanh"),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("a=b", "a=b"),
        ("", ""),
        ("2024-01-01", "2024-01-01"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_of_flags(text: str, expected: Any) -> None:
    assert apply_overrides({}, [f"training.x={text}"]) == {"training": {"x": expected}}
    assert apply_overrides({}, [f" training.x = {text}"]) == {"training": {"x": expected}}


def test_flags_go_on_top_in_order_and_leave_the_mapping_alone() -> None:
    before = {"training": {"lr": 1, "gamma": 0.9}, "algorithm": "PPO"}
    flags = ["training.lr=2", "training.lr=3", "algorithm=DQN", "model.hidden=[1]"]
    assert apply_overrides(before, flags) == {
        "training": {"lr": 3, "gamma": 0.9},
        "algorithm": "DQN",
        "model": {"hidden": [1]},
    }
    assert before == {"training": {"lr": 1, "gamma": 0.9}, "algorithm": "PPO"}


def test_keys_with_dots_stand_in_quotes() -> None:
    flags = ['multi_agent.policies."red.v2".training.lr=1', 'multi_agent.policy_mapping."a=*"=red']
    assert apply_overrides({}, flags) == {
        "multi_agent": {
            "policies": {"red.v2": {"training": {"lr": 1}}},
            "policy_mapping": {"a=*": "red"},
        }
    }


@pytest.mark.parametrize(
    "flag", ["training.lr", "=1", "training..lr=1", ".lr=1", "", "a b=1", "training.=1"]
)
def test_malformed_flags(flag: str) -> None:
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        apply_overrides({}, [flag])


def test_a_flag_cannot_go_through_a_value() -> None:
    with pytest.raises(ConfigError, match=r"training\.lr is 1, which has no settings inside"):
        apply_overrides({"training": {"lr": 1}}, ["training.lr.x=1"])


def test_merge_is_deep_and_the_later_wins() -> None:
    low = {"training": {"lr": 1, "gamma": 0.9}, "model": {"hidden": [64, 64]}, "x": {"y": 1}}
    high = {"training": {"lr": 2}, "model": {"hidden": [8]}, "x": 5, "z": {"w": {}}}
    merged = merge(low, None, high)
    assert merged == {
        "training": {"lr": 2, "gamma": 0.9}, "model": {"hidden": [8]}, "x": 5, "z": {"w": {}},
    }  # fmt: skip
    merged["training"]["lr"] = 7
    merged["z"]["w"]["v"] = 7
    assert (low["training"], high["training"], high["z"]) == (
        {"lr": 1, "gamma": 0.9},
        {"lr": 2},
        {"w": {}},
    )
    assert merge() == {}


def test_a_number_ends_the_schedule_of_an_earlier_layer() -> None:
    low = {"training": {"lr_schedule": [[0, 1.0], [9, 0.0]], "entropy_coeff_schedule": [[0, 1.0]]}}
    high = {"training": {"lr": 2.0}}
    assert merge(low, high)["training"] == {"lr": 2.0, "entropy_coeff_schedule": [[0, 1.0]]}
    assert apply_overrides(low, ["training.lr=2.0"]) == merge(low, high)
    assert merge(high, low)["training"] == {"lr": 2.0} | low["training"]
    both = {"training": {"lr": 2.0, "lr_schedule": [[0, 3.0]]}}
    assert merge(low, both)["training"]["lr_schedule"] == [[0, 3.0]], "as stored settings have it"


def test_later_patterns_of_a_policy_mapping_match_first() -> None:
    low = {"multi_agent": {"policy_mapping": {"red": "a", "*": "b"}}}
    high = {"multi_agent": {"policy_mapping": {"blue": "c", "red": "d"}}}
    merged = merge(low, high)["multi_agent"]["policy_mapping"]
    assert list(merged.items()) == [("blue", "c"), ("red", "d"), ("*", "b")]


def test_a_layer_that_says_who_plays_replaces_who_played() -> None:
    low = {
        "multi_agent": {
            "policies": {"a": {"training": {"lr": 1}}, "b": {}},
            "policy_mapping": {"red": "a", "*": "b"},
            "policies_to_train": ["a"],
        }
    }
    whole = {"policies": {"c": {}}, "policy_mapping": {"*": "c"}}
    assert merge(low, {"multi_agent": whole}) == {"multi_agent": whole}
    assert merge(low, {"multi_agent": {"policies": ["c"]}}) == {"multi_agent": {"policies": ["c"]}}
    more = merge(low, {"multi_agent": {"policies": {"a": {"model": {"hidden": [8]}}}}})
    assert more["multi_agent"] == {
        **low["multi_agent"],
        "policies": {"a": {"training": {"lr": 1}, "model": {"hidden": [8]}}, "b": {}},
    }


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config_sources, "_preset_folder", lambda: tmp_path)
    (tmp_path / "PPO-CartPole-v1.toml").write_text("[training]\nlr = 1e-3\n")
    (tmp_path / "PPO-ALE_Pong-v5.toml").write_text("[training]\nlr = 2e-3\n")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_presets_are_found_by_algorithm_and_environment(presets: Path) -> None:
    assert preset("PPO", "CartPole-v1") == {"training": {"lr": 0.001}}
    assert preset("PPO", "ALE/Pong-v5") == {"training": {"lr": 0.002}}
    assert preset_names() == ["PPO-ALE_Pong-v5", "PPO-CartPole-v1"]
    for algorithm, env in [
        ("DQN", "CartPole-v1"),
        ("PPO", "Other"),
        ("PPO", None),
        ("../PPO", "CartPole-v1"),
    ]:
        assert preset(algorithm, env) is None


def test_no_presets_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_sources, "_preset_folder", lambda: tmp_path / "none")
    assert preset("PPO", "CartPole-v1") is None
    assert preset_names() == []
