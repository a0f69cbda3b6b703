"""Code of the user's own, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from policy_server.errors import ConfigError, LearnerError
from policy_server.named import line, named, told

FILE = '''"""A user's file."""


class Outer:
    class Inner:
        def fail(self):
            raise IndexError("gone")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "of_mine.py").write_text(FILE)
    yield tmp_path
    for name in ("of_mine", "broken_one", "needs_more", "raises"):
        sys.modules.pop(name, None)


def test_it_is_found_however_deep(folder: Path) -> None:
    assert named("x", "of_mine:Outer").__name__ == "Outer"
    assert named("x", "of_mine:Outer.Inner").__name__ == "Inner"


@pytest.mark.parametrize(
    "name", ["./of_mine:Outer", ":Outer", "of_mine:", "of_mine", "a:b:c", "a b:c", "a:b-c"]
)
def test_what_is_no_name_is_told(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r'model\.custom: expected "module:Class", got '):
        named("model.custom", name)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("of_mine:Outer.Iner", "", "cannot be imported: .*has no attribute 'Iner'"),
        ("of_mine:Gone", "", "cannot be imported: module 'of_mine' has no attribute 'Gone'"),
        ("elsewhere:A", "", "No module named 'elsewhere'. Run this where its file is, or put"),
        ("of_mine.py:A", "", "A module is named without '.py'"),
        ("needs_more:A", "import torch\nimport no_such", r"'no_such' \(needs_more.py:2\)\.$"),
        ("broken_one:A", "def f(:\n    pass", r"SyntaxError: .*broken_one.py, line 1"),
        ("raises:A", "\n\nx = undefined", r"NameError: name 'undefined' .*\(raises.py:3\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_told_why(
    folder: Path, name: str, text: str, words: str
) -> None:
    if text:
        (folder / name.replace(":A", ".py")).write_text(text)
    with pytest.raises(ConfigError, match=words):
        named("algorithm", name)


def test_files_may_have_hyphens(folder: Path) -> None:
    (folder / "my-own.py").write_text("answer = 42")
    assert named("x", "my-own:answer") == 42


def test_an_error_is_told_with_its_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = named("x", "of_mine:Outer.Inner")
    words = r"^Mine: IndexError: gone \(of_mine.py:7\)$"
    with pytest.raises(LearnerError, match=words), told("Mine"):
        inner().fail()
    assert "Traceback" in caplog.text
    assert 'raise IndexError("gone")' in caplog.text
    with pytest.raises(ConfigError, match=r"^as it was$"), told("Mine"):
        raise ConfigError("as it was")


def test_the_line_is_the_users_own(folder: Path) -> None:
    """Neither that of a library which it called, nor of what called it."""
    with pytest.raises(np.linalg.LinAlgError) as caught:
        np.linalg.inv(np.zeros((2, 2)))
    assert len(caught.traceback) > 1
    assert line(caught.value).startswith(" (test_named.py:")
    with pytest.raises(ConfigError) as told_so:
        named("x", "elsewhere:A")
    assert line(told_so.value.with_traceback(told_so.tb.tb_next)) == ""
