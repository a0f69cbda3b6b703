"""The simulator over the real client: what arrives at a server, frame by frame, and the command."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import zmq

from arena_sim import __main__ as command
from arena_sim.arenas import Arenas
from arena_sim.rules import AGENTS, Arena
from arena_sim.simulator import ArenaSimulator, groups
from sim_clients.client import Client
from sim_clients.protocol import (
    PROTOCOL_VERSION,
    Actions,
    ActionsGroup,
    Bye,
    Error,
    Event,
    EventKind,
    Flag,
    Hello,
    Step,
    Welcome,
    decode,
    encode,
)

EPOCH = 7


class ScriptedServer:
    """Greets, answers every step with random actions, and keeps all that it read and said."""

    def __init__(self):
        self.hello: Hello | None = None
        self.steps: list[Step] = []
        self.actions: list[list[np.ndarray]] = []
        self.bye: Bye | None = None
        self._rng = np.random.default_rng(0)
        self._said: dict[int, bytes] = {}

    def answer(self, frame: bytes) -> bytes | None:
        message = decode(frame)
        if isinstance(message, Hello):
            self.hello = message
            welcome = Welcome(
                PROTOCOL_VERSION, b"s" * 16, EPOCH, False, 1, {"window": 2},
                tuple((f"policy-{g.name}", 0) for g in message.groups), {},
            )  # fmt: skip
            return encode(welcome)
        if isinstance(message, Step) and message.seq in self._said:
            return self._said[message.seq]  # a repeat, where this machine was slow
        if isinstance(message, Step):
            self.steps.append(message)
            actions = [self._rng.integers(4, size=len(g.flags)) for g in message.groups]
            self.actions.append(actions)
            parts = [ActionsGroup(0, [a.astype("<i8").tobytes()]) for a in actions]
            self._said[message.seq] = encode(Actions(message.seq, EPOCH, parts))
            return self._said[message.seq]
        if isinstance(message, Bye):
            self.bye = message
        return None


class Loopback:
    """A transport whose other end is a `ScriptedServer` in this thread."""

    capabilities = ()

    def __init__(self, server: ScriptedServer):
        self._server, self._frames = server, []

    def send(self, frame):
        answer = self._server.answer(frame)
        if answer is not None:
            self._frames.append(answer)

    def receive(self, timeout_s):
        return self._frames.pop(0) if self._frames else None

    def reconnect(self):
        raise AssertionError("nothing was lost")

    def close(self):
        pass


def test_every_frame_tells_what_the_rules_tell():
    num, max_steps, episodes = 3, 6, 9
    server, arenas = ScriptedServer(), Arenas(num, 4, 5, max_steps)
    with Client(None, groups(arenas), identity="arena-0", transport=Loopback(server)) as client:
        simulator = ArenaSimulator(client, arenas)
        simulator.run(episodes=episodes)
        assert client.stats.acknowledged == client.stats.sent == len(server.steps)
    assert server.bye is not None
    assert server.hello is not None
    assert server.hello.identity == "arena-0"
    assert [(g.name, g.lanes) for g in server.hello.groups] == [("agent1", 3), ("agent2", 3)]

    plain = [Arena(4, 5, max_steps) for _ in range(num)]
    total = max_steps * episodes // num
    assert len(server.steps) == total + 1
    rewards = np.zeros((2, num), np.float32)
    finals: list | None = None
    counts: list[dict] = []
    for t, step in enumerate(server.steps):
        last = t == total
        for g, agent in enumerate(AGENTS):
            group = step.groups[g]
            now = finals[g] if last else [list(a.observations()[agent]) for a in plain]
            assert np.frombuffer(group.observations[0], "<i8").reshape(num, 2).tolist() == now
            assert np.frombuffer(group.rewards, "<f4").tolist() == rewards[g].tolist()
            flags = Flag.FIRST if t % max_steps == 0 and not last else 0
            flags |= Flag.TRUNCATED if finals else 0
            flags |= Flag.LEAVING if last else 0
            assert list(group.flags) == [flags] * num
            extras = group.extras or {}
            if finals and not last:
                rows, columns = extras["final_obs"]
                assert np.frombuffer(rows, "<u4").tolist() == [0, 1, 2]
                assert np.frombuffer(columns[0], "<i8").reshape(num, 2).tolist() == finals[g]
            assert dict(extras.get("metrics", [])) == (counts[g] if finals else {})
        if last:
            break
        finals, counts = None, []
        for i, arena in enumerate(plain):
            got, _, truncated = arena.step(*(int(a[i]) for a in server.actions[t]))
            rewards[:, i] = [got[agent] for agent in AGENTS]
        if truncated:
            finals = [[list(a.observations()[agent]) for a in plain] for agent in AGENTS]
            counts = [
                {i: {"new_fields": a.new_fields} for i, a in enumerate(plain)},
                {i: {"collisions": a.collisions} for i, a in enumerate(plain)},
            ]
            for arena in plain:
                arena.reset()


class Router(threading.Thread):
    """A `ScriptedServer` behind a real socket. Lives until `stop`."""

    def __init__(self, server, say_after: dict[int, bytes] | None = None):
        super().__init__(daemon=True)
        self._server, self._say_after = server, say_after or {}
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stopping = threading.Event()
        self.played = threading.Event()  # a few steps were answered
        self.said_goodbye = threading.Event()

    def run(self):
        while not self._stopping.is_set():
            if not self._socket.poll(20):
                continue
            peer, frame = self._socket.recv_multipart()
            answer = self._server.answer(frame)
            if answer is not None:
                self._socket.send_multipart([peer, answer])
            extra = self._say_after.get(len(self._server.steps))
            if extra is not None:
                self._socket.send_multipart([peer, extra])
            if len(self._server.steps) > 20:
                self.played.set()
            if self._server.bye is not None:
                self.said_goodbye.set()
        self._socket.close()

    def stop(self):
        self._stopping.set()
        self.join()


@pytest.fixture
def router():
    routers = []

    def start(server, say_after=None):
        routers.append(Router(server, say_after))
        routers[-1].start()
        return routers[-1]

    yield start
    for one in routers:
        one.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_politely(router, number):
    server = ScriptedServer()
    served = router(server)
    process = subprocess.Popen(
        [sys.executable, "-m", "arena_sim", "--address", served.address, "--arenas", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.played.wait(60)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "episodes" in out
    assert served.said_goodbye.wait(60)


def test_the_command_plays_the_episodes_asked_for_against_a_baseline(router, capsys):
    server = ScriptedServer()
    served = router(server)
    line = f"--address {served.address} --arenas 3 --size 8 --steps 10 --agent1 boustrophedon"
    code = command.main([*line.split(), *["--episodes", "6", "--identity", "arena-3", "--render"]])
    assert code == 0
    assert [g.name for g in server.hello.groups] == ["agent2"]
    assert server.hello.groups[0].observation_space.nvec.tolist() == [64, 64]
    assert server.hello.identity == "arena-3"
    assert len(server.steps) == 2 * 10 + 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("6 episodes  mean return: agent1 10.00  agent2 -1.00")
    assert "+ 1 . . . . . ." in out


def test_the_command_ends_cleanly_when_the_server_ends_for_good(router, capsys):
    shutdown = encode(Event(EventKind.SHUTDOWN, None, {"final": True, "reason": "done"}))
    served = router(ScriptedServer(), {3: shutdown})
    assert command.main(["--address", served.address, "--arenas", "2"]) == 0
    assert capsys.readouterr().out == "0 episodes\n"


def test_the_command_says_in_one_sentence_why_it_was_refused(router, capsys):
    class Refusing(ScriptedServer):
        def answer(self, frame):
            return encode(Error("space_mismatch", True, None, "expected 64 cells, got 100."))

    served = router(Refusing())
    assert command.main(["--address", served.address]) == 2
    assert capsys.readouterr().err == (
        "python -m arena_sim: the server refused this simulator (space_mismatch): "
        "expected 64 cells, got 100.\n"
    )


def test_the_command_stops_after_max_seconds_even_where_nobody_listens(tmp_path, capsys):
    address = f"ipc://{tmp_path}/nobody"
    assert command.main(["--address", address, "--max-seconds", "0.05"]) == 0
    assert capsys.readouterr().out == "0 episodes\n"


def test_the_command_gives_the_signals_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    command.main(["--address", f"ipc://{tmp_path}/nobody", "--max-seconds", "0.01"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arenas", "0"], "expected at least 1, got 0"),
        (["--size", "1"], "room for two agents"),
        (["--agent1", "random", "--agent2", "chaser"], "at least one agent"),
        (["--agent1", "chaser"], "invalid choice: 'chaser'"),
        (["--address", "nowhere"], "expected an address such as"),
    ],
)
def test_the_command_refuses_what_cannot_be(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(["--address", "tcp://127.0.0.1:1", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
