"""`policy-server algorithms`: what it says of each is what the algorithm itself says."""

from __future__ import annotations

import json

from click.testing import CliRunner

from policy_server import algorithms
from policy_server.cli import main


def listed(*arguments: str, columns: int = 80) -> str:
    done = CliRunner().invoke(main, ["algorithms", *arguments], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


def test_as_json_all_of_it() -> None:
    found = json.loads(listed("--json"))
    assert list(found) == algorithms.names()
    for name, row in found.items():
        supports = algorithms.training_class(name).supports
        said = (row["masks"], row["memory"], row["own distributions"], row["bfloat16"])
        assert said == (supports.mask, supports.recurrent, supports.heads, supports.precision)
    assert found["TD3"]["actions"] == "Box (bounded)"
    assert found["QMIX"]["for"] == "groups"


def test_a_narrow_terminal_has_a_row_for_each_and_a_wide_one_says_more() -> None:
    narrow = listed().splitlines()
    assert {line.split()[0] for line in narrow} >= set(algorithms.names())
    assert max(map(len, narrow)) <= 80
    assert "bfloat16" not in narrow[0]
    assert "bfloat16" in listed(columns=160).splitlines()[0]
