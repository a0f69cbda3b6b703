"""The operator's day: simulators come, die and come late; the server stops and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import Program, free_port, metrics, wait_for

ROOT = Path(__file__).parents[2]

CONFIG = """
[training]
lr = 1e-3
train_batch_size = 256
minibatch_size = 128
num_epochs = 4

[server]
lease_s = 3.0

[collection]
straggler_s = 0.3
"""


def simulator(folder, name, address):
    log = folder / f"{name}.log"
    return Program(log, "sim_clients.gymnasium", "CartPole-v1", "--address", address, "--num-envs", "4", "--identity", name, "--seed", "1")  # fmt: skip


@pytest.mark.timeout(300)
def test_a_fleet_comes_and_goes_and_the_server_resumes(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    run_dir = tmp_path / "run"
    (tmp_path / "serve.toml").write_text(CONFIG)
    serve = ("policy_server.cli", "serve", "--bind", address, "--run-dir", str(run_dir))
    server = Program(tmp_path / "server.log", *serve, str(tmp_path / "serve.toml"))
    fleet = []
    try:
        wait_for(lambda: "listening on" in server.said(), "the server to listen")

        def updates():
            history = metrics(run_dir)
            return history[-1].get("default_policy/version", 0) if history else 0

        fleet = [simulator(tmp_path, f"sim-{i}", address) for i in range(3)]
        wait_for(lambda: updates() >= 3, "the first updates")
        fleet[0].kill()
        late = simulator(tmp_path, "late", address)
        fleet = [*fleet[1:], late]
        before = updates()
        wait_for(lambda: updates() >= before + 5, "updates after a death and an arrival")
        wait_for(lambda: metrics(run_dir)[-1]["simulators"] == 3, "the dead one's lease to end")
        assert server.end() == 0, server.said()
        saved = metrics(run_dir)[-1]
        balanced(saved)
        lost = saved["dropped/interrupted"] + saved["dropped/stale_policy"]
        assert lost > 0, "the killed simulator's steps in flight"
        assert list((run_dir / "checkpoints").glob("checkpoint_*"))

        server = Program(tmp_path / "again.log", *serve, "--resume")
        wait_for(lambda: updates() >= saved["default_policy/version"] + 5, "training to go on")
        assert all(program.alive for program in fleet), "the simulators carried on by themselves"
        assert server.end() == 0, server.said()
        last = metrics(run_dir)[-1]
        balanced(last)
        assert last["env_steps"] > saved["env_steps"]
        assert last["accounting/trained"] > saved["accounting/trained"]
        assert last["dropped/server_restart"] == saved["accounting/queued"]
        assert last["episodes"] >= saved["episodes"]
    finally:
        for program in [server, *fleet]:
            program.kill()


def balanced(record):
    dropped = sum(v for k, v in record.items() if k.startswith("dropped/"))
    queued = record["accounting/queued"]
    assert record["accounting/accepted"] == record["accounting/trained"] + queued + dropped
    assert record["accounting/balance"] == 0


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "policy_server.cli", *arguments],
        capture_output=True, text=True, timeout=100, cwd=cwd,
    )  # fmt: skip


REFUSED = {
    "missing config": (["serve", "nothing.toml"], "there is no such settings file"),
    "open bind": (["serve", "--bind", "tcp://0.0.0.0:5599"], "--insecure"),
    "bad bind": (["serve", "--bind", "udp://127.0.0.1:1"], "expected tcp://HOST:PORT"),
    "typo": (["train", "--env", "CartPole-v1", "--set", "training.lr_=1"], "did you mean"),
    "no env": (["train"], "environment.env"),
    "missing checkpoint": (["evaluate", "nowhere"], "no such checkpoint"),
    "nothing to resume": (["serve", "--resume", "--run-dir", "empty"], "resume"),
    "unknown algorithm": (["train", "--run", "PPOO", "--env", "CartPole-v1"], "PPO"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(tmp_path, name):
    arguments, words = REFUSED[name]
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


REFUSED_SPACES = {
    "an environment of this folder": (
        ["TD3", "own_gymnasium_env:Landing-v0"],
        "expected an action",
    ),
    "reals": (["DQN", "Pendulum-v1"], "expected an action space of Discrete"),
    "masks": (["TD3", "Pendulum-v1", "--set", "environment.action_mask=true"], "mask"),
}


@pytest.mark.parametrize("name", REFUSED_SPACES)
def test_what_an_algorithm_cannot_do_is_refused_before_anything_starts(tmp_path, name):
    """Through the console script, which does not look for modules in the working directory."""
    (run, env, *more), words = REFUSED_SPACES[name]
    result = subprocess.run(
        [str(Path(sys.executable).with_name("policy-server")), "train", "--run", run, "--env", env,
         "--run-dir", str(tmp_path / "run"), *more],
        capture_output=True, text=True, timeout=100, cwd=ROOT / "examples",
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(120)
def test_a_taken_port_and_an_unknown_environment_are_named(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command(
            "serve", "--bind", f"tcp://127.0.0.1:{port}", "--run-dir", "r", cwd=tmp_path
        )
    assert result.returncode == 2
    assert "taken by another program" in result.stderr
    assert not (tmp_path / "r").exists()
    assert "Traceback" not in result.stderr
    result = command("train", "--env", "CartPoel-v1", "--stop-seconds", "60", cwd=tmp_path)
    assert result.returncode == 2
    assert "CartPoel" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.timeout(200)
def test_train_evaluate_inspect_plot(tmp_path):
    arguments = ["train", "--env", "CartPole-v1", "--num-sims", "1", "--lanes", "4", "--seed", "1",
                 "--stop-steps", "3000", "--run-dir", "run", "--json"]  # fmt: skip
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["env_steps"] >= 3000
    assert summary["accounting"]["balance"] == 0
    for key in (
        "episodes",
        "episode_return_mean",
        "reached",
        "wall_s",
        "checkpoint",
        "steps_per_s",
    ):
        assert key in summary
    again = command(*arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert "--force" in again.stderr
    other = command(*arguments[:-1], "--resume", "--set", "model.hidden=[32]", cwd=tmp_path)
    assert other.returncode == 2
    assert "Policy 'default_policy': the stored network has" in other.stderr
    assert "set the model, training and preprocessing" in other.stderr
    assert "Traceback" not in other.stderr
    checkpoint = summary["checkpoint"]
    result = command("inspect", checkpoint, "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["policies"]["default_policy"]["updates"] > 0
    result = command("evaluate", checkpoint, "--episodes", "3", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["episodes"] == 3
    result = command("plot", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "plot.png").stat().st_size > 10_000, result.stderr


@pytest.mark.timeout(120)
def test_a_learner_that_breaks_ends_the_run_with_its_reason(tmp_path):
    arguments = ["train", "--env", "CartPole-v1", "--seed", "1", "--run-dir", "run",
                 "--set", "training.lr=1e30", "--stop-seconds", "60"]  # fmt: skip
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "lr is too large" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_start_that_is_refused_leaves_no_run_behind(tmp_path):
    refused = command("serve", "--bind", "tcp://0.0.0.0:5599", "--run-dir", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert not (tmp_path / "run").exists()
