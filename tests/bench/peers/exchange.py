"""Actions per second, this project's and others', by turns on the same machine.

    python -m tests.bench.peers.exchange [--simulators 1,16] [--json FILE]

Machines are noisy: each repeat measures every side one behind the other, a ratio is taken within
its repeat, and the median of these is reported. What FILE holds of other numbers of simulators
stays in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

from tests.bench.peers import ours
from tests.bench.peers.program import OWN, Program
from tests.bench.peers.records import load, save, spread, stamp

BARE, LOCAL = "ours, bare ZeroMQ sockets", "ours, bare local sockets"
CLIENT = "ours, Python client"
OVER = {BARE: "bare_over_it", LOCAL: "local_over_it", CLIENT: "client_over_it"}
SETTLE_S = 0.05


class Measured(Protocol):
    """A server that stands and simulators for it."""

    def window(self, seconds: float, warmup_s: float) -> Window: ...


@dataclass(frozen=True)
class Window:
    """What all simulators together saw: actions per second, microseconds of a round trip."""

    actions_per_s: float
    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, latencies_us: list[int], seconds: float) -> Window:
        """Raises ValueError: fewer than two actions, from which nothing follows."""
        if len(latencies_us) < 2:
            raise ValueError(f"expected at least 2 actions in {seconds} s, got {latencies_us}.")
        p99 = quantiles(latencies_us, n=100, method="inclusive")[98]
        return cls(len(latencies_us) / seconds, float(median(latencies_us)), p99)


@dataclass(frozen=True)
class Peer:
    """Programs of a peer, and what of ours they are compared with.

    Attributes:
        beside: the side of ours whose simulators are made alike.
        server, client: program, then arguments; the client's end with the server's addresses.
        threads: of torch and its like, in the server.
    """

    environment: str
    beside: str
    server: tuple[object, ...]
    client: tuple[object, ...]
    threads: int = 1

    def serve(self) -> Program:
        return Program(self.environment, *self.server, threads=self.threads)

    def ask(self, addresses: list[str]) -> Program:
        return Program(self.environment, *self.client, *addresses)


@contextmanager
def standing(peers: dict[str, Peer]) -> Iterator[dict[str, Measured]]:
    """Servers and simulators, connected. Peers that differ only in their simulators share one
    server, so that as little as possible runs beside what is measured."""
    with ExitStack() as stack:
        servers: dict[tuple[object, ...], list[str]] = {}
        sides: dict[str, Measured] = {}
        for name, peer in peers.items():
            key = (peer.environment, peer.threads, *peer.server)
            if key not in servers:
                serving = peer.serve()
                stack.callback(serving.end)
                servers[key] = serving.hear()
            asking = peer.ask(servers[key])
            stack.callback(asking.end)
            asking.hear()
            sides[name] = Asking(asking)
        yield sides


@dataclass(frozen=True)
class Asking:
    """Simulators in a program of their own."""

    program: Program

    def window(self, seconds: float, warmup_s: float) -> Window:
        begin = time.perf_counter() + SETTLE_S + warmup_s
        self.program.tell([begin, begin + seconds])
        return Window.of(self.program.hear(), seconds)


@dataclass(frozen=True)
class Own:
    """A side of ours, or the ZeroMQ echo: measured as in the project's own benchmark."""

    measure: Callable[[float, float], Any]

    def window(self, seconds: float, warmup_s: float) -> Window:
        trial = self.measure(seconds, warmup_s)
        return Window(trial.messages_per_s, trial.p50_us, trial.p99_us)


ECHO = "ZeroMQ echo"
RLLIB = "RLlib policy server"


def peers(simulators: int) -> dict[str, Peer]:
    """All that are measured with so many simulators."""
    request, answer = ours.frame_bytes()
    processes = min(ours.PACKED, simulators)
    rllib = "rllib-2.30"
    sides = {
        "epoll echo, unix socket": Peer(
            OWN,
            LOCAL,
            ("unix_server.py", answer),
            ("unix_client.py", request, simulators, processes),
        ),
        "gRPC echo, bytes": Peer(
            "grpc", CLIENT, ("grpc_server.py", "bytes"), ("grpc_client.py", "bytes", simulators)
        ),
        "gRPC echo, ML-Agents' messages": Peer(
            "grpc",
            CLIENT,
            ("grpc_server.py", "protobuf"),
            ("grpc_client.py", "protobuf", simulators),
        ),
        RLLIB: Peer(
            rllib, CLIENT, ("rllib_server.py", 0), ("rllib_client.py", "remote", simulators)
        ),
        "RLlib, local inference": Peer(
            rllib, CLIENT, ("rllib_server.py", 0), ("rllib_client.py", "local", simulators)
        ),
    }
    if simulators == 1:
        sides["RLlib policy server, nothing tuned"] = Peer(
            rllib,
            CLIENT,
            ("rllib_server.py", 0),
            ("rllib_client.py", "example", simulators),
            threads=2,
        )
    else:
        sides["RLlib policy server, two ports"] = Peer(
            rllib, CLIENT, ("rllib_server.py", 2), ("rllib_client.py", "remote", simulators)
        )
    return sides


def run(
    simulators: int,
    repeats: int,
    seconds: float,
    warmup_s: float,
    chosen: dict[str, Peer],
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures `chosen` and ours; everything stands all the time, and one at a time is asked."""
    with ExitStack() as stack:
        beside = {name: peer.beside for name, peer in chosen.items()} | {ECHO: BARE}
        tell(f"{simulators} simulators: starting {', '.join(chosen)}")
        sides = stack.enter_context(standing(chosen))
        own = stack.enter_context(ours.standing(simulators))
        keys = {BARE: "bare", LOCAL: "local", CLIENT: "client", ECHO: "echo"}
        first = {name: Own(own[key]) for name, key in keys.items()}
        windows: dict[str, list[Window]] = {name: [] for name in (*first, *sides)}
        for repeat in range(repeats):
            for name, side in {**first, **sides}.items():
                tell(f"{simulators} simulators: {name}, {repeat + 1} of {repeats}")
                windows[name].append(side.window(seconds, warmup_s))
    return rows(simulators, windows, beside)


def rows(
    simulators: int, windows: dict[str, list[Window]], beside: dict[str, str]
) -> dict[str, Any]:
    """The record: per side its windows, and ours over theirs repeat by repeat."""
    sides = {}
    for name, mine in windows.items():
        entry: dict[str, Any] = {
            "actions_per_s": spread([window.actions_per_s for window in mine]),
            "p50_us": spread([window.p50_us for window in mine]),
            "p99_us": spread([window.p99_us for window in mine]),
            "windows": [vars(window) for window in mine],
        }
        if name in beside:
            entry["beside"] = beside[name]
            for other, key in OVER.items():
                pairs = zip(windows[other], mine, strict=True)
                entry[key] = spread([a.actions_per_s / b.actions_per_s for a, b in pairs])
        sides[name] = entry
    return {"simulators": simulators, "sides": sides}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers.exchange")
    parser.add_argument("--simulators", default="1,16", help="with commas; default 1,16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    parser.add_argument("--warmup", type=float, default=0.4, help="seconds of load before it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every window")
    given = parser.parse_args(arguments)
    kept = load(given.json)
    for simulators in (int(part) for part in given.simulators.split(",")):
        record = run(
            simulators,
            given.repeats,
            given.seconds,
            given.warmup,
            peers(simulators),
            lambda text: print(text, file=sys.stderr, flush=True),
        )
        record |= {"seconds": given.seconds, "repeats": given.repeats, **stamp()}
        kept[str(simulators)] = record
        save(given.json, kept)
    from tests.bench.peers.report import exchange_table, print_table

    print_table("actions per second, side by side", *exchange_table(kept))


if __name__ == "__main__":
    main()
