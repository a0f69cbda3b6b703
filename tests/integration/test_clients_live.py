"""The Python clients, all three levels, against a real gateway."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from sim_clients.client import Client, Group
from sim_clients.episodes import EpisodeClient
from sim_clients.gymnasium import run_gymnasium
from sim_clients.pettingzoo import run_pettingzoo
from sim_clients.protocol import Box, Discrete
from tests.integration.live import LiveWorld, Player, live
from tests.integration.processes import free_port


def start(world):
    """Training on, nothing audited: these observations bear no stamps."""
    for auditor in world.auditors.values():
        auditor.audit = lambda batch: None
    world.on_loop(lambda: world.gateway.train(None))


def episodes(world, policy="default_policy"):
    return world.on_loop(lambda: list(world.gateway.desks[policy].episodes))


@pytest.fixture
def world():
    with live(collection={"mode": "async"}) as world:
        yield world
        report = world.on_loop(world.gateway.report)
        for entry in report["policies"].values():
            assert entry["accounting"]["balance"] == 0


def test_interleaved_episodes(world):
    with EpisodeClient(world.address, Box(-1, 1, (2,)), Discrete(3), max_episodes=4) as client:
        first, second = client.start_episode(), client.start_episode()
        empty = client.start_episode()
        obs = np.zeros(2, np.float32)
        for step in range(5):
            assert 0 <= client.get_action(first, obs) < 3
            client.log_returns(first, 1.0)
            if step % 2:
                client.get_action(second, obs)
                client.log_returns(second, 0.5)
                client.log_returns(second, 0.5)
            if step == 0:
                start(world)
        client.end_episode(empty, obs)
        client.log_action(second, obs, 2)
        client.log_returns(second, 10.0)
        client.end_episode(first, obs, terminated=True)
        client.end_episode(second, obs, truncated=True)
    ended = {e.length: e for e in episodes(world) if e.ending != "interrupted"}
    assert ended[5].return_ == 5.0
    assert ended[5].ending == "terminated"
    assert ended[3].return_ == 12.0
    assert ended[3].ending == "truncated"


def test_gymnasium_runner(world):
    done = threading.Thread(
        target=run_gymnasium,
        args=("CartPole-v1", world.address),
        kwargs={"num_envs": 3, "seed": 1, "steps": 600},
    )
    done.start()
    done.join(60)
    assert not done.is_alive()
    ended = [e for e in episodes(world) if e.ending == "terminated"]
    assert len(ended) > 5
    assert all(e.return_ == e.length and e.complete for e in ended)


def test_pettingzoo_runner():
    sections = {
        "collection": {"mode": "async"},
        "multi_agent": {
            "policies": {"policy1": {}, "policy2": {}},
            "policy_mapping": {"agent1": "policy1", "agent2": "policy2"},
        },
    }
    from arena_sim.parallel import ArenaParallelEnv

    with live(**sections) as world:
        run_pettingzoo(lambda: ArenaParallelEnv(max_steps=20), world.address, num_envs=2, steps=480)
        for policy in ("policy1", "policy2"):
            ended = [e for e in episodes(world, policy) if e.ending == "truncated"]
            assert len(ended) >= 8
            assert {e.length for e in ended} == {20}


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_a_server_that_dies_and_comes_back_finds_the_episode_going_on(tmp_path, scheme):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}" if scheme == "tcp" else f"ipc://{tmp_path}/door"
    collection = {"mode": "async", "fragment_length": 8}
    world = LiveWorld(address, collection=collection)
    player = Player(0, address, None, retry_s=0.05)
    player.client.connect()
    player.auditor = world.auditors["default_policy"]
    world.on_loop(lambda: world.gateway.train(None))
    player.play(20)
    session, steps = player.client.session_id, list(player.at)
    epoch = player.client.epoch
    world.close()
    world = LiveWorld(address, collection=collection)
    try:
        thread = threading.Thread(target=player.play, args=(60,))
        thread.start()
        thread.join(0.3)
        # The new server knows nothing of what was done before: what it trains on must not
        # contain it.
        while "default_policy" not in world.auditors:
            thread.join(0.01)
        auditor = world.auditors["default_policy"]
        auditor.executed, auditor.endings = player.auditor.executed, player.auditor.endings
        world.on_loop(lambda: world.gateway.train(None))
        thread.join(60)
        assert not thread.is_alive()
        assert player.client.session_id != session
        assert player.client.epoch != epoch
        incomplete = [e for e in episodes(world) if not e.complete]
        assert len(incomplete) == sum(1 for at in steps if at), "each was under way, none restarted"
        assert auditor.batches
        assert (
            world.on_loop(world.gateway.report)["policies"]["default_policy"]["accounting"][
                "balance"
            ]
            == 0
        )
        player.client.close()
    finally:
        world.close()


def test_a_frozen_engine_is_not_the_price_of_a_dead_server():
    client = Client(
        f"tcp://127.0.0.1:{free_port()}",
        Group(Box(-1, 1, (2,)), Discrete(3), lanes=2),
        timeout_s=0.1,
        on_timeout="repeat",
    )
    actions = [client.step(np.zeros((2, 2))) for _ in range(3)]
    assert all(a.tolist() == [0, 0] for a in actions)
    assert client.stats.lost_steps > 0
    client.close()
