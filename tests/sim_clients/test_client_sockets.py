"""The client over real sockets, against the scripted peer in a thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zmq

from sim_clients.client import Client, Group
from sim_clients.conformance.peer import Peer, Script, ServedPeer
from sim_clients.errors import StepTimeout
from sim_clients.protocol import Box, Discrete, Event
from sim_clients.transport import ZmqTransport

GROUP = Group(Box(-1, 1, (3,)), Discrete(2), lanes=2)
OBS = np.zeros((2, 3))


def play(client: Client, steps: int) -> None:
    client.step(OBS)
    for t in range(1, steps):
        client.step(OBS, np.ones(2), [t % 4 == 0, False], [False, False])


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_plays_over(kind, tmp_path):
    bind = "tcp://127.0.0.1:*" if kind == "tcp" else f"ipc://{tmp_path}/peer"
    with ServedPeer(Peer(), bind) as served, Client(served.address, GROUP) as client:
        play(client, 20)
        assert client.ping(timeout_s=30) > 0
        client.close()
    assert [s.seq for s in served.peer.steps()] == list(range(1, 21))
    assert served.peer.finished() == [("agent", 0, "terminated", 4, 4.0)] * 4


def test_everything_that_can_go_wrong_costs_nothing():
    script = Script(
        drop=frozenset({2, 8}), wait=frozenset({4}), garbage=frozenset({6}),
        forget=frozenset({7}), restart=frozenset({10}), refuse=frozenset(),
    )  # fmt: skip
    with (
        ServedPeer(Peer(script)) as served,
        Client(served.address, GROUP, retry_s=0.02) as client,
    ):
        play(client, 16)
        assert client.stats.acknowledged == 16
        assert client.stats.sessions == 2
        assert client.stats.waits == 1
        assert client.epoch == 2


def test_server_that_goes_away_and_comes_back_on_the_same_address(tmp_path):
    address = f"ipc://{tmp_path}/peer"
    first = ServedPeer(Peer(epoch=5), address)
    with Client(address, GROUP, retry_s=0.02) as client:
        client.step(OBS)
        first.close()
        client.send_step(OBS, np.ones(2))
        assert client.receive_actions(0.05) is None
        with ServedPeer(Peer(epoch=6), address) as second:
            assert client.receive_actions() is not None
            assert client.epoch == 6
            assert list(second.peer.steps()[-1].groups[0].flags) == [16, 16]


def test_client_started_before_its_server(tmp_path):
    address = f"ipc://{tmp_path}/peer"
    with Client(address, GROUP, retry_s=0.02) as client:
        with pytest.raises(StepTimeout):
            client.connect(0.05)
        with ServedPeer(Peer(), address):
            client.connect()
            assert client.policies["agent"] == ("default_policy", 0)


def test_events_come_by_themselves():
    with ServedPeer(Peer()) as served, Client(served.address, GROUP) as client:
        client.connect()
        served.tell(Event("parameters", None, {"level": 3}))
        while client.parameters != {"level": 3}:
            client.ping(timeout_s=30)


def test_an_old_connection_dropped_by_the_network_is_resumed():
    with ServedPeer(Peer()) as served, Client(served.address, GROUP, retry_s=0.02) as client:
        client.step(OBS)
        client._transport.reconnect()  # another routing id: the server does not know it
        client.step(OBS, np.ones(2))
        assert client.stats.sessions == 1
        assert client.stats.acknowledged == 2


def test_transport_reports_nothing_as_none_and_refuses_after_close():
    context = zmq.Context()
    transport = ZmqTransport("tcp://127.0.0.1:1", context=context)
    assert transport.receive(0.0) is None
    for _ in range(1000):  # far beyond the queue: dropped, not blocked
        transport.send(b"x")
    transport.reconnect()
    transport.close()
    transport.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.send(b"x")
    context.term()


def test_a_simulator_without_a_server_says_so_once_on_stderr():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from client_rigs import Even, FakeClock
from sim_clients.client import Client, Group
from sim_clients.conformance.peer import Peer, PeerTransport
from sim_clients.errors import StepTimeout
from sim_clients.protocol import Discrete

clock, peer = FakeClock(), Peer()
wire = PeerTransport(peer, clock.advance)
group = Group(Discrete(2), Discrete(2))
peer.dead = True
client = Client("tcp://host:77", group, transport=wire, clock=clock, rng=Even())
try:
    client.connect(60)
except StepTimeout:
    peer.dead = False
client.step([0])
for away_s in (1, 60):  # the first time is too short to complain of
    peer.dead = True
    client.send_step([0], [0])
    assert client.receive_actions(away_s) is None
    peer.dead = False
    client.receive_actions()
"""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, *more = shown.stderr.splitlines()
    assert first.startswith("expected a policy server at tcp://host:77, heard nothing for 4 s: ")
    assert "serve --bind tcp://host:77" in first
    assert more == [first]


def test_peer_as_a_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sim_clients.conformance.peer",
        "--bind",
        f"ipc://{tmp_path}/p",
    ]
    with subprocess.Popen([*command, "--drop", "2"], stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with Client(address, GROUP, retry_s=0.02) as client:
            play(client, 5)
            assert client.stats.retries >= 1
        process.terminate()
        assert "1 Hello" in process.stdout.read()
        assert process.wait() == 0


@pytest.mark.parametrize("module", ["sim_clients", "sim_clients.client", "sim_clients.episodes"])
def test_importing_is_light(module):
    code = (
        f"import sys, {module}\n"
        "roots = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(r for r in roots if not r.startswith('_')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = {"sim_clients", "numpy", "zmq", "msgpack", "cython_runtime"}
    assert set(eval(shown.stdout)) <= allowed


def test_the_package_offers_its_names():
    import sim_clients

    for name in sim_clients.__all__:
        assert getattr(sim_clients, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = sim_clients.Nonsense
