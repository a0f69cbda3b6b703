"""Simulators on RLlib's `PolicyClient`.

    python rllib_client.py WAY SIMULATORS ADDRESS…

WAY: "remote", where the server computes actions, "local", where the client fetches the weights and
does, or "example": remote as well, with a client made as in RLlib's example. One action is what a
simulator's loop needs for it, `get_action` and `log_returns`; every 200 there are `end_episode` and
`start_episode` as well.
"""

from __future__ import annotations

import sys
from typing import Any

from lockstep import EPISODE_STEPS, OBSERVATION_FLOATS, Play, Words, ask, one_by_one


def main() -> None:
    words = Words()
    import numpy as np
    from ray.rllib.env.policy_client import PolicyClient

    way, simulators, addresses = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    mode = "remote" if way == "example" else way

    def make(number: int) -> Play:
        session = None if way == "example" else _session()
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

        return one_by_one(step)

    ask(words, simulators, make)


def _session() -> Any:
    """The documentation: "using a session can lead to speedups"."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    session.trust_env = False  # most of what is gained: no look for proxies at every request
    # The server lets five connections wait, and each request is a new one.
    again = Retry(total=50, allowed_methods=None, backoff_factor=0.001)
    session.mount("http://", HTTPAdapter(max_retries=again))
    return session


if __name__ == "__main__":
    main()
