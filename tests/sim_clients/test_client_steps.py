"""The vectorised client against the scripted peer, in one thread and without waiting."""

from __future__ import annotations

import numpy as np
import pytest
from client_rigs import Rig, balance, no, obs, some

from sim_clients.client import Client, Group, Lanes, Rows
from sim_clients.conformance.peer import Peer
from sim_clients.errors import (
    InvalidStep,
    RequestRefused,
    ServerClosed,
    SessionRefused,
    StepTimeout,
)
from sim_clients.protocol import (
    Box,
    Dict,
    Discrete,
    Event,
    Flag,
    MultiBinary,
    MultiDiscrete,
    Step,
    Tuple,
    encode,
    spaces,
)

FIRST, TERM, TRUNC, LEAVE, CONT = 1, 2, 4, 8, 16
FOUR = Group(Box(-9, 9, (2,)), Discrete(3, start=1), lanes=4)
TWO = Group(Box(-9, 9, (2,)), Discrete(3), lanes=2)
ONE = Group(Box(-9, 9, (2,)), Discrete(3), lanes=1)


# -- the plain way -------------------------------------------------------------------------------


def test_first_step_begins_every_lane_and_later_ones_go_on():
    rig = Rig(FOUR)
    actions = rig.client.step(obs())
    assert actions.tolist() == [1, 1, 1, 1]
    actions[0] = 2  # the caller's own, writable
    rig.client.step(obs(), np.ones(4), no(), no())
    assert rig.flags() == [[FIRST] * 4, [0] * 4]
    assert rig.client.policies == {"agent": ("default_policy", 0)}
    rig.peer.version = 7
    rig.client.step(obs(), np.ones(4), no(), no())
    assert rig.client.versions == {"agent": 7}
    assert rig.client.epoch == 1
    assert balance(rig.client)


def test_endings_begin_the_next_episode_in_the_same_row():
    rig = Rig(FOUR)
    rig.client.step(obs())
    final = obs() + 0.5
    rig.client.step(obs(), np.arange(4.0), some(4, 1), some(4, 2), final_obs=final)
    rig.client.step(obs(), np.ones(4), some(4, 1), no())
    assert rig.flags()[1:] == [[0, TERM | FIRST, TRUNC | FIRST, 0], [0, TERM | FIRST, 0, 0]]
    rows, (column,) = rig.peer.steps()[1].groups[0].extras["final_obs"]
    assert np.frombuffer(rows, "<u4").tolist() == [2]
    assert np.frombuffer(column, "<f4").tolist() == final[2].tolist()
    assert rig.peer.finished() == [
        ("agent", 1, "terminated", 1, 1.0),
        ("agent", 2, "truncated", 1, 2.0),
        ("agent", 1, "terminated", 1, 1.0),
    ]


def test_lanes_leave_idle_and_come_back():
    rig = Rig(FOUR)
    rig.client.step(obs(2), lanes=[3, 1])
    rig.client.step(obs(1), [5.0], [True], leaving=[True], lanes=[3])
    rig.client.step(obs(), np.ones(4), no(), no())
    assert rig.flags() == [[FIRST, FIRST], [TERM | LEAVE], [FIRST, 0, FIRST, FIRST]]
    assert rig.peer.finished() == [("agent", 3, "terminated", 1, 5.0)]


def test_leaving_without_an_ending_and_first_without_one_abandon():
    rig = Rig(TWO)
    rig.client.step(obs(2))
    rig.client.step(obs(2), [1, 1], first=[True, False], leaving=[False, True])
    assert rig.flags()[1] == [FIRST, LEAVE]
    assert {e[2] for e in rig.peer.finished()} == {"abandoned"}


def test_a_truncated_lane_that_leaves_needs_no_final_observation():
    rig = Rig(ONE)
    rig.client.step(obs(1))
    rig.client.step(obs(1), [1], truncated=[True], leaving=[True])
    rig.client.step(obs(1), first=[True], leaving=[True])  # an empty episode
    assert rig.flags()[1:] == [[TRUNC | LEAVE], [FIRST | LEAVE]]


def test_named_groups_travel_as_dicts():
    groups = {
        "red": Group(Discrete(5), Box(-1, 1, (2,)), lanes=2),
        "blue": Group(Box(0, 1, (1,)), Discrete(2), lanes=1, mask=True),
    }
    rig = Rig(groups)
    both = rig.client.step({"red": Lanes([1, 2]), "blue": Lanes([[0.5]], mask=[[True, False]])})
    assert both["red"].shape == (2, 2)
    assert both["blue"].tolist() == [0]
    only = rig.client.step({"blue": Lanes([[0.5]], [1.0], mask=[[0, 1]])})
    assert list(only) == ["blue"]
    step = rig.peer.steps()[-1]
    assert step.groups[0] is None
    assert step.groups[1].extras == {"mask": b"\x00\x01"}


def test_every_kind_of_space_goes_through():
    observation = Dict(
        {"a": Box(0, 255, (2, 2), "uint8"), "b": Tuple((Discrete(4), MultiBinary(3)))}
    )
    action = Tuple((MultiDiscrete([2, 3]), Dict({"x": Box(-1, 1, (2,), "float64")})))
    rig = Rig(Group(observation, action, lanes=2))
    value = {
        "a": np.arange(8).reshape(2, 2, 2),
        "b": (np.array([3, 1]), np.array([[1, 0, 1], [0, 0, 1]])),
    }
    first, second = rig.client.step(value)
    assert first.shape == (2, 2)
    assert first.dtype == np.int64
    assert second["x"].dtype == np.float64
    sent = rig.peer.steps()[0].groups[0].observations
    expected = spaces.flatten(observation, value)
    assert sent == [column.tobytes() for column in expected]


def test_gymnasium_spaces_are_taken_as_they_are():
    gymnasium = pytest.importorskip("gymnasium")
    g = gymnasium.spaces
    space = g.Dict(
        {
            "box": g.Box(-1, 1, (2, 3), np.float64),
            "many": g.Tuple((g.Discrete(3, start=-1), g.MultiDiscrete([[2, 3], [4, 5]]))),
            "bits": g.MultiBinary([2, 2]),
        }
    )
    rig = Rig(Group(space, g.Discrete(2)))
    declared = rig.client.groups["agent"].observation_space
    found = {path: (leaf.dtype.name, leaf.shape) for path, leaf in spaces.leaves(declared)}
    assert found == {
        ".box": ("float64", (2, 3)),
        ".many[0]": ("int64", ()),
        ".many[1]": ("int64", (2, 2)),
        ".bits": ("int8", (2, 2)),
    }
    assert [path for path, _ in spaces.leaves(declared)] == [
        f".{key}{i}" for key in space.spaces for i in (("[0]", "[1]") if key == "many" else ("",))
    ]
    batch = {
        "box": np.zeros((1, 2, 3)), "bits": np.ones((1, 2, 2)),
        "many": (np.array([-1]), np.zeros((1, 2, 2))),
    }  # fmt: skip
    rig.client.step(batch)
    with pytest.raises(TypeError, match="got Text"):
        Rig(Group(g.Text(4), g.Discrete(2)))


def test_extras_reach_the_server():
    rig = Rig(FOUR)
    rig.client.step(obs())
    rig.client.step(
        obs(), np.ones(4), some(4, 0), executed=Rows([2], np.array([3])),
        metrics={0: {"score": 2}},
    )  # fmt: skip
    extras = rig.peer.steps()[1].groups[0].extras
    assert np.frombuffer(extras["action"][0], "<u4").tolist() == [2]
    assert np.frombuffer(extras["action"][1][0], "<i8").tolist() == [3]
    assert extras["metrics"] == [[0, {"score": 2.0}]]
    rig.client.step(obs(), np.ones(4), executed=np.array([1, 2, 3, 1]))
    extras = rig.peer.steps()[2].groups[0].extras
    assert np.frombuffer(extras["action"][1][0], "<i8").tolist() == [1, 2, 3, 1]


def test_two_half_batches_are_under_way_at_once():
    rig = Rig(FOUR)
    client = rig.client
    client.connect()
    client.send_step(obs(2), lanes=[0, 1])
    client.send_step(obs(2), lanes=[2, 3])
    with pytest.raises(InvalidStep, match="receive_actions"):
        client.step(obs())
    for _ in range(3):
        for half in ([0, 1], [2, 3]):
            assert len(client.receive_actions()) == 2
            client.send_step(obs(2), np.ones(2), lanes=half)
    assert client.in_flight == 0 or client.in_flight == 2
    assert client.receive_actions(0) is not None
    assert client.receive_actions(0) is not None
    with pytest.raises(InvalidStep, match="send_step"):
        client.receive_actions()
    assert [step.seq for step in rig.peer.steps()] == list(range(1, 9))


def test_a_lane_cannot_be_under_way_twice():
    rig = Rig(FOUR)
    rig.client.connect()
    rig.client.send_step(obs(2), lanes=[0, 1])
    with pytest.raises(InvalidStep, match="wait for no action"):
        rig.client.send_step(obs(2), [0, 0], lanes=[1, 2])


# -- wrong input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs": np.zeros((3, 2))}, r"obs: expected shape \[4, 2\], got \[3, 2\]"),
        ({"rewards": None}, "rewards: expected a reward"),
        ({"rewards": np.ones(3)}, r"rewards: expected shape \[4\]"),
        ({"terminated": no(3)}, r"terminated: expected shape \[4\]"),
        ({"terminated": some(4, 1), "truncated": some(4, 1)}, r"one ending, not both.*\[1\]"),
        ({"truncated": some(4, 1)}, "final_obs: expected the true last observation"),
        (
            {"truncated": some(4, 1), "final_obs": Rows([0], np.zeros((1, 2)))},
            r"rows \[1\], got \[0\]",
        ),
        (
            {"truncated": some(4, 1), "final_obs": np.zeros((4, 3))},
            "final_obs: value: expected shape",
        ),
        ({"terminated": some(4, 1), "first": no()}, "first or leaving at an ending"),
        ({"terminated": some(4, 1), "first": some(4, 1), "leaving": some(4, 1)}, "not both"),
        ({"lanes": [0, 1, 2, 4]}, r"numbers in 0\.\.3"),
        ({"lanes": [0, 1, 2, 2]}, "each lane once"),
        ({"lanes": []}, "a list of lane numbers"),
        ({"mask": np.ones((4, 3))}, "declared without mask=True"),
        ({"executed": Rows([9], [1])}, r"rows in 0\.\.3"),
        ({"executed": Rows([1, 1], [1, 1])}, "each once"),
        ({"metrics": {9: {"a": 1}}}, r"rows in 0\.\.3"),
        ({"metrics": {0: {"a": "x"}}}, "metrics 'a': expected a number, got str"),
        ({"metrics": {0: {"a": float("nan")}}}, "a finite number"),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(arguments, message):
    rig = Rig(FOUR)
    rig.client.step(obs())
    good = {"obs": obs(), "rewards": np.ones(4), "terminated": no(), "truncated": no()}
    with pytest.raises(InvalidStep, match=message) as caught:
        rig.client.step(**(good | arguments))
    assert isinstance(caught.value, ValueError)
    assert len(rig.peer.steps()) == 1
    rig.client.step(**good)
    assert rig.flags()[-1] == [0, 0, 0, 0]


def test_endings_of_idle_lanes_and_missing_beginnings_are_wrong():
    rig = Rig(TWO)
    with pytest.raises(InvalidStep, match="a running episode to end"):
        rig.client.step(obs(2), [0, 0], [True, False])
    with pytest.raises(InvalidStep, match="first where no episode runs"):
        rig.client.step(obs(2), [0, 0], first=[True, False])


def test_mask_is_wanted_in_every_step_where_declared():
    rig = Rig(Group(Discrete(2), MultiDiscrete([2, 3]), lanes=2, mask=True))
    with pytest.raises(InvalidStep, match=r"mask: expected shape \[2, 5\] in every step, got None"):
        rig.client.step([0, 1])
    with pytest.raises(InvalidStep, match=r"got \[2, 4\]"):
        rig.client.step([0, 1], mask=np.ones((2, 4)))
    rig.client.step([0, 1], mask=np.ones((2, 5)))


def test_named_groups_want_lanes_of_known_names():
    rig = Rig({"red": ONE})
    with pytest.raises(InvalidStep, match="among \\['red'\\], got Lanes of 'blue'"):
        rig.client.step({"blue": Lanes(obs(1))})
    with pytest.raises(InvalidStep, match="got ndarray of 'red'"):
        rig.client.step({"red": obs(1)})
    with pytest.raises(InvalidStep, match=r"only \{group: Lanes\}"):
        rig.client.step({"red": Lanes(obs(1))}, [1.0])


def test_constructor_says_what_is_wrong():
    with pytest.raises(ValueError, match="at least one group"):
        Rig({})
    with pytest.raises(ValueError, match="lanes of at least 1"):
        Rig(Group(Discrete(2), Discrete(2), lanes=0))
    with pytest.raises(ValueError, match="on_timeout"):
        Rig(ONE, on_timeout="retry")
    with pytest.raises(ValueError, match="address"):
        Client(None, ONE)
    with pytest.raises(ValueError, match="got 'nonsense'"):
        Client("nonsense", ONE)


# -- trouble ----------------------------------------------------------------------------------------


def run(rig: Rig, steps: int, n: int = 1) -> None:
    """Steps that pay 1 and end every fifth."""
    started = rig.client.stats.sent > 0
    for t in range(steps):
        if not started:
            rig.client.step(obs(n))
            started = True
        else:
            ends = np.full(n, t % 5 == 0)
            rig.client.step(obs(n), np.ones(n), ends, no(n))


def test_lost_answers_waits_garbage_and_forgotten_connections_cost_nothing():
    rig = Rig(TWO, script={"drop": [2, 3], "wait": [5], "garbage": [7], "forget": [4, 9]})
    run(rig, 21, 2)
    accepted = {step.seq: step for step in rig.peer.steps()}
    assert list(accepted) == list(range(1, 22))
    assert rig.client.stats.sessions == 1
    assert rig.client.stats.unreadable == 1
    assert rig.client.stats.waits == 1
    ended = rig.peer.finished()
    assert [e[2:] for e in ended] == [("terminated", 5, 5.0)] * 8
    assert balance(rig.client)


def test_repeats_are_the_same_bytes():
    rig = Rig(TWO, script={"drop": [2]})
    run(rig, 3, 2)
    copies = [f for f in rig.wire.sent if f[:2] == encode(Step(2, []))[:2] and f[2] == 2]
    assert len(copies) == 2
    assert copies[0] == copies[1]


def test_a_new_server_is_told_that_episodes_go_on():
    rig = Rig(FOUR, script={"restart": [3]})
    client = rig.client
    client.step(obs())
    client.step(obs(1), [1.0], truncated=[True], leaving=[True], lanes=[3])
    client.step(
        obs(3), np.ones(3), some(3, 1), lanes=[0, 1, 3], first=some(3, 1, 2),
        metrics={1: {"score": 1}}, executed=Rows([0], [2]),
    )  # fmt: skip
    assert client.epoch == 2
    assert rig.flags()[-2] == [0, TERM | FIRST, FIRST]  # to the old one
    assert rig.flags()[-1] == [CONT, FIRST, FIRST]  # what it said again
    assert rig.peer.steps()[-1].seq == 1
    assert rig.peer.steps()[-1].groups[0].extras is None
    client.step(obs(), np.ones(4), no(), no())
    assert rig.flags()[-1] == [0, 0, CONT, 0]  # lane 2 was not in the step said again
    client.step(obs(), np.ones(4), no(), no())
    assert rig.flags()[-1] == [0, 0, 0, 0]
    assert client.stats.sessions == 2
    assert balance(client)


def test_leaving_while_the_server_is_new():
    rig = Rig(TWO, script={"restart": [2]})
    rig.client.step(obs(2))
    rig.client.step(obs(2), [1, 1], [True, False], [False, True], leaving=[True, True])
    assert rig.flags()[-1] == [CONT | LEAVE, CONT | LEAVE]
    rig.client.step(obs(2))
    assert rig.flags()[-1] == [FIRST, FIRST]


def test_an_ending_the_new_server_cannot_place_is_not_said():
    rig = Rig(TWO)
    rig.client.step(obs(2))
    rig.peer.restart()
    rig.client.step(obs(1), [1.0], lanes=[0])
    rig.client.step(
        obs(2), [1, 1], truncated=[False, True], final_obs=obs(2),
        executed=np.array([1, 1]), metrics={0: {"a": 1}, 1: {"b": 1}},
    )  # fmt: skip
    group = rig.peer.steps()[-1].groups[0]
    assert list(group.flags) == [0, FIRST]
    assert np.frombuffer(group.extras["action"][0], "<u4").tolist() == [0]
    assert group.extras["metrics"] == [[0, {"a": 1.0}]]
    assert "final_obs" not in group.extras


def test_two_steps_under_way_survive_a_restart():
    rig = Rig(FOUR, script={"restart": [3]})
    client = rig.client
    client.connect()
    client.send_step(obs(2), lanes=[0, 1])
    client.send_step(obs(1), lanes=[2])
    client.receive_actions()
    client.receive_actions()
    client.send_step(obs(2), np.ones(2), lanes=[0, 1])  # the server dies on this one
    client.send_step(obs(1), np.ones(1), lanes=[2])
    assert len(client.receive_actions()) == 2
    assert len(client.receive_actions()) == 1
    assert [s.seq for s in rig.peer.steps()[-2:]] == [1, 2]
    assert rig.flags()[-2:] == [[CONT, CONT], [CONT]]
    client.step(obs(), np.ones(4), no(), no())
    assert rig.flags()[-1] == [0, 0, 0, FIRST]


def test_a_refused_step_is_forgotten_and_its_lanes_carry_on():
    rig = Rig(FOUR, script={"refuse": [2]})
    rig.client.step(obs())
    with pytest.raises(RequestRefused, match="refused by script") as caught:
        rig.client.step(obs(2), np.ones(2), some(2, 0), lanes=[0, 1])
    assert caught.value.code == "bad_observation"
    assert caught.value.seq == 2
    rig.client.step(obs(), np.ones(4), no(), no())
    assert rig.peer.steps()[-1].seq == 2
    assert rig.flags()[-1] == [CONT, CONT, 0, 0]
    assert balance(rig.client)


def test_a_refused_beginning_begins_again():
    rig = Rig(TWO)
    with pytest.raises(RequestRefused, match="NaN or infinity"):
        rig.client.step(np.full((2, 2), np.nan))
    rig.client.step(obs(2))
    assert rig.flags() == [[FIRST, FIRST], [FIRST, FIRST]]


def test_silence_reconnects_and_resumes():
    rig = Rig(TWO, script={"silent": [3]})
    run(rig, 2, 2)
    rig.wire._advance = lambda seconds: (
        rig.clock.advance(seconds), rig.clock.now > 60 and rig.peer.revive()
    )  # fmt: skip
    run(rig, 3, 2)
    assert rig.wire.reconnects == rig.client.stats.reconnects >= 2
    assert rig.client.stats.sessions == 1
    assert rig.peer.steps()[-1].seq == 5


def test_wrong_token_and_final_shutdown_end_the_client():
    rig = Rig(ONE, Peer(token="right"), token="wrong")
    with pytest.raises(SessionRefused, match="unauthorized"):
        rig.client.connect()
    with pytest.raises(SessionRefused):
        rig.client.step(obs(1))
    assert not rig.client.closed_by_server
    rig = Rig(ONE, Peer(token="right"), token="right")
    rig.client.step(obs(1))
    event = Event("shutdown", None, {"final": True, "reason": "enough"})
    rig.wire.push(frame for _, frame in rig.peer.tell(event))
    with pytest.raises(ServerClosed, match="enough"):
        rig.client.step(obs(1), [1.0])
    assert rig.client.closed_by_server
    rig.client.close()


def test_actions_of_another_shape_end_the_client():
    rig = Rig(ONE)
    rig.client.step(obs(1))
    rig.peer._zeros = lambda session, step: [None]
    with pytest.raises(SessionRefused, match="do not fit the action space"):
        rig.client.step(obs(1), [1.0])


def test_events_set_parameters_and_flags():
    seen = []
    rig = Rig(ONE, Peer(parameters={"level": 1}), on_parameters=seen.append)
    rig.client.connect()
    for kind, data in (("parameters", {"level": 2}), ("pause", {}), ("drain", {})):
        rig.wire.push(frame for _, frame in rig.peer.tell(Event(kind, None, data)))
    rig.client.step(obs(1))
    rig.client.ping()
    assert seen == [{"level": 1}, {"level": 2}]
    assert rig.client.paused
    assert rig.client.draining
    rig.wire.push(frame for _, frame in rig.peer.tell(Event("resume", None, {})))
    rig.client.ping()
    assert not rig.client.paused


def test_ping_measures_and_gives_up():
    rig = Rig(ONE)
    assert rig.client.ping() == 0.0
    rig.peer.dead = True
    with pytest.raises(StepTimeout, match="PONG within 3"):
        rig.client.ping(3.0)
    assert rig.clock.now == pytest.approx(3.0)
    with pytest.raises(StepTimeout, match="WELCOME within 2"):
        Rig(ONE, rig.peer).client.connect(2.0)


def test_close_says_bye_once():
    rig = Rig(ONE)
    with rig.client as client:
        client.step(obs(1))
    rig.client.close()
    assert [type(m).__name__ for m in rig.peer.received] == ["Hello", "Step", "Bye"]
    assert rig.wire.closed
    with pytest.raises(InvalidStep, match="closed"):
        rig.client.step(obs(1), [1.0])


def test_flag_names_are_those_of_the_wire():
    assert (FIRST, TERM, TRUNC, LEAVE, CONT) == (
        Flag.FIRST, Flag.TERMINATED, Flag.TRUNCATED, Flag.LEAVING, Flag.CONTINUED,
    )  # fmt: skip
