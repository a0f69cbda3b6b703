"""Simulators that call ML-Agents' unary `Exchange`, and wait for its answer.

    python grpc_client.py KIND SIMULATORS ADDRESS

KIND: as for the server. "bytes" sends a message packed beforehand.
"""

from __future__ import annotations

import random
import sys

import grpc
from grpc_messages import METHOD, METHOD_SERVICE, Message, request
from lockstep import EPISODE_STEPS, OBSERVATION_FLOATS, Play, Words, ask, one_by_one


def main() -> None:
    words = Words()
    kind, simulators, address = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    path = f"/{METHOD_SERVICE}/{METHOD}"

    def make(number: int) -> Play:
        rng = random.Random(number)
        observations = [
            [rng.gauss(0, 1) for _ in range(OBSERVATION_FLOATS)] for _ in range(EPISODE_STEPS)
        ]
        channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(channel).result(10)
        steps = 0
        if kind == "bytes":
            ready = request(observations[0], 1.0, False).SerializeToString()
            call = channel.unary_unary(path)
            return one_by_one(lambda: call(ready) and None)

        exchange = channel.unary_unary(path, Message.SerializeToString, Message.FromString)

        def step() -> None:
            nonlocal steps
            turn = steps % EPISODE_STEPS
            answer = exchange(request(observations[turn], 1.0, turn == 0))
            _ = answer.unity_input.rl_input.agent_actions[0].value.value[0].discrete_actions[0]
            steps += 1

        return one_by_one(step)

    ask(words, simulators, make)


if __name__ == "__main__":
    main()
