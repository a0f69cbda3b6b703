"""This project beside others that do the same job. `make peers` first.

    python -m tests.bench.peers.exchange     actions per second: RLlib's policy server, gRPC, echoes
    python -m tests.bench.peers.learning     seconds to CartPole-v1 475: Stable-Baselines3, RLlib
    python -m tests.bench.peers.report       docs/benchmarks/peers.md from what both wrote

Each peer lives in a virtual environment of its own (`requirements/`), and is driven by programs in
`programs/`, which import nothing of this project.
"""
