"""Simulators that the server starts end with it, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from policy_server.builder import PPOConfig
from policy_server.errors import SimulatorError
from policy_server.simulators import SimulatorFleet, command
from tests.integration.processes import ROOT, free_port, wait_for

OWNER = """
import json, sys
from policy_server.builder import PPOConfig
from policy_server.simulators import SimulatorFleet

settings = PPOConfig().environment(sys.argv[2]).simulators(num=1).settings()
fleet = SimulatorFleet(settings, sys.argv[1], None)
print(json.dumps(fleet.pids), flush=True)
sys.stdin.readline()
"""
STUBBORN = """
import signal, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
threading.Event().wait()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def settings(env):
    return PPOConfig().environment(env).simulators(num=1).settings()


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        **options,
    )


def end_of(owner, pids):
    """All that was said; ends only when the owner and all its simulators are gone, because the
    simulators hold the owner's standard error."""
    try:
        return owner.communicate(timeout=10)[1]
    except subprocess.TimeoutExpired:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        owner.kill()
        owner.communicate()
        raise AssertionError(f"simulators {pids} outlived their owner by 10 s") from None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("env", ["CartPole-v1", "arena"])
@pytest.mark.parametrize("way", ["killed", "killed at once", "forgets to stop"])
def test_simulators_end_with_their_owner(env, way):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        silent.settimeout(60)
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        owner = start("-c", OWNER, address, env)
        pids = json.loads(owner.stdout.readline())
        if way != "killed at once":
            silent.accept()[0].close()  # the simulator is up, and waits for its WELCOME
            os.kill(pids[0], 0)
        if way == "forgets to stop":
            owner.stdin.write("\n")
            owner.stdin.flush()
        else:
            owner.kill()
        said = end_of(owner, pids)
    assert owner.returncode == (0 if way == "forgets to stop" else -signal.SIGKILL)
    assert "Traceback" not in said, said


@pytest.mark.timeout(60)
def test_one_that_does_not_listen_is_ended_all_the_same(tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    quick = (
        "import sys, sim_clients.guard as guard; guard.GRACE_S = 0.05; "
        "sys.argv = ['guard', 'stubborn']; sys.path.insert(0, ''); guard.main()"
    )
    process = start("-c", quick, cwd=tmp_path)
    assert process.stdout.readline() == "deaf\n"
    assert process.poll() is None
    process.communicate(timeout=30)  # closes its standard input
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.timeout(60)
def test_the_guard_changes_neither_words_nor_exit_code():
    _, option, *module = command(settings("CartPoel-v1"), 0, f"tcp://127.0.0.1:{free_port()}")
    found = []
    for arguments in ([option, *module], [option, "sim_clients.guard", *module]):
        process = start(*arguments)
        said = process.stdout.read(), process.stderr.read()
        process.communicate()
        found.append((process.returncode, *said))
    assert found[0] == found[1]
    assert found[0][0] == 2
    assert "CartPoel" in found[0][2]


def test_the_guard_asks_for_a_module():
    process = start("-m", "sim_clients.guard")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said.startswith("expected a module's name")


@pytest.mark.timeout(60)
def test_stop_ends_them_and_a_wrong_start_is_told_once(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    fleet = SimulatorFleet(settings("CartPole-v1"), address, tmp_path)
    (pid,) = fleet.pids
    fleet.check()
    fleet.stop()
    assert fleet.pids == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

    fleet = SimulatorFleet(settings("CartPoel-v1"), address, tmp_path)

    def refusal():
        try:
            fleet.check()
        except SimulatorError as error:
            return str(error)
        return None

    try:
        said = wait_for(refusal, "the refusal of an unknown environment", 50)
    finally:
        fleet.stop()
    assert "exit code 2" in said
    assert "CartPoel" in said
    assert "-m sim_clients.gymnasium CartPoel-v1" in said  # what the user can run by hand
