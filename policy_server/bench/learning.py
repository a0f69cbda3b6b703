"""W5: W1 and W3 while a learner learns. The same server with its learner at rest is the limit.

The whole product runs: gateway, Ray, a learner process that steps aside for the gateway
(`learners.idle_first`). Twice: on all cores together, and with a core set aside for the
learner, which shows what is left of its influence where cores allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from policy_server.bench import generator
from policy_server.bench.child import Serving
from policy_server.bench.child import serving as started
from policy_server.bench.figure import (
    Figure,
    Result,
    Spread,
    Tell,
    at_least,
    at_most,
    by_turns,
    compare,
)
from policy_server.bench.plan import Plan
from policy_server.bench.resources import allow_many_sockets, available, pin
from policy_server.bench.trial import Simulators, Trial, connected
from policy_server.bench.workloads import MANY, WIDE, Workload

W1_TRAINING = {"train_batch_size": 4096, "minibatch_size": 256, "num_epochs": 10}
W3_TRAINING = {"train_batch_size": WIDE.batch_steps, "minibatch_size": 4096, "num_epochs": 4}
WORKLOADS = {
    "W1": replace(MANY, sections={"training": W1_TRAINING}),
    "W3": replace(WIDE, sections={"training": W3_TRAINING}),
}
REST, LEARN = "rest", "learn"
TURNS_PER_REPEAT = 2
"""Of the plan. Each takes so much less time."""
LITTLE = 0.1
"""Of a core. A learner that uses less cannot be felt."""


def learning(plan: Plan, tell: Tell) -> Result:
    """By turns with the learner at rest and at work: more of them, and shorter, than elsewhere,
    for the ratio is closer to 1 than two seconds of a machine are to one another."""
    plan = replace(
        plan,
        repeats=TURNS_PER_REPEAT * plan.repeats,
        seconds=plan.seconds / TURNS_PER_REPEAT,
        warmup_s=plan.warmup_s / TURNS_PER_REPEAT,
    )
    everywhere = available()
    places = {"shared cores": (everywhere, everywhere)}
    if len(everywhere) > 1:
        places["learner's own core"] = (everywhere[:-1], everywhere[-1:])
    figures: list[Figure] = []
    trials: dict[str, list[Trial]] = {}
    for name, workload in WORKLOADS.items():
        with started(serve, plan.bind_for("learning"), workload) as server:
            _await(server, lambda books: _policy(books)["learner_pid"] is not None)
            with connected(server, workload, generator.local) as simulators:
                # One place after the other: who was moved to other cores takes a while to settle.
                for place, (ours, learners) in places.items():
                    sides: dict[str, Callable[[], Trial]] = {
                        f"{name}, {place}, {word}": partial(
                            _measure, server, simulators, plan, word, ours, learners
                        )
                        for word in (REST, LEARN)
                    }
                    trials |= by_turns("W5", sides, plan, tell)
            server.child.ask(REST)
            _await(server, _rests)
        for place in places:
            rest, learn = (trials[f"{name}, {place}, {word}"] for word in (REST, LEARN))
            beside = "learner at rest"
            figures += [
                compare(f"{name}, {place}", "messages_per_s", "/s", learn, rest, beside, at_least(0.9)),
                compare(f"{name}, {place}, p99", "p99_us", "µs", learn, rest, beside, at_most(1.5)),
            ]  # fmt: skip
    method = (
        f"{plan.repeats} windows of {plan.seconds:g} s, the simulators connected all the time, one "
        "place of the learner after the other. At rest it gets no steps, and none are recorded."
    )
    notes = (method, *(_worked(side, of) for side, of in trials.items() if side.endswith(LEARN)))
    return Result("W5", "W1 and W3 while the learner learns", tuple(figures), trials, notes=notes)


def _worked(side: str, trials: list[Trial]) -> str:
    """How much there was to feel."""
    share = Spread.of([trial.learner_cpu or 0.0 for trial in trials])
    felt = ": too little to be felt, the figure says nothing" if share.median < LITTLE else ""
    return f"{side}: the learner used {share.median:.0%} of a core meanwhile{felt}"


def _policy(books: dict[str, Any]) -> dict[str, Any]:
    (policy,) = books["policies"].values()
    found: dict[str, Any] = policy
    return found


def _rests(books: dict[str, Any]) -> bool:
    return bool(_policy(books)["state"] != "learning")


def _await(server: Serving, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + 60.0
    while not condition(books := server.books()):
        if time.monotonic() > until:
            raise RuntimeError(f"the learner did not come to what was asked: {_policy(books)}")
        time.sleep(0.05)
    return books


def _measure(
    server: Serving,
    simulators: Simulators,
    plan: Plan,
    word: str,
    ours: list[int],
    learners: list[int],
) -> Trial:
    books = server.child.ask(word)
    if word == REST:
        books = _await(server, _rests)
    learner = _policy(books)["learner_pid"]
    pin(server.child.pid, ours)
    pin(learner, learners)
    return simulators.measure(plan, ours, learner)


def serve(pipe: Connection, bind: str, workload: Workload) -> None:
    """The gateway as Ray's actor has it, in a process of its own, with its learner in another.

    `pipe` says "books", "learn", "rest" or "stop".
    """
    from policy_server.server import start_ray
    from policy_server.server.gateway_actor import GatewayActor
    from policy_server.settings import Settings

    allow_many_sockets()
    start_ray(None)
    gateway = GatewayActor()
    settings = Settings.from_mapping(workload.settings(bind))
    address = gateway.open(settings, 0.0, {})
    gateway.serve(None, None, 0)
    pipe.send(address)
    while (word := pipe.recv()) != "stop":
        if word != "books":
            gateway.train(None if word == LEARN else 0)
        pipe.send({"cpu_s": time.process_time(), **gateway.report()})
    gateway.stop(True)
