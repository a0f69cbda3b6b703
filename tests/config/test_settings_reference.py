"""docs/SETTINGS.md says of every setting what its dataclass says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from policy_server import settings_reference
from policy_server.algorithms.ppo import PPOTraining
from policy_server.config import SECTIONS, CheckpointingConfig, EnvironmentConfig
from policy_server.config_values import fields_of

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    written = (DOCS / "SETTINGS.md").read_text(encoding="utf-8")
    assert written == settings_reference.reference(), (
        "run: python -m policy_server.settings_reference docs/SETTINGS.md"
    )


@pytest.mark.parametrize("type_", [PPOTraining, *SECTIONS.values()])
def test_every_field_is_documented(type_):
    assert set(settings_reference.attributes(type_)) == set(fields_of(type_))


def test_entries_with_several_names_and_lines():
    found = settings_reference.attributes(EnvironmentConfig)
    assert found["observation_space"] == found["action_space"]
    assert found["env"].endswith("None: simulators come by themselves.")
    assert settings_reference.attributes(CheckpointingConfig)["keep"].startswith("newest")


def test_what_stands_behind_the_attributes_is_not_taken_for_one():
    assert "impossible" not in settings_reference.attributes(PPOTraining)["adam_eps"]


def test_a_field_nobody_documented_is_an_error():
    @dataclass(frozen=True)
    class Forgetful:
        """What it is for.

        Attributes:
            known: a number.
        """

        known: int = 1
        forgotten: int = 2

    with pytest.raises(ValueError, match="forgotten"):
        settings_reference.section("x", Forgetful)


def test_the_command_writes_the_page(tmp_path):
    path = tmp_path / "page.md"
    command = [sys.executable, "-m", "policy_server.settings_reference"]
    subprocess.run([*command, str(path)], check=True, cwd=tmp_path)
    assert path.read_text() == settings_reference.reference()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0


def test_a_table_cell_cannot_break_the_table():
    @dataclass(frozen=True)
    class Piped:
        """What it is for.

        Attributes:
            either: this | that.
        """

        either: str = "this"

    row = settings_reference.section("x", Piped).splitlines()[-1]
    assert row == r'| `either` | text | `"this"` | this \| that. |'
