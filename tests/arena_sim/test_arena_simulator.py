"""What the simulator reports is what happened, pairwise: action, reward, ending, next episode."""

from __future__ import annotations

import numpy as np
import pytest

from arena_sim.arenas import Arenas
from arena_sim.rules import AGENTS, Arena
from arena_sim.simulator import ArenaSimulator, groups
from sim_clients.errors import RequestRefused, ServerClosed
from sim_clients.protocol import Error
from sim_clients.protocol.spaces import Discrete, MultiDiscrete


class ScriptedClient:
    """Answers every request with random actions and keeps everything that was said."""

    def __init__(self, silent_polls: int = 0, raises: list[Exception] | None = None):
        self.closed_by_server = False
        self.sent: list[dict] = []
        self.answers: list[dict[str, np.ndarray]] = []
        self._rng = np.random.default_rng(0)
        self._silent_polls, self._silent = silent_polls, 0
        self._raises = list(raises or [])

    def send_step(self, lanes):
        self.sent.append(lanes)
        self._silent = self._silent_polls

    def receive_actions(self, timeout_s=None):
        if self._raises:
            raise self._raises.pop(0)
        if self._silent:
            self._silent -= 1
            return None
        answer = {
            g: self._rng.integers(4, size=len(lanes.obs)) for g, lanes in self.sent[-1].items()
        }
        self.answers.append(answer)
        return answer


def test_the_declared_groups_are_those_a_policy_plays():
    arenas = Arenas(7, 8, 6)
    declared = groups(arenas)
    assert list(declared) == ["agent1", "agent2"]
    for group in declared.values():
        assert group.lanes == 7
        assert group.observation_space == MultiDiscrete([48, 48])
        assert group.action_space == Discrete(4)
    assert list(groups(arenas, agent2="chaser")) == ["agent1"]
    assert list(groups(arenas, agent1="random")) == ["agent2"]
    with pytest.raises(ValueError, match="at least one agent to be played by a policy"):
        groups(arenas, "random", "chaser")


def test_the_whole_story_is_reported_as_the_rules_tell_it():
    num, max_steps = 3, 5
    client = ScriptedClient()
    simulator = ArenaSimulator(client, Arenas(num, 4, 4, max_steps))
    for _ in range(13):
        simulator.send()
        assert simulator.receive()
    simulator.send()

    plain = [Arena(4, 4, max_steps) for _ in range(num)]
    for agent in AGENTS:
        lanes = client.sent[0][agent]
        assert np.asarray(lanes.obs).tolist() == [list(a.observations()[agent]) for a in plain]
        assert lanes.rewards is lanes.truncated is lanes.metrics is None
    for t, (answer, message) in enumerate(zip(client.answers, client.sent[1:], strict=True)):
        ended = (t + 1) % max_steps == 0
        for i, arena in enumerate(plain):
            rewards, _, truncated = arena.step(int(answer["agent1"][i]), int(answer["agent2"][i]))
            assert truncated == ended
            final = arena.observations()
            counts = {
                "agent1": {"new_fields": arena.new_fields},
                "agent2": {"collisions": arena.collisions},
            }
            if ended:
                arena.reset()
            for agent in AGENTS:
                lanes = message[agent]
                assert lanes.rewards[i] == np.float32(rewards[agent])
                assert lanes.truncated[i] == ended
                assert lanes.terminated is None
                assert lanes.obs[i].tolist() == list(arena.observations()[agent])
                assert lanes.final_obs[i].tolist() == list(final[agent])
                assert lanes.metrics.get(i) == (counts[agent] if ended else None)
    assert simulator.ticks == 13
    assert simulator.returns.episodes == 6


def test_a_baseline_plays_off_the_wire():
    client = ScriptedClient()
    arenas = Arenas(2, 10, 10)
    simulator = ArenaSimulator(client, arenas, agent1="boustrophedon")
    for _ in range(5):
        simulator.send()
        simulator.receive()
    assert all(set(message) == {"agent2"} for message in client.sent)
    assert arenas.cell1.tolist() == [5, 5]


def test_the_seed_repeats_a_baseline():
    def cells(seed):
        client = ScriptedClient()
        arenas = Arenas(4)
        ArenaSimulator(client, arenas, agent2="random", seed=seed).run(
            episodes=None, max_seconds=9.5, clock=iter(range(100)).__next__
        )
        return arenas.cell2.tolist()

    assert cells(1) == cells(1)
    assert cells(1) != cells(2)


def test_send_and_receive_take_turns():
    simulator = ArenaSimulator(ScriptedClient(silent_polls=1), Arenas(2))
    with pytest.raises(RuntimeError, match=r"call send\(\) before receive\(\)"):
        simulator.receive()
    simulator.send()
    with pytest.raises(RuntimeError, match=r"call receive\(\) first"):
        simulator.send()
    assert simulator.receive(0.0) is False
    assert simulator.ticks == 0
    assert simulator.receive(0.0) is True
    assert simulator.ticks == 1


@pytest.mark.parametrize(("episodes", "rounds"), [(1, 1), (3, 1), (4, 2)])
def test_a_run_ends_after_enough_episodes_and_reports_the_last_one(episodes, rounds):
    client = ScriptedClient(silent_polls=2)
    simulator = ArenaSimulator(client, Arenas(3, max_steps=4))
    simulator.run(episodes=episodes)
    assert simulator.returns.episodes == 3 * rounds
    assert len(client.sent) == 4 * rounds + 1
    for agent, metric in (("agent1", "new_fields"), ("agent2", "collisions")):
        lanes = client.sent[-1][agent]
        assert lanes.truncated.all()
        assert lanes.leaving.all()
        np.testing.assert_array_equal(lanes.obs, lanes.final_obs)
        assert list(lanes.metrics) == [0, 1, 2]
        assert all(set(metrics) == {metric} for metrics in lanes.metrics.values())
        assert all(message[agent].leaving is None for message in client.sent[:-1])


def test_a_run_ends_when_time_is_up():
    client = ScriptedClient(silent_polls=10**9)  # the server never answers
    simulator = ArenaSimulator(client, Arenas(2))
    simulator.run(max_seconds=5, clock=iter(range(100)).__next__)
    assert len(client.sent) == 1
    assert simulator.ticks == 0


def test_a_run_ends_when_told_to():
    client = ScriptedClient()
    simulator = ArenaSimulator(client, Arenas(2))
    simulator.run(watch=lambda arenas: arenas.steps[0] == 7 and simulator.stop())
    assert simulator.ticks == 7
    assert len(client.sent) == 7


def test_a_run_ends_when_the_server_closes():
    client = ScriptedClient()
    simulator = ArenaSimulator(client, Arenas(2))

    def closing(arenas):
        client.closed_by_server = arenas.steps[0] == 3

    simulator.run(watch=closing)
    assert simulator.ticks == 3
    client = ScriptedClient(raises=[ServerClosed("the server has ended for good.")])
    ArenaSimulator(client, Arenas(2)).run()
    assert len(client.sent) == 1


def test_unknown_players_are_refused():
    with pytest.raises(ValueError, match=r"Did you mean 'chaser'\?"):
        ArenaSimulator(ScriptedClient(), Arenas(2), agent2="chasers")


def refusal() -> RequestRefused:
    return RequestRefused(Error("internal", False, 1, "something broke here."))


def test_a_refused_request_is_said_again():
    client = ScriptedClient(raises=[refusal(), refusal()])
    simulator = ArenaSimulator(client, Arenas(2, max_steps=3))
    simulator.run(episodes=1)
    assert len(client.sent) == 2 + 3 + 1
    for repeat in client.sent[1:3]:
        np.testing.assert_array_equal(repeat["agent1"].obs, client.sent[0]["agent1"].obs)


def test_a_run_gives_up_when_the_server_keeps_refusing():
    client = ScriptedClient(raises=[refusal()] * 3)
    simulator = ArenaSimulator(client, Arenas(2))
    with pytest.raises(RequestRefused, match="internal"):
        simulator.run()
    assert len(client.sent) == 3
    assert simulator.ticks == 0
