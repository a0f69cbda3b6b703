"""Runs a simulator's module until it ends, or until whoever started it is gone.

    python -m sim_clients.guard sim_clients.gymnasium CartPole-v1 --num-envs 8

is `python -m sim_clients.gymnasium CartPole-v1 --num-envs 8` in this same process: same output,
same exit code. In addition, standard input must be a pipe whose other end the owner keeps open.
The kernel closes that end however the owner dies, SIGKILL included, and on every platform; then
the simulator gets SIGTERM, and after `GRACE_S` no more time.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 5.0
"""Seconds to end in after the owner has gone."""
_ABANDONED = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


def watch_owner() -> None:
    """Takes over standard input; from now on its end is this process's end.

    The environments find an empty standard input instead.
    """
    pipe = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_outlive_nobody, args=(pipe,), name="guard", daemon=True).start()


def _outlive_nobody(pipe: int) -> None:
    """On its own thread, because the simulator has the main one."""
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    # An environment that is stuck in C code never gets to see the signal.
    os._exit(_ABANDONED)


def main() -> None:
    """The command: a module's name, then that module's own arguments."""
    if len(sys.argv) < 2:
        print(
            "expected a module's name and its arguments: python -m sim_clients.guard "
            "sim_clients.gymnasium CartPole-v1",
            file=sys.stderr,
        )
        raise SystemExit(2)
    del sys.argv[0]
    watch_owner()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
