"""What the runners' commands share: arguments, a polite end, one sentence per error."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from sim_clients.client import Client
from sim_clients.errors import ClientError, ServerClosed


class UsageError(Exception):
    """The command was asked for something that cannot be; one sentence says what and why."""


def parser(command: str, what: str, metavar: str) -> argparse.ArgumentParser:
    """The arguments every runner takes."""
    result = argparse.ArgumentParser(prog=f"python -m {command}", description=what)
    result.add_argument("env", metavar=metavar)
    result.add_argument("--address", default="tcp://127.0.0.1:5555", help="of the policy server")
    result.add_argument("--num-envs", type=int, default=1, help="environments in this process")
    result.add_argument("--seed", type=int, help="of the first environment; the others count on")
    result.add_argument("--identity", help="a name that stays the same over restarts")
    result.add_argument("--token", help="what the server's operator gave out")
    result.add_argument("--env-kwargs", type=_json_object, default={}, metavar="JSON")
    result.add_argument("--action-mask", action="store_true", help="the environment gives masks")
    result.add_argument(
        "--pipelined",
        action="store_true",
        help="half of the environments step while the others wait for actions",
    )
    result.add_argument("--episodes", type=int, help="stop after so many; default: never")
    result.add_argument("--steps", type=int, help="stop after so many; default: never")
    return result


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def run_politely(work: Callable[[], Any]) -> int:
    """Runs until done or told to stop (SIGINT, SIGTERM). Returns the exit code."""
    # Shells start what runs in the background with SIGINT ignored; who sends one means it.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _interrupt) for number in signals]
    try:
        work()
    except KeyboardInterrupt:
        return 0
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except ServerClosed as error:
        print(error, file=sys.stderr)
        return 0  # it was asked to end, and did
    except ClientError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def make_client(address: str, groups: Any, **options: Any) -> Client:
    """A client, or a `UsageError` where the address or a space is none."""
    try:
        return Client(address, groups, **options)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None


def check_count(name: str, value: int) -> int:
    """Raises UsageError unless `value` is at least 1."""
    if value < 1:
        raise UsageError(f"{name}: expected at least 1, got {value}.")
    return value
