"""Simulators beside their server move to its local socket, and lose nothing when it breaks."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from sim_clients.client import Client, Group
from sim_clients.local_socket import LocalSocket
from sim_clients.transport import ZmqTransport, is_loopback
from tests.gateway.ledger import ACTION, OBSERVATION
from tests.integration.live import LiveWorld, Player, live

ASYNC = {"collection": {"mode": "async", "fragment_length": 8}}


def moved(client: Client) -> bool:
    return client._transport._local is not None


def peers(world):
    """How each session is connected."""
    by_id = world.gateway.sessions.by_id
    return world.on_loop(lambda: [session.peer for session in by_id.values()])


def test_a_client_moves_and_its_session_with_it():
    with live(**ASYNC) as world:
        player = Player(0, world.address, None)
        player.client.connect(20)
        assert moved(player.client)
        assert player.client.stats.sessions == 1
        (peer,) = peers(world)
        assert isinstance(peer, int)
        player.auditor = world.auditors["default_policy"]
        player.play(50)
        assert player.client.stats.acknowledged == 50
        assert player.client.ping(20) > 0
        player.client.close()
        for _ in range(200):
            if not peers(world):
                break
            time.sleep(0.01)
        assert not peers(world), "its BYE was heard"


def test_who_does_not_ask_is_not_told():
    with live(**ASYNC) as world:
        transport = ZmqTransport(world.address, local=False)
        with Client(world.address, Group(OBSERVATION, ACTION, 1), transport=transport) as client:
            client.connect(20)
            assert "local_socket" not in client.limits
            assert isinstance(peers(world)[0], bytes)


def test_a_server_without_them_says_nothing_of_them():
    without = {"seed": 1, "local_sockets": False}
    group = Group(OBSERVATION, ACTION, 1)
    with live(server=without, **ASYNC) as world, Client(world.address, group) as client:
        client.connect(20)
        assert "local_socket" not in client.limits
        assert not moved(client)


def test_a_socket_that_cannot_be_reached_changes_nothing(tmp_path):
    with live(**ASYNC) as world:
        world.on_loop(lambda: world.gateway.offer(str(tmp_path / "nowhere")))
        player = Player(0, world.address, None)
        player.client.connect(20)
        assert not moved(player.client)
        player.auditor = world.auditors["default_policy"]
        player.play(20)
        assert player.client.stats.sessions == 1
        assert player.client.stats.reconnects == 0
        player.client.close()


def test_connections_that_break_lose_and_double_nothing(tmp_path):
    with live(**ASYNC) as world:
        first = Player(0, world.address, None)
        first.client.connect(20)
        auditor = first.auditor = world.auditors["default_policy"]
        world.on_loop(lambda: world.gateway.train(None))
        players = [first, Player(1, world.address, auditor)]
        sockets = world.loop._local
        errors, breaks, numbers = [], 0, itertools.count()

        def play(player):
            try:
                while breaks < 40:
                    player.play(25)
            except BaseException as error:
                errors.append(error)

        def cut():
            """Ends all connections, as a fault of the kernel's or a full table would.

            Who comes back over ZeroMQ is offered a path it has not tried, or it would stay there.
            """
            link = tmp_path / str(next(numbers))
            link.symlink_to(sockets.path)
            world.gateway.offer(str(link))
            connections = list(sockets._by_fd.values())
            for connection in connections:
                sockets._drop(connection)
            return len(connections)

        threads = [threading.Thread(target=play, args=(player,), daemon=True) for player in players]
        for thread in threads:
            thread.start()
        while breaks < 40 and any(thread.is_alive() for thread in threads):
            breaks += world.on_loop(cut)
            time.sleep(0.005)
        for thread in threads:
            thread.join(60)
        assert not errors
        assert breaks >= 40
        # A break that comes while another is being mended counts with it.
        assert sum(player.client.stats.reconnects for player in players) >= 20
        report = world.on_loop(world.gateway.report)
        accounting = report["policies"]["default_policy"]["accounting"]
        assert accounting["balance"] == 0
        assert accounting["accepted"] == sum(player.steps for player in players)
        assert accounting["dropped"]["interrupted"] == 0
        assert accounting["trained"] > 0
        for player in players:
            assert player.client.stats.sessions == 1
            player.client.close()


def test_a_server_that_dies_is_found_again_with_its_new_socket(tmp_path):
    address = f"ipc://{tmp_path}/door"
    world = LiveWorld(bind=address, **ASYNC)
    group = Group(OBSERVATION, ACTION, 2)
    obs = np.zeros((2, 4))
    client = Client(address, group, retry_s=0.05)
    client.step(obs)
    assert moved(client)
    world.close()
    client.send_step(obs, np.ones(2))
    assert client.receive_actions(0.2) is None
    assert not moved(client), "it knows at once that the socket is of no use"
    world = LiveWorld(bind=address, **ASYNC)
    try:
        assert client.receive_actions(20) is not None
        assert moved(client)
        assert client.stats.sessions == 2
        for _ in range(5):
            client.step(obs, np.ones(2), [False] * 2, [False] * 2)
        client.close()
    finally:
        world.close()


def test_a_socket_of_somebody_else_is_not_trusted(monkeypatch, tmp_path):
    with live(**ASYNC) as world:
        path = world.loop._local.path
        LocalSocket(path, 1 << 20).close()
        monkeypatch.setattr("os.getuid", lambda: 12345)
        with pytest.raises(PermissionError):
            LocalSocket(path, 1 << 20)


def test_a_large_step_and_its_answer_fit_through():
    wide = Group(OBSERVATION, ACTION, 30_000)  # about a megabyte there, half of one back
    with live(server={"seed": 1}, **ASYNC) as world, Client(world.address, wide) as client:
        client.connect(20)
        assert moved(client)
        category, _ = client.step(np.zeros((30_000, 4)))
        assert category.shape == (30_000,)


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.9.1:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://[::1]:5555", True),
        ("ipc:///tmp/x", True),
        ("tcp://192.168.0.7:5555", False),
        ("tcp://127.example.org:5555", False),
        ("tcp://localhost.example.org:5555", False),
    ],
)
def test_only_this_machine_is_this_machine(address, near):
    assert is_loopback(address) is near
