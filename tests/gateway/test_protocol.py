"""What the server promises on the wire, one promise a test."""

from __future__ import annotations

import re

import numpy as np
import pytest

from policy_server.gateway.template import StepTemplate
from sim_clients.protocol import (
    Box,
    Bye,
    Dict,
    Discrete,
    Error,
    GroupSpec,
    Hello,
    MultiDiscrete,
    Ping,
    Pong,
    Step,
    StepGroup,
    Welcome,
    decode,
    encode,
)
from tests.gateway.wire import SPEC, Peer


def kind(message):
    return type(message).__name__


def test_step_before_hello_is_an_unknown_session(free):
    (reply,) = Peer(free).send(Peer(free).frame(1))
    assert reply.code == "unknown_session"
    assert not reply.fatal


def test_actions_have_the_shape_of_the_space(free):
    peer = Peer(free)
    assert isinstance(peer.hello(), Welcome)
    reply = peer.step()
    assert reply.seq == 1
    actions = np.frombuffer(reply.groups[0].actions[0], "<i8")
    assert actions.shape == (2,)
    assert ((actions >= 0) & (actions < 4)).all()
    assert len(peer.raw[0]) < 40


def test_a_repeated_step_gets_the_same_bytes(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    first = peer.raw
    peer.send(peer.frame(1))
    assert peer.raw == first
    assert free.gateway.reader.messages["duplicate"] == 1
    assert free.desk.accounts.accepted == 2


def test_the_same_number_with_other_content_is_refused(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    (reply,) = peer.send(peer.frame(1, obs=np.ones((2, 3))))
    assert (reply.code, reply.seq, reply.fatal) == ("conflicting_retry", 1, False)
    assert kind(peer.step(flags=b"\0\0")) == "Actions"


@pytest.mark.parametrize("seq", [3, 7, 2**40])
def test_a_gap_is_refused(free, seq):
    peer = Peer(free)
    peer.hello()
    peer.step()
    (reply,) = peer.send(peer.frame(seq))
    assert reply.code == "bad_sequence"
    assert "expected STEP 2" in reply.text


def test_a_number_from_the_past_is_refused(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    for _ in range(4):
        peer.step(flags=b"\0\0")
    (reply,) = peer.send(peer.frame(1))
    assert reply.code == "bad_sequence"


def test_resuming_on_a_new_connection_loses_nothing(free):
    peer = Peer(free)
    welcome = peer.hello()
    peer.step()
    answered = peer.raw
    peer.name = b"another connection"
    again = peer.hello(resume=welcome.session_id)
    assert again.resumed
    assert again.next_seq == 2
    peer.send(peer.frame(1))
    assert peer.raw == answered
    assert kind(peer.step(flags=b"\0\0")) == "Actions"


def test_another_run_cannot_resume_a_session_it_has_seen(free):
    victim, thief = Peer(free, b"victim"), Peer(free, b"thief")
    welcome = victim.hello()
    victim.step()
    stolen = thief.hello(run_id=b"t" * 16, resume=welcome.session_id)
    assert not stolen.resumed
    assert stolen.session_id != welcome.session_id
    assert kind(victim.step(flags=b"\0\0")) == "Actions"


def test_a_name_in_use_does_not_end_the_session_that_has_it(free):
    victim, thief = Peer(free, b"victim"), Peer(free, b"thief")
    victim.hello(identity="arena-1")
    victim.step()
    thief.hello(run_id=b"t" * 16, identity="arena-1")
    assert kind(victim.step(flags=b"\0\0")) == "Actions"


def test_a_new_run_of_a_silent_simulator_replaces_it(free):
    old, new = Peer(free, b"old"), Peer(free, b"new")
    old.hello(identity="arena-1")
    old.step()
    free.now += 5
    new.hello(run_id=b"n" * 16, identity="arena-1")
    assert len(free.gateway.sessions.by_id) == 1
    assert free.desk.accounts.dropped["interrupted"] == 2


def test_a_new_run_replaces_one_that_died_a_moment_ago(free):
    old, new = Peer(free, b"old"), Peer(free, b"new")
    old.hello(identity="arena-1")
    old.step()
    hello = Hello(1, ("test", "1"), b"n" * 16, None, "arena-1", (), None, new.specs, {})
    spoken_to = [peer for peer, _ in free.tick((b"new", encode(hello)))]
    assert spoken_to == [b"new", b"old"], "a welcome, and a probe"
    assert len(free.gateway.sessions.by_id) == 2
    free.gateway.unreachable(b"old")  # what the socket says of a connection that is gone
    assert [s.peer for s in free.gateway.sessions.by_id.values()] == [b"new"]


def test_a_lost_connection_alone_ends_no_session(free):
    peer = Peer(free)
    peer.hello()
    free.gateway.unreachable(b"a")
    assert kind(peer.step()) == "Actions"


def test_a_run_that_never_got_its_welcome_gets_the_same_session(free):
    peer = Peer(free)
    first = peer.hello()
    peer.name = b"reconnected"
    again = peer.hello()
    assert again.session_id == first.session_id
    assert len(free.gateway.sessions.by_id) == 1


def test_a_restarted_server_takes_lanes_in_mid_episode(free):
    peer = Peer(free)
    peer.hello()
    refused = peer.step(flags=b"\0\0")
    assert refused.code == "bad_flags"
    assert "lane 0" in refused.text
    assert kind(peer.step(flags=b"\x10\x10")) == "Actions"
    peer.step(flags=b"\x03\x03")
    episodes = free.desk.episodes
    assert [e.complete for e in episodes] == [False, False]


def test_lease_runs_out_and_the_simulator_comes_back(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    free.now += 61
    free.gateway.expire(free.now)
    assert peer.step(flags=b"\0\0").code == "unknown_session"
    assert not peer.hello().resumed
    peer.seq = 0
    assert kind(peer.step(flags=b"\x10\x10")) == "Actions"


def test_ping_and_bye(free):
    peer = Peer(free)
    peer.hello()
    assert peer.send(encode(Ping(7))) == [Pong(7, free.gateway.sessions.epoch)]
    assert peer.send(encode(Bye("done"))) == []
    assert not free.gateway.sessions.by_id


def test_waiting_requests_are_told_so(world):
    w = world()  # synchronous, and nobody asked for training yet
    peer = Peer(w)
    peer.hello()
    frame = peer.frame(1)
    assert peer.send(frame) == []
    w.now += 0.3
    ((_, told),) = w.tick()
    assert b"wait" in told
    (event,) = peer.send(frame)  # a retry of it waits as well
    assert (event.kind, event.seq) == ("wait", 1)
    w.gateway.train(1)
    ((_, reply),) = w.tick()
    assert reply[1] == 4


def test_empty_episodes_idle_lanes_and_turns(free):
    peer = Peer(free)
    peer.hello()
    assert kind(peer.step(flags=b"\x09\x01")) == "Actions"  # begins and leaves; begins
    assert free.desk.ledger.empty == 1
    lane1 = np.array([1], "<u4").tobytes()
    assert kind(peer.step(flags=b"\0", lanes=lane1)) == "Actions"
    assert kind(peer.step(flags=b"\x0a", lanes=lane1)) == "Actions"  # terminated and leaves
    assert peer.step(flags=b"\0", lanes=lane1).code == "bad_flags"
    assert kind(peer.step(flags=b"\x01", lanes=lane1)) == "Actions"
    (episode,) = [e for e in free.desk.episodes if e.ending == "terminated"]
    assert (episode.lane, episode.length) == (1, 2)


def test_environment_steps_count_an_environment_once(free):
    specs = (SPEC._replace(name="red"), SPEC._replace(name="blue"))
    peer = Peer(free, specs=specs)
    peer.hello()
    frame = peer.frame(1)
    from sim_clients.protocol import decode

    group = decode(frame).groups[0]
    peer.send(encode(Step(1, [group, group])))
    assert free.gateway.env_steps == 2
    assert free.desk.accounts.accepted == 4
    rows = [np.array([lane], "<u4").tobytes() for lane in (0, 1)]
    alone = [
        group._replace(lanes=r, flags=b"\0", rewards=b"\0" * 4, observations=[b"\0" * 12])
        for r in rows
    ]
    peer.send(encode(Step(2, alone)))
    assert free.gateway.env_steps == 4, "two different environments"
    gone = group._replace(flags=b"\x0a\0")
    peer.send(encode(Step(3, [gone, gone])))
    assert free.gateway.env_steps == 5, "one of them ended and stayed idle"


BAD = {
    "nan": (dict(obs=[[0, 0, 0], [0, np.nan, 0]]), "bad_observation", "lane 1"),
    "infinite": (dict(obs=[[np.inf, 0, 0], [0, 0, 0]]), "bad_observation", "lane 0"),
    "reward": (dict(rewards=np.array([0, np.nan], "<f4").tobytes()), "bad_reward", "lane 1"),
    "huge": (dict(obs=[[0, 0, 0], [0, 0, 1e30]]), "bad_observation", "within"),
    "huge reward": (dict(rewards=np.array([1e38, 0], "<f4").tobytes()), "bad_reward", "lane 0"),
    "short obs": (dict(observations=[b"\0" * 20]), "bad_observation", "24 bytes"),
    "two leaves": (dict(observations=[b"\0" * 24, b""]), "bad_observation", "1 observation column"),
    "flags": (dict(flags=b"\x01\x07"), "bad_flags", "lane 1"),
    "unknown flag": (dict(flags=b"\x01\x80"), "bad_flags", "lane 1"),
    "flags length": (dict(flags=b"\x01"), "bad_", "expected"),
    "lanes": (dict(lanes=np.array([0, 5], "<u4").tobytes()), "bad_lane", "below 2"),
    "lanes twice": (dict(lanes=np.array([1, 1], "<u4").tobytes()), "bad_lane", "once"),
    "lanes odd": (dict(lanes=b"abc"), "bad_lane", "uint32"),
    "mask": (dict(extras={"mask": b"\1" * 8}), "bad_mask", "not declared"),
    "extras": (dict(extras={"shoe": 1}), "malformed", "shoe"),
    "final": (dict(extras={"final_obs": [b"", []]}), "bad_observation", "1 columns"),
    "metrics": (dict(extras={"metrics": [[0, {"x": float("nan")}]]}), "bad_metric", "finite"),
    "action": (dict(extras={"action": [b"\0\0\0\0", [b"\x09" + b"\0" * 7]]}), "bad_action", "got 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_named_and_hurts_nobody(free, name):
    changes, code, words = BAD[name]
    good, bad = Peer(free, b"good"), Peer(free, b"bad")
    good.hello(run_id=b"g" * 16)
    bad.hello()
    inbox = [(b"bad", bad.frame(1, **changes)), (b"good", good.frame(1))]
    replies = dict(free.tick(*inbox))
    from sim_clients.protocol import decode

    error, answer = decode(replies[b"bad"]), decode(replies[b"good"])
    assert isinstance(error, Error)
    assert error.code.startswith(code)
    assert words in error.text
    assert error.seq == 1
    assert not error.fatal
    assert kind(answer) == "Actions"
    assert sum(free.gateway.reader.rejected.values()) == 1
    assert kind(bad.step()) == "Actions", "the session lives on, the number is not used up"


def test_discrete_and_masks_are_checked(free):
    space = Dict({"cell": MultiDiscrete([5, 5]), "n": Discrete(3, start=1)})
    peer = Peer(free, specs=(GroupSpec("agent", space, Discrete(4), 1, mask=True),))
    assert isinstance(peer.hello(), Welcome)

    def step(cell, n, mask):
        columns = [np.array([cell], "<i8").tobytes(), np.array([n], "<i8").tobytes()]
        group = StepGroup(None, b"\x01", b"\0" * 4, columns, {"mask": bytes(mask)})
        (reply,) = peer.send(encode(Step(1, [group])))
        return reply

    assert (
        "observation.cell: expected a choice within the space, got 5"
        in step([0, 5], 1, [1] * 4).text
    )
    assert (
        "observation.n: expected a choice within the space, got 0" in step([0, 4], 0, [1] * 4).text
    )
    assert step([0, 0], 1, [0] * 4).code == "bad_mask"
    for _ in range(20):
        reply = step([0, 0], 1, [0, 0, 1, 0])
        assert np.frombuffer(reply.groups[0].actions[0], "<i8").tolist() == [2]


def test_spaces_must_be_those_of_the_policy(free):
    Peer(free, b"a").hello()
    other = Peer(free, b"b", specs=(SPEC._replace(action_space=Discrete(5)),))
    error = other.hello(run_id=b"b" * 16)
    assert (error.code, error.fatal) == ("space_mismatch", True)
    assert len(free.gateway.sessions.by_id) == 1


def test_a_policy_that_cannot_be_built_is_refused(world):
    w = world(model={"conv_filters": [[8, 9, 9], [8, 9, 9]]})
    image = GroupSpec("agent", Box(0, 255, (16, 16, 3), "uint8"), Discrete(2), 1)
    error = Peer(w, specs=(image,)).hello()
    assert (error.code, error.fatal) == ("bad_space", True)
    assert not w.gateway.desks


class Clumsy:
    """A network of somebody's own that cannot be made."""

    def __init__(self, *_: object, **__: object):
        raise RuntimeError("out of luck")


def test_a_network_that_cannot_be_made_hurts_nobody_else(world, caplog):
    w = world(
        collection={"mode": "async"},
        multi_agent={
            "policies": {"good": {}, "bad": {"model": {"custom": f"{__name__}:Clumsy"}}},
            "policy_mapping": {"agent": "good", "*": "bad"},
        },
    )
    w.gateway.train(None)
    good = Peer(w, b"a")
    assert isinstance(good.hello(), Welcome)
    error = Peer(w, b"b", specs=(SPEC._replace(name="other"),)).hello(run_id=b"b" * 16)
    assert (error.code, error.fatal) == ("internal", True)
    assert "policy 'bad' cannot be built" in error.text
    assert re.search(r"RuntimeError: out of luck \(test_protocol.py:\d+\)", error.text)
    assert "the server's log says why" in error.text
    assert "out of luck" in caplog.text
    assert list(w.gateway.desks) == ["good"]
    assert kind(good.step()) == "Actions"


def test_rewards_told_apart_that_do_not_add_up_hurt_nobody_else(world):
    box, names = Box(-9, 9, (3,)), ("x", "y")
    seen = Dict({"agents": Dict(dict.fromkeys(names, box)), "rewards": Box(-99, 99, (2,))})
    w = world(algorithm="MADDPG", training={"learning_starts": 10}, collection={"mode": "async"})
    w.gateway.train(None)
    acts = Dict(dict.fromkeys(names, Box(-1, 1, (1,))))
    peers = [Peer(w, name, specs=(GroupSpec("agent", seen, acts, 1),)) for name in (b"a", b"b")]

    def step(peer, told, reward, first=0):
        columns = [bytes(12), bytes(12), np.array(told, "<f4").tobytes()]
        rewards = np.array([reward], "<f4").tobytes()
        group = StepGroup(None, bytes([first]), rewards, columns)
        (reply,) = peer.send(encode(Step(peer.seq + 1, [group])))
        peer.seq += kind(reply) == "Actions"
        return reply

    for peer in peers:
        assert isinstance(peer.hello(run_id=peer.name * 16), Welcome)
        assert kind(step(peer, [0, 0], 0, first=1)) == "Actions"
    error = step(peers[0], [1, 2], 4)
    assert (error.code, error.fatal) == ("bad_reward", False)
    assert "adds up to the reward of the lane, 4, got [1.0, 2.0]" in error.text
    for peer in peers:
        assert kind(step(peer, [1, 2], 3)) == "Actions"
    w.balances()


def test_a_last_observation_of_an_episode_that_goes_on_is_refused(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    final = {"final_obs": [np.array([1], "<u4").tobytes(), [bytes(12)]]}
    error = peer.step(flags=b"\0\0", extras=final)
    assert (error.code, error.fatal) == ("bad_observation", False)
    assert "a row without an ending" in error.text
    assert kind(peer.step(flags=b"\0\3", extras=final)) == "Actions", "this one ends"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"action_space": Discrete(4, dtype="int32")}, "Discrete(4, int32)"),
        ({"observation_space": Box(-10, 10 + 1e-5, (3,))}, "which differs in observation"),
    ],
)
def test_spaces_that_look_alike_are_told_apart(free, changes, where):
    Peer(free, b"a").hello()
    error = Peer(free, b"b", specs=(SPEC._replace(**changes),)).hello(run_id=b"b" * 16)
    assert error.code == "space_mismatch"
    assert where in error.text


@pytest.mark.parametrize("algorithm", ["DQN", "ApexDQN", "DDPG", "SAC", "ES", "PPO"])
def test_a_frozen_policy_does_without_noise_that_is_there_for_learning(world, algorithm):
    acts = Discrete(4) if algorithm in ("DQN", "ApexDQN") else Box(-1, 1, (2,))
    w = world(algorithm=algorithm, multi_agent={"policies_to_train": []})
    peer = Peer(w, specs=(GroupSpec("agent", SPEC.observation_space, acts, 64),))
    assert isinstance(peer.hello(), Welcome)
    seen = set()
    for i in range(4):
        reply = peer.step(obs=np.ones((64, 3)), flags=bytes([i == 0]) * 64)
        seen |= set(np.frombuffer(reply.groups[0].actions[0], "<i8").tolist())
    assert (len(seen) == 1) == (algorithm not in ("PPO", "SAC"))


def test_a_frozen_policy_that_draws_its_choices_goes_on_to(world):
    names = ("x", "y")
    seen = Dict({"agents": Dict(dict.fromkeys(names, Box(-9, 9, (3,))))})
    acts = Dict(dict.fromkeys(names, Discrete(3)))
    w = world(algorithm="MADDPG", multi_agent={"policies_to_train": []})
    peer = Peer(w, specs=(GroupSpec("agent", seen, acts, 64),))
    assert isinstance(peer.hello(), Welcome)
    group = StepGroup(None, b"\1" * 64, bytes(4 * 64), [bytes(12 * 64)] * 2)
    (reply,) = peer.send(encode(Step(1, [group])))
    assert len(set(np.frombuffer(reply.groups[0].actions[0], "<i8").tolist())) == 3


def test_limits(world):
    w = world(server={"seed": 1, "max_lanes": 3, "max_sessions": 1})
    assert isinstance(Peer(w, b"a").hello(), Welcome)
    error = Peer(w, b"b").hello(run_id=b"b" * 16)
    assert error.code == "limit_exceeded"
    w = world(server={"seed": 1, "max_sessions": 1})
    assert isinstance(Peer(w, b"a").hello(), Welcome)
    assert Peer(w, b"b").hello(run_id=b"b" * 16).code == "limit_exceeded"


def test_the_window_is_kept_and_a_waiting_step_is_not_forgotten(world):
    w = world()  # nobody is answered
    peer = Peer(w, specs=(SPEC._replace(lanes=3),))
    peer.hello()
    frames = []
    for lane in range(3):
        lanes = np.array([lane], "<u4").tobytes()
        frames.append(peer.frame(lane + 1, flags=b"\1", lanes=lanes))
    assert peer.send(frames[0]) == []
    assert peer.send(frames[1]) == []
    for third in (frames[2], peer.frame(3, flags=b"\1" * 3)):
        (refused,) = peer.send(third)
        assert refused.code == "limit_exceeded"
    (event,) = peer.send(frames[0])
    assert (event.kind, event.seq) == ("wait", 1)


def test_live_sessions_never_share_random_numbers(free):
    peers = [Peer(free, bytes([i])) for i in range(3)]
    for i, peer in enumerate(peers[:2]):
        peer.hello(run_id=bytes([i]) * 16)
    peers[0].send(encode(Bye("done")))
    peers[2].hello(run_id=b"\2" * 16)
    keys = [
        set(group.desk.ledger.keys[group.slots].tolist())
        for session in free.gateway.sessions.by_id.values()
        for group in session.groups
    ]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_a_leaf_without_elements_is_harmless(free):
    space = Dict({"some": Box(-1, 1, (2,)), "none": Box(-1, 1, (0,))})
    peer = Peer(free, specs=(GroupSpec("agent", space, Discrete(2), 2),))
    assert isinstance(peer.hello(), Welcome)
    columns = [b"\0" * 16, b""]
    group = StepGroup(None, b"\1\1", b"\0" * 8, columns, None)
    (reply,) = peer.send(encode(Step(1, [group])))
    assert kind(reply) == "Actions"


def test_a_bad_row_never_gives_others_each_others_actions(free):
    """Two kinds of sessions at one desk, one bad row: rows and replies stay in the same order."""
    peers = [
        Peer(free, name, (SPEC._replace(lanes=n),)) for name, n in ((b"b", 2), (b"a", 2), (b"c", 1))
    ]
    for i, peer in enumerate(peers):
        peer.hello(run_id=bytes([i]) * 16)
    told: dict[int, int] = {}
    act = free.desk.act

    def listen(work):
        columns = act(work)
        told.update(zip(work.slots.tolist(), columns[0].tolist(), strict=True))
        return columns

    free.desk.act = listen
    for seq in range(1, 20):  # by chance, swapped actions may be equal
        bad = [[np.nan] * 3] * 2
        flags = b"\1\1" if seq == 1 else b"\0\0"
        out = dict(
            free.tick(
                (b"b", peers[0].frame(1, obs=bad)),
                (b"a", peers[1].frame(seq, flags=flags)),
                (b"c", peers[2].frame(seq, obs=[[5.0, 5.0, 5.0]], flags=flags[:1])),
            )
        )
        assert decode(out[b"b"]).code == "bad_observation"
        for session in free.gateway.sessions.by_id.values():
            if session.peer != b"b":
                (group,) = decode(out[session.peer]).groups
                slots = session.groups[0].slots.tolist()
                assert np.frombuffer(group.actions[0], "<i8").tolist() == [told[s] for s in slots]


def test_a_lane_acts_once_in_the_tick_in_which_its_waiting_request_goes(world):
    w = world(collection={"fragment_length": 8})  # training rests: the first STEP waits
    peer = Peer(w)
    peer.hello()
    assert peer.send(peer.frame(1)) == []
    w.gateway.train(None)
    answered, refused = peer.send(peer.frame(2, flags=b"\0\0"))
    assert (answered.seq, refused.code) == (1, "bad_lane")
    w.balances()
    (after,) = peer.send(peer.frame(2, flags=b"\0\0"))
    assert after.seq == 2
    w.balances()


def test_lanes_whose_rows_no_message_can_hold_cost_nothing_and_leave_again(free):
    peer = Peer(free, b"a", (SPEC,))
    peer.hello()
    wide = GroupSpec("agent", SPEC.observation_space, SPEC.action_space, 60_000)
    limit = free.gateway.config.max_message_bytes
    template = StepTemplate([(wide._replace(lanes=limit), free.desk)], limit)
    assert template.tail > limit
    other = Peer(free, b"b", (wide,))
    assert type(other.hello(run_id=b"b" * 16)).__name__ == "Welcome"
    assert free.desk.ledger.seated == 60_002
    other.send(encode(Bye("done")))
    assert free.desk.ledger.seated == free.desk.collector.lanes == 2


def test_answered_requests_do_not_pile_up_behind_one_that_waits(free):
    peer = Peer(free)
    peer.hello()
    peer.step()
    (session,) = free.gateway.sessions.by_id.values()
    session.requests[0].reply = None  # as if another policy's learner were busy
    session.unanswered = 1
    for _ in range(10):
        peer.step(flags=b"\0\0")
    assert len(session.requests) <= 3
    assert session.requests[0].seq == 1
