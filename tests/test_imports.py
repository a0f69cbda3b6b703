"""Who may import whom, and how little the light client needs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("policy_server", "sim_clients", "arena_sim")
TORCH_FREE = (
    "sim_clients",
    "arena_sim",
    "policy_server.types",
    "policy_server.errors",
    "policy_server.config",
    "policy_server.gateway",
)
# Room -> what of our own it may import besides itself.
ONLY = {
    "sim_clients": (),
    "sim_clients.protocol": (),
    "arena_sim": ("sim_clients",),
    "policy_server.types": ("sim_clients.protocol",),
    "policy_server.errors": (),
    "policy_server.config": (),
    "policy_server.captured": (),
    "policy_server.rollouts": (
        "policy_server.types",
        "policy_server.config",
        "policy_server.errors",
        "policy_server.compiled",
    ),
}
# Room -> what it must not know.
NEVER = {
    "policy_server.algorithms.ops": (
        "policy_server.learners",
        "policy_server.gateway",
        "policy_server.rollouts",
        "policy_server.server",
        "policy_server.inference",
    ),
    "policy_server.algorithms": (
        "policy_server.learners",
        "policy_server.gateway",
        "policy_server.rollouts",
        "policy_server.server",
    ),
    "policy_server.networks": (
        "policy_server.algorithms",
        "policy_server.learners",
        "policy_server.gateway",
        "policy_server.rollouts",
        "policy_server.server",
    ),
    "policy_server.inference": (
        "policy_server.learners",
        "policy_server.gateway",
        "policy_server.server",
    ),
    "policy_server.learners": (
        "policy_server.inference",
        "policy_server.gateway",
        "policy_server.server",
    ),
    "policy_server.gateway": (
        "policy_server.inference",
        "policy_server.learners",
        "policy_server.algorithms",
        "policy_server.networks",
        "policy_server.server",
    ),
    "policy_server.server": ("policy_server.algorithm", "policy_server.cli", "policy_server.run"),
    "policy_server.algorithm": ("policy_server.cli", "policy_server.run"),
}
ATTICS = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, package: bool = False) -> set[str]:
    """Everything that `source` imports, wherever in it, as full names: `from a import b` counts
    as a and as a.b, since b may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                up = up[: len(up) - node.level + (1 if package else 0)]
                base = ".".join([*up, base] if base else up)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def within(name: str, place: str) -> bool:
    """Is `name` the module or package `place`, or inside it?"""
    return name == place or name.startswith(place + ".")


GRAPH = {
    module_of(path): imports(path.read_text("utf-8"), module_of(path), path.stem == "__init__")
    for path in files()
}


def room(place: str) -> dict[str, set[str]]:
    """The modules at `place`; there must be some."""
    found = {module: names for module, names in GRAPH.items() if within(module, place)}
    assert found, f"nothing is at {place} any more: correct the tables of this test."
    return found


def importers(*places: str) -> set[str]:
    """Modules that import something at one of `places`."""
    return {m for m, names in GRAPH.items() for p in places if any(within(n, p) for n in names)}


def test_imports_are_seen_in_every_spelling():
    source = """
import a.b as c
from ..d import e
def f():
    from . import g
    if True:
        import h
    importlib.import_module("i.j")
"""
    assert imports(source, "p.q.r") == {"a.b", "p.d", "p.d.e", "p.q", "p.q.g", "h", "i.j"}
    assert imports("from . import x", "p.q", package=True) == {"p.q", "p.q.x"}
    assert within("torch.nn", "torch")
    assert not within("torchvision", "torch")


def test_zeromq_is_in_one_file_of_the_server():
    """The bench plays the simulators, and has a server of its own to compare with."""
    assert {m for m in importers("zmq") if within(m, "policy_server")} == {
        "policy_server.gateway.loop",
        "policy_server.bench.conditions",
        "policy_server.bench.echo",
        "policy_server.bench.generator",
        "policy_server.bench.publication",
    }


def test_only_the_command_knows_the_bench():
    outside = {m for m in importers("policy_server.bench") if not within(m, "policy_server.bench")}
    assert outside == {"policy_server.cli"}


def test_ray_is_in_the_wiring_the_learner_actor_the_shards_of_replay_and_the_trials():
    assert importers("ray") == {
        "policy_server.server.ray_server",
        "policy_server.learners.remote",
        "policy_server.replay.shards",
        "policy_server.tune",
    }


@pytest.mark.parametrize("place", TORCH_FREE)
def test_no_torch_in(place):
    assert set(room(place)) & importers("torch") == set()


@pytest.mark.parametrize("place", ONLY)
def test_imports_of_our_own_are_few_in(place):
    allowed = (place, *ONLY[place])
    wrong = {
        (module, name)
        for module, names in room(place).items()
        for name in names
        if any(within(name, package) for package in PACKAGES)
        # `from policy_server import types` names the package, too, which holds nothing itself.
        and name not in PACKAGES
        and not any(within(name, a) for a in allowed)
    }
    assert wrong == set()


@pytest.mark.parametrize("place", NEVER)
def test_arrows_point_in_one_direction_from(place):
    wrong = {
        (module, name)
        for module, names in room(place).items()
        for name in names
        for forbidden in NEVER[place]
        if within(name, forbidden)
    }
    for forbidden in NEVER[place]:
        room(forbidden)
    assert wrong == set()


def test_rollouts_need_numpy_only():
    ours = ("policy_server", "sim_clients")
    foreign = {
        name.split(".")[0]
        for names in room("policy_server.rollouts").values()
        for name in names
        if name.split(".")[0] not in {*ours, *sys.stdlib_module_names}
    }
    assert foreign == {"numpy"}


def test_nobody_unpickles():
    assert importers(*PICKLES) == set()


def test_every_function_lives_where_its_noun_lives():
    assert {m for m in GRAPH if ATTICS & set(m.split("."))} == set()


# -- what is loaded, and what is needed ---------------------------------------------------------


def test_the_light_client_loads_nothing_heavy():
    statement = "import sim_clients, sim_clients.client, sim_clients.episodes"
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert {"sim_clients", "zmq", "msgpack", "numpy"} <= loaded
    assert loaded & {"torch", "ray", "gymnasium", "pettingzoo", "policy_server"} == set()


def test_the_command_that_starts_everything_loads_no_torch():
    """Its processes need torch; a second import of it would come before theirs."""
    code = """
import sys
import policy_server.cli, policy_server.run, policy_server.display
from policy_server.algorithm import Algorithm
from policy_server.metrics.recorder import Recorder
from policy_server.server import RayServer
from policy_server.settings import Settings
assert Settings.from_mapping({"algorithm": "PPO"}).training.lr > 0
print(*{name.split(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert {"policy_server", "ray"} <= loaded
    assert {"torch", "numba"} & loaded == set()


STEP = """
import importlib.util

import numpy as np
import sim_clients, sim_clients.client, sim_clients.episodes
from sim_clients.client import Client, Group
from sim_clients.conformance.peer import Peer, ServedPeer
from sim_clients.protocol import Box, Discrete

for name in ("torch", "ray", "gymnasium", "pettingzoo", "click", "yaml"):
    assert importlib.util.find_spec(name) is None, name
peer = Peer()
with ServedPeer(peer) as served:
    client = Client(served.address, Group(Box(-1.0, 1.0, (3,)), Discrete(4), 2))
    action = client.step(np.zeros((2, 3)))
    assert action.shape == (2,) and ((0 <= action) & (action < 4)).all(), action
    client.step(np.ones((2, 3)), [1.0, 2.0], [True, False], [False, False])
    client.close()
assert len(peer.steps()) == 2, peer.received
print(sim_clients.__file__)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_base_install_steps_without_the_server(tmp_path):
    # From a copy: a build leaves folders behind in its sources.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    venv = tmp_path / "venv"
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = ["-m", "pip", "install", "--quiet", "-c", str(source / "constraints.txt")]
    subprocess.run([str(python), *install, str(source)], check=True)
    done = subprocess.run(
        [str(python), "-I", "-c", STEP], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(venv)
