"""`python -m arena_sim`: many arenas as one simulator of a policy server."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from arena_sim.arenas import Arenas
from arena_sim.render import Screen
from arena_sim.rules import AGENTS
from arena_sim.simulator import POLICY, ArenaSimulator, groups
from sim_clients.client import Client
from sim_clients.errors import ClientError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m arena_sim",
        description="Plays the MultiAgentArena with the policies of a policy server.",
    )
    result.add_argument("--address", required=True, help="of the server: tcp://HOST:PORT, ipc://")
    result.add_argument("--arenas", type=_positive, default=8, help="stepped together (8)")
    result.add_argument("--size", type=_positive, default=10, help="cells per side (10)")
    result.add_argument("--steps", type=_positive, default=100, help="of an episode (100)")
    result.add_argument("--render", action="store_true", help="show the first arena as text")
    result.add_argument("--seed", type=int, help="of the baselines; the arenas draw nothing")
    result.add_argument("--identity", help="a stable name of this simulator over restarts")
    for agent, names in zip(
        AGENTS, (("random", "boustrophedon"), ("random", "chaser")), strict=True
    ):
        result.add_argument(
            f"--{agent}",
            choices=(POLICY, *names),
            default=POLICY,
            help="who plays it: the server's policy (default) or a baseline in this process",
        )
    result.add_argument("--episodes", type=_positive, help="stop after so many, of all arenas")
    result.add_argument("--max-seconds", type=float, help="stop after so long")
    return result


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


@contextmanager
def stopped_by_signals(simulator: ArenaSimulator) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the simulator's loop instead of the process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: simulator.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """Connects, plays, says goodbye. Returns the exit code: 2 where the server refused us."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    try:
        arenas = Arenas(options.arenas, options.size, options.size, options.steps)
        declared = groups(arenas, options.agent1, options.agent2)
        client = Client(options.address, declared, identity=options.identity)
    except ValueError as error:
        command_line.error(str(error))

    simulator = ArenaSimulator(client, arenas, options.agent1, options.agent2, options.seed)
    watch = Screen(sys.stdout).show if options.render else None
    with client, stopped_by_signals(simulator):
        try:
            simulator.run(options.episodes, options.max_seconds, watch=watch)
        except ClientError as error:
            print(f"{command_line.prog}: {error}", file=sys.stderr)
            return 2
    report(simulator)
    return 0


def report(simulator: ArenaSimulator) -> None:
    """Prints what the episodes that ended brought."""
    returns = simulator.returns
    means = "  ".join(f"{agent} {returns.mean(agent):.2f}" for agent in AGENTS)
    print(
        f"{returns.episodes} episodes  mean return: {means}" if returns.episodes else "0 episodes"
    )


if __name__ == "__main__":
    sys.exit(main())
