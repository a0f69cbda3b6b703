"""`policy-server`: flags in, settings out. What is done with them is done elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from policy_server.errors import CheckpointError, ConfigError, PolicyServerError

FREE_PORT = "tcp://127.0.0.1:*"
ROOM = {"what it is": 110, "own distributions": 145, "bfloat16": 145}
"""Columns of a terminal that has room for this, too."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="policy-server")
def main() -> None:
    """A server that learns to act in simulators which connect to it."""
    _look_here()


def _look_here() -> None:
    """Modules of the user's own are found in the working directory: by this process, and by those
    that it starts."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{known}{os.pathsep}{here}" if known else here


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong on purpose is one sentence and exit code 2."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except PolicyServerError as error:
            click.echo(f"policy-server: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("policy-server: stopped.", err=True)
            sys.exit(130)

    return wrapper


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags of everything that runs a server."""
    for option in reversed(
        [
            click.option("--bind", help="ZeroMQ address to listen on; port * takes a free one."),
            click.option(
                "--insecure",
                is_flag=True,
                help="Allow an address that other machines can reach: everyone there can then see, steer and stop the training.",
            ),
            click.option(
                "--run-dir",
                type=click.Path(path_type=Path),
                help="Folder for metrics and checkpoints [runs/…].",
            ),
            click.option("--resume", is_flag=True, help="Go on with the run in --run-dir."),
            click.option("--force", is_flag=True, help="Overwrite the run in --run-dir."),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="One setting, such as training.lr=1e-3. Repeatable.",
            ),
            click.option("--seed", type=int, help="Of everything that draws."),
            click.option("--device", help="auto, cpu, cuda, …: of learners and inference."),
            click.option("--ray-address", help="Ray cluster to join; otherwise Ray starts here."),
            click.option("--stop-steps", type=int, help="Stop after so many environment steps."),
            click.option("--stop-return", type=float, help="Stop at this mean return."),
            click.option("--stop-seconds", type=float, help="Stop after so long."),
            click.option(
                "--json",
                "as_json",
                is_flag=True,
                help="Last line of standard output: one JSON object.",
            ),
            click.option("-v", "--verbose", is_flag=True, help="Show the settings in force, too."),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "algorithm",
    default="PPO",
    show_default=True,
    help="Algorithm, if the config names none.",
)
@common
@reported
def serve(config: Path | None, algorithm: str, **flags: Any) -> None:
    """Waits for simulators and learns from whoever comes.

    CONFIG is a settings file (.toml, .yaml). Ctrl-C or SIGTERM drains, writes a last checkpoint,
    tells the simulators and exits; --resume goes on from there.
    """
    _run(algorithm, config, {}, flags, final=False)


@main.command()
@click.option("--run", "algorithm", default="PPO", show_default=True, help="Algorithm.")
@click.option("--env", help="Gymnasium id, 'arena', or 'pettingzoo:MODULE'.")
@click.option("--num-sims", type=int, help="Simulator processes.")
@click.option("--lanes", type=int, help="Environments per simulator.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file, on top of the preset."
)
@click.option(
    "--preset/--no-preset",
    "use_preset",
    default=True,
    help="Begin with the tuned settings that ship for this environment, if any.",
)
@common
@reported
def train(
    algorithm: str,
    env: str | None,
    num_sims: int | None,
    lanes: int | None,
    config: Path | None,
    use_preset: bool,
    **flags: Any,
) -> None:
    """Starts simulators as processes of their own, and learns from them."""
    environment = {} if env is None else {"environment": {"env": env}}
    simulators = {k: v for k, v in {"num": num_sims, "lanes": lanes}.items() if v is not None}
    mapping = {**environment, "simulators": simulators}
    defaults = {"server": {"bind": FREE_PORT}, "simulators": {"num": 2}}
    _run(algorithm, config, mapping, flags, final=True, use_preset=use_preset, defaults=defaults)


def _run(
    algorithm: str,
    config: Path | None,
    mapping: dict[str, Any],
    flags: dict[str, Any],
    *,
    final: bool,
    use_preset: bool = False,
    defaults: dict[str, Any] | None = None,
) -> None:
    began = time.monotonic()
    from policy_server.address import check_address
    from policy_server.algorithm import Algorithm
    from policy_server.display import Display
    from policy_server.metrics.recorder import Recorder
    from policy_server.metrics.run_dir import forget_run_dir, prepare_run_dir
    from policy_server.run import Run, Stop, summary

    run_dir, resume = flags["run_dir"], flags["resume"]
    if resume and run_dir is None:
        raise ConfigError("--resume: expected --run-dir with the run to go on with, got none.")
    stored = run_dir / "settings.json" if resume else None
    layers = (defaults or {}, mapping)
    settings, used = _settings(algorithm, config, layers, flags, stored, use_preset)
    check_address(settings.server.bind, settings.server.insecure)
    run_dir = run_dir or _new_run_dir(settings)
    settings = _with_server(settings, run_dir=str(run_dir))
    console = _console(flags["as_json"])
    prepare_run_dir(run_dir, settings.to_mapping(), resume=resume, force=flags["force"])
    title = f"{settings.algorithm} · {settings.environment.env or 'external simulators'}"
    stop = Stop(flags["stop_steps"], flags["stop_return"], flags["stop_seconds"])
    if flags["verbose"]:
        console.print_json(json.dumps(settings.to_mapping()))
    if used:
        console.print(f"preset: {used}")
    checkpoint = _latest(run_dir) if resume else None
    try:
        algo = Algorithm(settings, checkpoint=checkpoint)
    except PolicyServerError:
        if not resume:
            forget_run_dir(run_dir)  # nothing has run: the corrected command may use it
        raise
    with algo:
        console.print(f"listening on {algo.address}, run folder {run_dir}")
        recorder = Recorder(run_dir)
        display = Display(
            console, title, stop_steps=stop.env_steps, stop_return=stop.episode_return
        )
        run = Run(algo, recorder, display)
        status = run.until(stop)
        recorder.close()
        result = summary(run, status, stop, time.monotonic() - began)
        algo.stop(final=final)
    console.print(f"checkpoint: {run.checkpoint}")
    if flags["as_json"]:
        click.echo(json.dumps(result))


def _settings(
    algorithm: str,
    config: Path | None,
    layers_around: tuple[dict[str, Any], dict[str, Any]],
    flags: dict[str, Any],
    stored: Path | None,
    use_preset: bool,
) -> tuple[Any, str | None]:
    """Defaults < preset < stored run < file < flags. Returns the settings and the preset's name."""
    from policy_server.settings import Settings, apply_overrides, load_file, merge, preset

    defaults, mapping = layers_around
    layers: list[dict[str, Any]] = []
    if stored is not None:
        if not stored.is_file():
            raise ConfigError(
                f"{stored.parent}: expected a run folder to resume, got one without settings.json."
            )
        layers.append(load_file(stored))
    if config is not None:
        layers.append(load_file(config))
    layers.append(mapping)
    known = merge(*layers)
    algorithm = known.get("algorithm", algorithm)
    env = known.get("environment", {}).get("env")
    used = None
    tuned = preset(algorithm, env) if use_preset and env and stored is None else None
    if tuned is not None:
        used = f"{algorithm}-{env}"
        known = merge(tuned, known)
    known = merge(defaults, known)
    known["algorithm"] = algorithm
    server = {
        "bind": flags["bind"], "seed": flags["seed"], "ray_address": flags["ray_address"],
        "insecure": flags["insecure"] or None,
    }  # fmt: skip
    known = merge(known, {"server": {k: v for k, v in server.items() if v is not None}})
    if flags["device"]:
        device = {"device": flags["device"]}
        known = merge(known, {"learners": device, "inference": device})
    settings = Settings.from_mapping(apply_overrides(known, list(flags["overrides"])))
    if settings.server.seed is None:
        settings = _with_server(settings, seed=secrets.randbelow(2**31))
    return settings, used


def _with_server(settings: Any, **changes: Any) -> Any:
    return dataclasses.replace(settings, server=dataclasses.replace(settings.server, **changes))


def _new_run_dir(settings: Any) -> Path:
    name = f"{settings.algorithm}-{settings.environment.env or 'serve'}"
    name = name.replace("/", "_").replace(":", "_")
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _latest(run_dir: Path) -> Path:
    from policy_server.checkpoints.store import CheckpointStore

    folder = run_dir / "checkpoints"
    if CheckpointStore(folder).latest() is None:
        raise CheckpointError(
            f"{folder}: expected a checkpoint to resume from, got none; start again with --force."
        )
    return folder


def _console(as_json: bool) -> Any:
    """With --json, standard output is for the object alone."""
    from rich.console import Console

    return Console(stderr=as_json)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Greedy episodes per policy.",
)
@click.option("--env", help="Another environment than the one it was trained in.")
@click.option("--bind", help="Wait for external simulators here instead of starting some.")
@click.option("--insecure", is_flag=True, help="Allow --bind to an address others can reach.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option(
    "--json", "as_json", is_flag=True, help="Last line of standard output: one JSON object."
)
@reported
def evaluate(
    checkpoint: Path,
    episodes: int,
    env: str | None,
    bind: str | None,
    insecure: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Plays greedy episodes with the policies of a checkpoint."""
    from policy_server.algorithm import Algorithm
    from policy_server.checkpoints.store import CheckpointStore
    from policy_server.display import summary_table
    from policy_server.settings import Settings, apply_overrides, merge

    stored = CheckpointStore(checkpoint).load(checkpoint).settings
    change: dict[str, Any] = {
        "server": {"bind": bind or FREE_PORT, "run_dir": None, "insecure": insecure},
        "multi_agent": {"policies_to_train": []},
    }
    if env:
        change["environment"] = {"env": env}
    if bind:
        change["simulators"] = {"num": 0}
    mapping = merge(stored, change)
    if not bind and not mapping["environment"].get("env"):
        raise ConfigError(
            "the checkpoint was trained with external simulators: say --env, or --bind and let simulators connect."
        )
    if not bind and not mapping["simulators"].get("num"):
        mapping = merge(mapping, {"simulators": {"num": 1}})
    settings = Settings.from_mapping(apply_overrides(mapping, list(overrides)))
    console = _console(as_json)
    with Algorithm(settings, checkpoint=checkpoint) as algo:
        if bind:
            console.print(f"waiting for simulators on {algo.address}")
        result = algo.evaluate(episodes)
    rows = [
        {
            "policy": name,
            "episodes": entry["episodes"],
            "return mean": round(entry["episode_return_mean"], 2),
            "min": round(entry["episode_return_min"], 2),
            "max": round(entry["episode_return_max"], 2),
            "length": round(entry["episode_length_mean"], 1),
        }
        for name, entry in result["policies"].items()
    ]
    console.print(summary_table(rows))
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint), **result}))


@main.command("algorithms")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
@reported
def list_algorithms(as_json: bool) -> None:
    """Lists the algorithms, with what each supports."""
    from policy_server import algorithms
    from policy_server.display import summary_table

    rows = []
    for name in algorithms.names():
        training = algorithms.training_class(name)
        supports = training.supports
        rows.append(
            {
                "algorithm": name,
                "what it is": training.title,
                "actions": supports.actions if not supports.all_kinds else "any",
                "for": "groups" if supports.groups else "agents",
                "masks": supports.mask,
                "memory": supports.recurrent,
                "intrinsic rewards": supports.intrinsic,
                "own distributions": supports.heads,
                "bfloat16": supports.precision,
                "collects": training.mode,
            }
        )
    if as_json:
        click.echo(json.dumps({row.pop("algorithm"): row for row in rows}))
        return
    words = {True: "yes", False: "no"}
    console = _console(False)
    rows = [{k: v for k, v in row.items() if console.width >= ROOM.get(k, 0)} for row in rows]
    console.print(summary_table([{k: words.get(v, v) for k, v in r.items()} for r in rows]))


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write [RUN_DIR/plot.png].")
@reported
def plot(run_dir: Path, out: Path | None) -> None:
    """Draws returns and losses of a run as a PNG."""
    from policy_server.metrics.plot import plot_run

    click.echo(str(plot_run(run_dir, out)))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
@reported
def inspect(checkpoint: Path, as_json: bool) -> None:
    """Says what is in a checkpoint, after verifying it."""
    from policy_server.checkpoints.store import CheckpointStore
    from policy_server.display import summary_table
    from sim_clients.protocol.spaces import from_wire

    content = CheckpointStore(checkpoint).load(checkpoint)
    policies = {}
    for name, state in content.policies.items():
        gateway = state.data["gateway"]
        weights = state.tensors["gateway/weights"]
        policies[name] = {
            "version": gateway["version"],
            "updates": gateway["updates"],
            "episodes": gateway["episodes"],
            "parameters": int(weights.size),
            "tensors": len(state.tensors),
            "observation": content.spaces[name]["observation"],
            "action": content.spaces[name]["action"],
        }
    if as_json:
        click.echo(
            json.dumps(
                {"env_steps": content.step, "policies": policies, "settings": content.settings},
                default=str,
            )
        )
        return
    console = _console(False)
    console.print(
        f"{checkpoint}: whole, {content.step} environment steps, {content.settings['algorithm']} on {content.settings['environment'].get('env') or 'external simulators'}"
    )
    rows = [
        {"policy": name, **{k: p[k] for k in ("version", "episodes", "parameters")},
         "observation": _shortened(str(from_wire(p["observation"])), 48),
         "action": _shortened(str(from_wire(p["action"])), 32)}
        for name, p in policies.items()
    ]  # fmt: skip
    console.print(summary_table(rows))


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


@main.command()
@click.option(
    "--stop-steps", type=int, default=80_000, show_default=True, help="Environment steps."
)
@click.option(
    "--run-dir", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True
)
@click.option("--seed", type=int, default=1, show_default=True)
@reported
def demo(stop_steps: int, run_dir: Path, seed: int) -> None:
    """Two policies learn in the MultiAgentArena; ends with a table and a plot."""
    from policy_server.demo import run_demo

    run_demo(run_dir, stop_steps, seed, _console(False))


@main.command()
@click.option("--workloads", metavar="W1,W3", help="Some of them only [all].")
@click.option(
    "--repeats", type=click.IntRange(min=1), help="Of every side, by turns [5].", metavar="N"
)
@click.option("--seconds", type=float, help="Of each window [1].")
@click.option("--bind", help="tcp://127.0.0.1:* or ipc://PATH [tcp].")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Writes every single trial."
)
@click.option("--png", type=click.Path(path_type=Path), help="Draws the figures.")
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Writes README.md, results.json and results.png into this folder.",
)
@reported
def bench(json_file: Path | None, png: Path | None, folder: Path | None, **flags: Any) -> None:
    """Measures the server on this machine, against what the machine can do without it."""
    from policy_server.bench.command import run_bench

    names = flags.pop("workloads")
    given = {name: value for name, value in flags.items() if value is not None}
    if names:
        given["work"] = tuple(name.strip() for name in names.split(","))
    run_bench(given, json_file, png, folder, _console(False))


if __name__ == "__main__":
    main()
