"""Simulators on RLlib's `PolicyClient`.

    python rllib_client.py MODE SIMULATORS ADDRESS…

MODE: "remote", where the server computes actions, or "local", where the client fetches the weights
and does. One action is what a simulator's loop needs for it, `get_action` and `log_returns`; every
200 there are `end_episode` and `start_episode` as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from lockstep import EPISODE_STEPS, OBSERVATION_FLOATS, Words, ask


def main() -> None:
    words = Words()
    import numpy as np
    import requests
    from ray.rllib.env.policy_client import PolicyClient

    mode, simulators, addresses = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

    def make(number: int) -> Callable[[], None]:
        # The documentation: "using a session can lead to speedups".
        session = requests.Session()
        session.trust_env = False  # no proxies, no .netrc: those cost, too
        client = PolicyClient(addresses[number % len(addresses)], mode, session=session)
        rng = np.random.default_rng(number)
        observations = rng.standard_normal((EPISODE_STEPS, OBSERVATION_FLOATS), np.float32)
        episode = client.start_episode()
        steps = 0

        def step() -> None:
            nonlocal episode, steps
            turn = steps % EPISODE_STEPS
            if steps and not turn:
                client.end_episode(episode, observations[0])
                episode = client.start_episode()
            client.get_action(episode, observations[turn])
            client.log_returns(episode, 1.0)
            steps += 1

        return step

    ask(words, simulators, make)


if __name__ == "__main__":
    main()
