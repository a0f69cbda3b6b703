"""Gymnasium and PettingZoo environments against the scripted peer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_environments as toys
from client_rigs import Even, FakeClock

from sim_clients import gymnasium as gym_runner
from sim_clients import pettingzoo as zoo_runner
from sim_clients.client import Client
from sim_clients.command import UsageError
from sim_clients.conformance.peer import Peer, PeerTransport, Script, ServedPeer
from sim_clients.errors import InvalidStep
from sim_clients.gymnasium import GymnasiumSimulator, run_gymnasium
from sim_clients.pettingzoo import PettingZooSimulator, run_pettingzoo
from sim_clients.protocol import ActionsGroup, Hello, Step, decode

HERE = str(Path(__file__).parent)


def maker(peer: Peer, **options):
    clock = FakeClock()
    wire = PeerTransport(peer, clock.advance)
    return lambda groups: Client(None, groups, transport=wire, clock=clock, rng=Even(), **options)


def gym(peer: Peer, envs, **options) -> GymnasiumSimulator:
    return GymnasiumSimulator(maker(peer), envs, **options)


def zoo(peer: Peer, envs, **options) -> PettingZooSimulator:
    return PettingZooSimulator(maker(peer), envs, **options)


def rows(step, group=0, dtype="<f4"):
    part = step.groups[group]
    return list(part.flags), np.frombuffer(part.rewards, "<f4").tolist(), np.frombuffer(
        part.observations[0], dtype
    ).tolist()  # fmt: skip


# -- Gymnasium ----------------------------------------------------------------------------------


def test_rows_say_exactly_what_happened():
    peer = Peer()
    simulator = gym(peer, [toys.Counter(2), toys.Counter(3, "truncated")])
    summary = simulator.run(steps=8)
    assert (summary.steps, summary.episodes, summary.returns) == (8, 3, [3.0, 6.0, 3.0])
    said = [rows(step) for step in peer.steps()]
    assert [flags for flags, _, _ in said] == [[1, 1], [0, 0], [3, 0], [0, 5], [10, 8]]
    assert [rewards for _, rewards, _ in said[1:]] == [[1, 1], [2, 2], [1, 3], [2, 1]]
    # (episode, step) of each lane
    assert [obs for _, _, obs in said] == [
        [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 2], [1, 1, 1, 0], [1, 2, 1, 1],
    ]  # fmt: skip
    final = peer.steps()[3].groups[0].extras["final_obs"]
    assert np.frombuffer(final[1][0], "<f4").tolist() == [0, 3]


def test_both_endings_at_once_is_a_termination():
    peer = Peer()
    gym(peer, [toys.Counter(2, "both")]).run(episodes=3)
    assert [e[2:] for e in peer.finished()] == [("terminated", 2, 3.0)] * 3


def test_seeds_count_on_and_only_once():
    envs = [toys.Counter(1), toys.Counter(1)]
    gym(Peer(), envs, seed=7).run(steps=6)
    assert [env.seeds for env in envs] == [[7, None, None], [8, None, None]]


def test_masks_go_along():
    peer = Peer()
    gym(peer, [toys.Counter(3, mask=True)], action_mask=True).run(steps=3)
    masks = [list(step.groups[0].extras["mask"]) for step in peer.steps()]
    assert masks == [[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 1, 1]]
    with pytest.raises(InvalidStep, match=r"info\['action_mask'\]"):
        gym(Peer(), [toys.Counter(3)], action_mask=True).run(steps=1)


def test_nested_spaces_reach_the_environment_and_the_server():
    peer = Peer()
    gym(peer, [toys.Nest(), toys.Nest()]).run(steps=4)
    image, rest = peer.steps()[1].groups[0].observations
    assert image == bytes([8] * 8)
    assert np.frombuffer(rest, "<i8").tolist() == [1, 1]


def test_can_be_driven_by_hand():
    peer = Peer()
    simulator = gym(peer, [toys.Counter()])
    simulator.client.connect()
    simulator.send()
    simulator.send()  # nothing while it waits
    assert len(peer.steps()) == 1
    assert simulator.receive(0.0)
    assert simulator.steps == 1
    peer.dead = True
    simulator.send()
    assert not simulator.receive(0.1)
    assert simulator.steps == 1
    simulator.finish()  # nothing while it waits
    simulator.close()
    assert simulator.envs[0].closed


def test_a_new_server_in_the_middle_changes_nothing_for_the_environment():
    envs = [toys.Counter(4), toys.Counter(4)]
    peer = Peer(Script(restart=frozenset({3}), drop=frozenset({5}), wait=frozenset({6})))
    gym(peer, envs).run(steps=16)
    assert [env.episode for env in envs] == [1, 1]
    assert [len(env.actions) for env in envs] == [8, 8]
    assert list(peer.steps()[3].groups[0].flags) == [16, 16]


def test_real_environments_over_a_socket():
    with ServedPeer(Peer()) as served:
        summary = run_gymnasium("CartPole-v1", served.address, 3, seed=1, episodes=5)
        assert summary.episodes >= 5
        assert len(served.peer.finished()) >= 5
        lengths = [e[3] for e in served.peer.finished() if e[2] == "terminated"]
        assert sorted(lengths)[:5] == sorted(int(r) for r in summary.returns)[:5]
        assert run_gymnasium(toys.Counter, served.address, 2, {"length": 5}, steps=20).episodes == 4
        assert run_gymnasium(toys.Counter(), served.address, max_seconds=0.0).steps == 0


def test_what_cannot_be_run_is_said_in_one_sentence():
    for env, message in (
        ("NoSuchEnv-v0", "'NoSuchEnv-v0' cannot be made"),
        ("no_such_module:Env-v0", "cannot be made"),
    ):
        with pytest.raises(UsageError, match=message):
            run_gymnasium(env, "tcp://127.0.0.1:1")
    with pytest.raises(UsageError, match="num_envs: expected at least 1"):
        run_gymnasium("CartPole-v1", "tcp://127.0.0.1:1", 0)
    with pytest.raises(UsageError, match="an environment that exists"):
        run_gymnasium(toys.Counter(), "tcp://127.0.0.1:1", 2)
    with pytest.raises(UsageError, match="expected an address"):
        run_gymnasium("CartPole-v1", "nowhere")
    with pytest.raises(ValueError, match="others in number 1"):
        gym(Peer(), [toys.Counter(), toys.Nest()])


def test_atari_ids_are_known_where_it_is_installed():
    pytest.importorskip("ale_py")
    (env,) = gym_runner.make_environments("ALE/Pong-v5", 1, {"obs_type": "ram"})
    assert env.observation_space.shape == (128,)
    env.close()


# -- two halves in turn ------------------------------------------------------------------------


class Chooser(Peer):
    """Chooses by what is observed. Keeps the first session's k-th answer back until the other's
    STEP number `needs[k]` is there, as a server does whose batch is full but for those."""

    def __init__(self, needs: dict[int, int] | None = None):
        super().__init__()
        self.needs = needs or {}
        self.kept: list[tuple[int, bytes, bytes]] = []  # (awaited of the other, route, frame)

    def _zeros(self, session, step):
        actions = []
        for group in step.groups:
            seen = np.frombuffer(group.observations[0], "<f4").reshape(-1, 3)
            actions.append(ActionsGroup(0, [toys.right_action(seen).astype("<i8").tobytes()]))
        return actions

    def handle(self, route, frame):
        out = super().handle(route, frame)
        message = decode(frame)
        if not isinstance(message, Step):
            return out
        if route == next(iter(self._routes)):
            if message.seq in self.needs:
                self.kept = [(self.needs[message.seq], *reply) for reply in out]
                return []
        elif self.kept and message.seq >= self.kept[0][0]:
            out += [entry[1:] for entry in self.kept]
            self.kept = []
        return out


def test_halves_get_their_own_actions_and_report_their_own_rewards():
    envs = [toys.Picky(i, length=3 + i) for i in range(5)]
    makers = iter(envs)
    with ServedPeer(Chooser()) as served:
        summary = run_gymnasium(
            lambda: next(makers), served.address, 5, steps=200, identity="me", pipelined=True
        )
        # Its own session's, all lanes of it: the server's cheapest kind of STEP.
        hellos = [m for m in served.peer.received if isinstance(m, Hello)]
        assert sorted((h.identity, h.groups[0].lanes) for h in hellos) == [("me", 3), ("me-2", 2)]
        assert all(g.lanes is None for s in served.peer.steps() for g in s.groups)
        ended = [(e[3], e[4]) for e in served.peer.finished() if e[2] == "terminated"]
    # Picky pays 1 for the action that belongs to its observation, so a wrong pairing costs.
    assert all(steps == paid for steps, paid in ended)
    assert summary.steps == sum(env.taken for env in envs) >= 200
    assert summary.episodes == len(summary.returns) == len(ended) > 25
    assert sorted(summary.returns) == sorted(paid for _, paid in ended)


def test_a_half_that_the_server_keeps_waiting_does_not_stop_the_other():
    envs = [toys.Picky(0, 4), toys.Picky(1, 4)]
    makers = iter(envs)
    with ServedPeer(Chooser(needs={5: 9})) as served:
        summary = run_gymnasium(
            lambda: next(makers), served.address, 2, steps=40, pipelined=True, max_seconds=60
        )
    assert summary.steps == 40
    assert [env.taken for env in envs] == [18, 22]  # four ahead, and never again equal


def test_one_environment_has_no_halves():
    with pytest.raises(UsageError, match="at least two environments"):
        run_gymnasium(toys.Counter, "tcp://127.0.0.1:1", 1, pipelined=True)


def test_halves_of_pettingzoo_environments():
    with ServedPeer(Peer()) as served:
        summary = run_pettingzoo(toys.Turns, served.address, 3, episodes=9, pipelined=True)
        assert summary.episodes >= 9
        assert {e[2] for e in served.peer.finished() if e[3] > 0} <= {"terminated", "interrupted"}
        assert len([m for m in served.peer.received if isinstance(m, Hello)]) == 2


# -- PettingZoo -----------------------------------------------------------------------------------


def test_agents_that_die_leave_and_come_back():
    peer = Peer()
    summary = zoo(peer, [toys.Crowd()]).run(episodes=2)
    assert summary.episodes == 2
    assert summary.returns == [2 + 30 + 400] * 2
    assert summary.steps == 2 * (3 + 3 + 2 + 1)
    # c is the last to die, so its next episode begins in the row that ends this one.
    flags = [[None if g is None else list(g.flags) for g in s.groups] for s in peer.steps()]
    life = [[[1]] * 3, [[0]] * 3, [[10], [0], [0]], [None, [10], [0]]]
    again = [[[1], [1], [3]], *life[1:], [None, None, [10]]]
    assert flags == [*life, *again]
    assert sorted(e[0] + str(e[4]) for e in peer.finished()) == [
        "a2.0", "a2.0", "b30.0", "b30.0", "c400.0", "c400.0",
    ]  # fmt: skip


def test_groups_share_lanes_over_agents_and_environments():
    peer = Peer()
    envs = [toys.Team(truncate=True), toys.Team(truncate=True)]
    simulator = zoo(peer, envs, group_by={"a": "ab", "b": "ab", "c": "c"}, seed=3)
    simulator.run(episodes=4)
    assert [(g.name, g.lanes) for g in peer.received[0].groups] == [("ab", 4), ("c", 2)]
    assert [env.seeds for env in envs] == [[3, None], [4, None]]
    flags, rewards, obs = rows(peer.steps()[2])
    assert (flags, rewards, obs) == ([5] * 4, [1, 10, 1, 10], [0] * 4)
    final = peer.steps()[2].groups[0].extras["final_obs"]
    assert np.frombuffer(final[1][0], "<f4").tolist() == [2] * 4
    assert [e[2] for e in peer.finished()] == ["truncated"] * 12


def test_turns_add_up_rewards():
    peer = Peer()
    summary = zoo(peer, [toys.Turns(5)], group_by=lambda agent: "player").run(episodes=2)
    assert (summary.episodes, summary.steps) == (2, 10)
    # x moves at 0, 2, 4; y at 1, 3. Each is paid +1 for its turn and -1 for each of the other's.
    lanes = [np.frombuffer(s.groups[0].lanes, "<u4").tolist() for s in peer.steps()]
    assert lanes[:5] == [[0], [1], [0], [1], [0]]
    said = [rows(s, dtype="i1") for s in peer.steps()]
    assert said[:5] == [
        ([1], [0], [0]), ([1], [0], [1]), ([0], [0], [2]), ([0], [0], [3]), ([0], [0], [4]),
    ]  # fmt: skip
    ends = dict(zip(lanes[5], zip(*said[5], strict=True), strict=True))
    assert ends == {0: (3, 1.0, 0), 1: (10, 0.0, 5)}
    assert sorted(e[1:] for e in peer.finished()) == [
        (0, "terminated", 3, 1.0), (0, "terminated", 3, 1.0),
        (1, "terminated", 2, 0.0), (1, "terminated", 2, 0.0),
    ]  # fmt: skip


def test_masks_beside_the_observation_are_taken_out():
    peer = Peer()
    zoo(peer, [toys.Turns(3, mask=True)], action_mask=True).run(episodes=1)
    spec = peer.received[0].groups[0]
    assert spec.mask
    assert spec.observation_space.to_wire() == ["box", "int8", [1], 0, 99]
    masks = [list(g.extras["mask"]) for s in peer.steps() for g in s.groups if g is not None]
    assert masks[:3] == [[1, 0], [1, 1], [1, 0]]


def test_several_turn_based_environments_at_once():
    peer = Peer()
    zoo(peer, [toys.Turns(4), toys.Turns(3)]).run(episodes=6)
    assert {e[2] for e in peer.finished()} == {"terminated"}
    assert {e[1] for e in peer.finished()} == {0, 1}


def test_agents_nobody_announced_are_refused():
    crowd = toys.Crowd()
    crowd.possible_agents = ["a", "b"]
    simulator = zoo(Peer(), [crowd])
    crowd.possible_agents = ["a", "b", "c"]
    with pytest.raises(InvalidStep, match="possible_agents, got 'c'"):
        simulator.send()


def test_a_new_server_in_the_middle_of_a_turn():
    peer = Peer(Script(restart=frozenset({3}), drop=frozenset({4})))
    zoo(peer, [toys.Turns(4)]).run(episodes=3)
    ended = [e[2] for e in peer.finished()]
    assert ended.count("terminated") >= 4


def test_pettingzoo_from_modules_and_functions(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    with ServedPeer(Peer()) as served:
        assert run_pettingzoo("toy_environments", served.address, episodes=1).steps == 9
        assert run_pettingzoo("toy_environments:env", served.address, episodes=1).steps == 5
        assert run_pettingzoo(toys.Turns, served.address, 1, {"turns": 2}, episodes=1).steps == 2
        assert run_pettingzoo(toys.Crowd(), served.address, episodes=1).steps == 9
    for env, message in (
        ("no_such_module", "cannot be imported"),
        ("toy_environments:nothing", "expected a function nothing, got none"),
        ("toy_environments:broken", "cannot be made: no batteries"),
    ):
        with pytest.raises(UsageError, match=message):
            run_pettingzoo(env, "tcp://127.0.0.1:1")
    with pytest.raises(UsageError, match="got none for 'b'"):
        run_pettingzoo(toys.Crowd(), "tcp://127.0.0.1:1", group_by={"a": "x"})


# -- commands ----------------------------------------------------------------------------------------


def test_commands_end_with_the_right_code(capsys):
    assert gym_runner.main(["NoSuchEnv-v0"]) == 2
    assert "NoSuchEnv" in capsys.readouterr().err
    assert zoo_runner.main(["no.such.module"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    for arguments in (["CartPole-v1", "--env-kwargs", "[1]"], ["CartPole-v1", "--env-kwargs", "{"]):
        with pytest.raises(SystemExit) as caught:
            gym_runner.main(arguments)
        assert caught.value.code == 2
        assert "expected" in capsys.readouterr().err
    with ServedPeer(Peer(token="right")) as served:
        arguments = ["CartPole-v1", "--address", served.address, "--steps", "4"]
        assert gym_runner.main([*arguments, "--token", "wrong"]) == 1
        assert "unauthorized" in capsys.readouterr().err
        assert gym_runner.main([*arguments, "--token", "right", "--num-envs", "2"]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("module", "env"), [("gymnasium", "CartPole-v1"), ("pettingzoo", "toy_environments")]
)
def test_commands_end_politely(module, env, number):
    with ServedPeer(Peer()) as served:
        command = [sys.executable, "-m", f"sim_clients.{module}", env, "--address", served.address]
        paths = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
        # As a shell starts what runs in the background: deaf to SIGINT, unless it asks for it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
        )
        signal.signal(signal.SIGINT, before)
        try:
            with Client(served.address, _probe()) as probe:
                while not served.peer.steps():
                    probe.ping(timeout_s=60)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, err) == (0, "")
        kinds = [type(m).__name__ for m in served.peer.received if type(m).__name__ != "Ping"]
        assert kinds.count("Bye") == 2  # the probe's and the command's


def _probe():
    from sim_clients.client import Group
    from sim_clients.protocol import Discrete

    return Group(Discrete(2), Discrete(2))
