"""RLlib's `PolicyServerInput`, as its example `cartpole_server.py` sets it up.

    python rllib_server.py PORTS

PORTS: 0 runs one server in this process (`num_env_runners=0`); more: so many, each in a process
of its own on a port of its own (`num_env_runners=PORTS`), as the example's `--num-workers` does.

Nobody calls `train`, as its example does beside it: no learner competes for the cores. As with our
server here, actions are computed and experience is gathered, and it is dropped where learning would
begin.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from lockstep import ACTIONS, OBSERVATION_FLOATS, Words, serve

PATIENCE_S = 60.0


def main() -> None:
    words = Words()
    import gymnasium as gym
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.policy_server_input import PolicyServerInput

    runners = int(sys.argv[1])
    ports = _free_ports(max(1, runners))

    def input_(context: Any) -> Any:
        index = context.worker_index
        if index == 0 and runners:
            return None
        return PolicyServerInput(context, "127.0.0.1", ports[max(0, index - 1)])

    # More than there are: RLlib asks for a core per process before it starts one.
    ray.init(address="local", num_cpus=runners + 1, include_dashboard=False, log_to_driver=False)
    algorithm = (
        PPOConfig()
        .environment(
            env=None,
            observation_space=gym.spaces.Box(float("-inf"), float("inf"), (OBSERVATION_FLOATS,)),
            action_space=gym.spaces.Discrete(ACTIONS),
        )
        .framework("torch")
        # The example: external environments work with neither.
        .api_stack(enable_rl_module_and_learner=False)
        .env_runners(num_env_runners=runners, enable_connectors=False, rollout_fragment_length=1000)
        .evaluation(off_policy_estimation_methods={})
        .training(
            train_batch_size=4000,
            model={"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh"},
        )
        .offline_data(input_=input_)
        .build()
    )
    for port in ports:
        _wait_for(port)
    serve(words, [f"http://127.0.0.1:{port}" for port in ports])
    algorithm.stop()
    ray.shutdown()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
