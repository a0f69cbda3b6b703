"""Episodes one at a time, interleaved, against the scripted peer."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from client_rigs import Even, FakeClock

from sim_clients.conformance.peer import Peer, PeerTransport, Script, ServedPeer
from sim_clients.episodes import EpisodeClient
from sim_clients.errors import InvalidStep, RequestRefused, StepTimeout
from sim_clients.protocol import Box, Dict, Discrete, MultiDiscrete, Tuple

SPACES = (Box(-9, 9, (2,)), Discrete(3))


def client(peer: Peer | None = None, spaces=SPACES, **options) -> EpisodeClient:
    clock = FakeClock()
    wire = PeerTransport(peer or Peer(), clock.advance)
    return EpisodeClient(None, *spaces, transport=wire, clock=clock, rng=Even(), **options)


def test_interleaved_episodes_keep_their_rewards_apart():
    peer = Peer()
    c = client(peer, max_episodes=3)
    names = [c.start_episode(), c.start_episode("mine"), c.start_episode()]
    assert names[1] == "mine"
    for t in range(5):
        for i, name in enumerate(names):
            if t < 3 + i:
                action = c.get_action(name, [t, i])
                assert action == 0
                assert np.ndim(action) == 0
                c.log_returns(name, 10.0**i)
                c.log_returns(name, 0.5 * 10.0**i)
    c.end_episode(names[2], [0, 0])
    c.end_episode(names[0], [0, 0], truncated=True)
    c.end_episode(names[1], [0, 0])
    assert [e[2:] for e in peer.finished()] == [
        ("terminated", 5, 750.0), ("truncated", 3, 4.5), ("terminated", 4, 60.0),
    ]  # fmt: skip
    # All lanes are free again.
    for _ in range(3):
        c.get_action(c.start_episode(), [0, 0])
    with pytest.raises(InvalidStep, match="at most 3 open episodes"):
        c.start_episode()


def test_empty_episodes_stay_here():
    peer = Peer()
    c = client(peer, max_episodes=1)
    for _ in range(5):
        c.end_episode(c.start_episode(), [0, 0])
    assert peer.steps() == []


def test_logged_actions_are_said_with_the_next_row():
    peer = Peer()
    c = client(peer)
    e = c.start_episode()
    c.log_action(e, [0, 0], 2)
    c.log_returns(e, 1.0, {"score": 5})
    c.get_action(e, [1, 1])
    c.log_returns(e, 1.0)
    c.log_action(e, [1, 1], 1)
    c.end_episode(e, [2, 2])
    extras = [step.groups[0].extras for step in peer.steps()]
    executed = [
        x and "action" in x and np.frombuffer(x["action"][1][0], "<i8").tolist() for x in extras
    ]
    assert executed == [None, [2], None, [1]]
    assert extras[-1]["metrics"] == [[0, {"score": 5.0}]]


def test_nested_spaces_and_masks():
    observation = Dict({"a": Box(-1, 1, (2,)), "b": Discrete(3)})
    action = Tuple((Discrete(2), MultiDiscrete([2, 2])))
    peer = Peer()
    c = client(peer, (observation, action), mask=True)
    e = c.start_episode()
    one, two = c.get_action(e, {"a": [0, 1], "b": 2}, mask=[1, 0, 1, 1, 0, 1])
    assert (int(one), two.tolist()) == (0, [0, 0])
    with pytest.raises(InvalidStep, match="mask"):
        c.get_action(e, {"a": [0, 1], "b": 2})
    c.end_episode(e, {"a": [0, 1], "b": 2})
    assert peer.steps()[0].groups[0].extras["mask"] == bytes([1, 0, 1, 1, 0, 1])


def test_errors_name_the_episode():
    c = client()
    with pytest.raises(InvalidStep, match="'x', which was never started"):
        c.get_action("x", [0, 0])
    e = c.start_episode("x")
    with pytest.raises(InvalidStep, match="'x', which is open already"):
        c.start_episode("x")
    with pytest.raises(InvalidStep, match="an action before a reward"):
        c.log_returns(e, 1.0)
    c.get_action(e, [0, 0])
    with pytest.raises(InvalidStep, match="metrics 'info': expected a number, got dict"):
        c.log_returns(e, 1.0, {"info": {}})
    for ending in ({"terminated": True, "truncated": True}, {"terminated": False}):
        with pytest.raises(InvalidStep, match="one of terminated and truncated"):
            c.end_episode(e, [0, 0], **ending)
    c.end_episode(e, [0, 0])
    with pytest.raises(InvalidStep, match="'x', which has ended"):
        c.log_returns(e, 1.0)
    c.start_episode("x")
    with pytest.raises(InvalidStep, match="decided by the server"):
        c.start_episode(training_enabled=False)


def test_bad_observations_lose_no_reward_and_refused_ones_no_episode():
    peer = Peer()
    c = client(peer)
    e = c.start_episode()
    with pytest.raises(RequestRefused):
        c.get_action(e, [np.nan, 0])
    c.get_action(e, [0, 0])
    c.log_returns(e, 3.0)
    with pytest.raises(InvalidStep, match="shape"):
        c.get_action(e, [0, 0, 0])
    c.get_action(e, [0, 0])
    c.end_episode(e, [0, 0])
    assert peer.finished() == [("agent", 63 - 63, "terminated", 2, 3.0)]


def test_an_episode_whose_first_answer_is_late_goes_on_honestly():
    peer = Peer(Script(silent=frozenset({2})))
    c = client(peer, timeout_s=0.1, max_episodes=1)
    c.end_episode(c.start_episode(), [0, 0])
    e = c.start_episode()
    c.get_action(e, [0, 0])
    with pytest.raises(StepTimeout):
        c.get_action(e, [1, 1])
    with pytest.raises(StepTimeout):
        c.end_episode(e, [1, 1])
    peer.revive()
    f = c.start_episode()
    c.client._connection.retry_at = 0.0
    c.get_action(f, [0, 0])
    assert list(peer.steps()[-1].groups[0].flags) == [1]


def test_threads_may_share_it():
    with ServedPeer(Peer()) as served:
        c = EpisodeClient(served.address, *SPACES, max_episodes=8)

        def play() -> None:
            for _ in range(5):
                e = c.start_episode()
                for t in range(4):
                    c.get_action(e, [t, t])
                    c.log_returns(e, 1.0)
                c.end_episode(e, [0, 0])

        threads = [threading.Thread(target=play) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with c:
            assert c.client.stats.acknowledged == 4 * 5 * 5
    assert [e[2:] for e in served.peer.finished()] == [("terminated", 4, 4.0)] * 20
