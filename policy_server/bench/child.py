"""Processes that take part in a benchmark, and the pipes to them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

PATIENCE_S = 120.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""As Ray has it for actors without cores of their own, where the gateway lives."""


class Child:
    """A process that we started: `main(pipe, *arguments)`."""

    def __init__(self, main: Callable[..., None], *arguments: Any):
        # A forked child would inherit threads and sockets.
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=main, args=(theirs, *arguments))
        with _environment(ONE_THREAD):
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, word: Any) -> Any:
        self.pipe.send(word)
        return self.hear()

    def hear(self) -> Any:
        """What it says next.

        Raises:
            RuntimeError: it died, or said nothing.
        """
        try:
            if self.pipe.poll(PATIENCE_S):
                return self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("a process of the benchmark died; its words are above") from None
        raise RuntimeError(f"a process of the benchmark said nothing for {PATIENCE_S} s")

    def end(self, patience_s: float = 20.0) -> None:
        """Waits for it to end by itself; then it is killed."""
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self.pipe.close()


@contextmanager
def children(*started: Child) -> Iterator[tuple[Child, ...]]:
    """They end by themselves, unless something goes wrong here."""
    try:
        yield started
    except BaseException:
        for child in started:
            child.end(0)
        raise
    for child in started:
        child.end()


class Answering(Protocol):
    """Whoever the load is sent to."""

    address: str

    def books(self) -> dict[str, Any]:
        """At least "cpu_s", CPU seconds so far; of a gateway, its report, too."""
        ...


@dataclass
class Serving:
    """A server in a process of its own: a gateway, or an echo."""

    child: Child
    address: str

    def books(self) -> dict[str, Any]:
        books: dict[str, Any] = self.child.ask("books")
        return books


@contextmanager
def serving(main: Callable[..., None], *arguments: Any) -> Iterator[Serving]:
    """Starts a server, and stops it."""
    with children(Child(main, *arguments)) as (child,):
        yield Serving(child, child.hear())
        child.pipe.send("stop")


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """For whoever is started meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
