"""What the documents say can be typed in can be typed in."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click import Command

from policy_server.cli import main
from policy_server.learners.learner import Learner
from policy_server.learners.local import LocalLearner
from policy_server.settings import Settings, load_file
from tests.integration.live import LiveWorld, live

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "tcp://127.0.0.1:5555"
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TRAIN_BATCH_SIZE = 4096  # more than any simulator here plays: the learner stays out of it


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [code for found, code in BLOCKS.findall(text) if found == language]


def python_snippets() -> list[Any]:
    return [
        pytest.param(code, id=f"{page.name}-{i}")
        for page in PAGES
        for i, code in enumerate(blocks(page, "python"))
    ]


def commands() -> list[Any]:
    """Every policy-server command line of the documents and the examples."""
    lines = [line for page in PAGES for code in blocks(page, "sh") for line in code.splitlines()]
    for example in EXAMPLES.iterdir():
        if example.is_file():
            lines += re.findall(r"policy-server .*", example.read_text(encoding="utf-8"))
    found = {line.strip() for line in lines if line.strip().startswith("policy-server ")}
    return sorted(found)


def snippet(word: str) -> str:
    """The README's Python block that has this word in it."""
    (code,) = [code for code in blocks(ROOT / "README.md", "python") if word in code]
    return code


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", python_snippets())
def test_python_snippets_compile(code):
    compile(code, "snippet", "exec")


@pytest.mark.parametrize("line", commands())
def test_commands_and_their_flags_exist(line):
    name, *arguments = shlex.split(line.split(" #")[0])[1:]
    command: Command = main.commands[name]
    command.make_context(name, arguments)  # parses, and does nothing else


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = BLOCKS.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in main.commands:
        assert f"`policy-server {name}" in text, name


def test_the_readme_shows_the_example_as_it_is():
    source = (EXAMPLES / "ten_lines.py").read_text(encoding="utf-8")
    _, _, body = source.split('"""', 2)
    assert snippet("range(1, 5_001)").strip() == body.strip()


def test_it_is_ten_lines():
    _, _, program = snippet("range(1, 5_001)").partition("import Box, Discrete\n")
    assert len([line for line in program.splitlines() if line.strip()]) == 10


# -- programs -------------------------------------------------------------------------------------


def play(code: str, address: str, ticks: int) -> None:
    assert ADDRESS in code
    assert "5_001" in code
    code = code.replace(ADDRESS, address).replace("5_001", str(ticks + 1))
    exec(compile(code, "ten_lines", "exec"), {"__name__": "__main__"})


def test_the_ten_lines_play():
    training = {"train_batch_size": TRAIN_BATCH_SIZE, "minibatch_size": 128}
    with live(training=training) as world:
        world.on_loop(lambda: world.gateway.train(None))
        play(snippet("range(1, 5_001)"), world.address, 60)
        desk = world.on_loop(lambda: world.desk)
        whole = [e for e in desk.episodes if e.ending == "truncated"]
        assert len(whole) == 16 * 3
        assert {episode.length for episode in whole} == {20}
        assert all(episode.complete and -60 < episode.return_ < 0 for episode in whole)
        assert world.gateway.reader.rejected == {}
        world.on_loop(world.balances)


class LearningWorld(LiveWorld):
    """A live gateway whose learners learn, on its own thread."""

    def _learner(self, arguments: dict[str, Any], state: Any) -> Any:
        return LocalLearner(Learner(**{**arguments, "threads": 1}), state)


def test_the_ten_lines_learn_with_the_settings_of_the_example():
    mapping = load_file(EXAMPLES / "serve.toml")
    sections = {name: mapping[name] for name in ("training", "model", "collection")}
    world = LearningWorld(**sections)
    try:
        world.on_loop(lambda: world.gateway.train(None))
        # Goals of its own for every run are for users; how fast one learns depends on them.
        code = snippet("range(1, 5_001)")
        assert "default_rng()" in code
        play(code.replace("default_rng()", "default_rng(4)"), world.address, 2500)
        episodes = world.on_loop(lambda: [e for e in world.desk.episodes if e.length == 20])
        first, last = episodes[:96], episodes[-96:]
        assert sum(e.return_ for e in first) / 96 < -10  # random play: -14.5
        assert sum(e.return_ for e in last) / 96 > -7  # the best there is: -3.6
    finally:
        world.close()


def test_the_gymnasium_example_plays():
    from gymnasium.utils.env_checker import check_env

    from sim_clients import run_gymnasium

    module = example("own_gymnasium_env")
    check_env(module.Landing(), skip_render_check=True)
    training = {"train_batch_size": TRAIN_BATCH_SIZE, "minibatch_size": 128}
    with live(training=training) as world:
        world.on_loop(lambda: world.gateway.train(None))
        summary = run_gymnasium("Landing-v0", world.address, num_envs=4, seed=1, steps=1200)
        assert summary.steps == 1200
        assert summary.episodes >= 4
        assert world.gateway.reader.rejected == {}
        world.on_loop(world.balances)


def test_the_users_object_trains_saves_and_evaluates(tmp_path, monkeypatch, capsys):
    code = snippet("config.build()")
    shorter = code.replace("build()", "build(in_process=True)").replace("range(20)", "range(2)")
    assert shorter.count("in_process") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(shorter, "user", "exec"), {})
    assert len(list((tmp_path / "my-checkpoints").glob("checkpoint_*/manifest.json"))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["512", "1024"]
    assert float(lines[2]) >= 5


def test_the_snippet_with_two_policies_is_a_valid_configuration():
    names: dict[str, Any] = {}
    exec(compile(snippet('"explorer"'), "agents", "exec"), names)
    settings = names["config"].settings()
    assert settings.policy_settings("explorer").training.entropy_coeff == 0.02
    assert settings.policy_settings("chaser").training.entropy_coeff == 0.0


def test_the_settings_file_is_valid_with_and_without_its_comments():
    settings = Settings.from_mapping(load_file(EXAMPLES / "serve.toml"))
    assert settings.server.bind == ADDRESS
    text = (EXAMPLES / "serve.toml").read_text(encoding="utf-8")
    shown = re.sub(r"^# (\[environment\]|\w+_space = )", r"\1", text, flags=re.MULTILINE)
    assert shown.count("_space = ") == 2
    with_spaces = Settings.from_mapping(tomllib.loads(shown))
    assert with_spaces.environment.observation_space is not None
