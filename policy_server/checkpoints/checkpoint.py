"""What a checkpoint holds, as files: tensors as safetensors, the rest as JSON.

    settings.json                          the resolved settings
    state.json                             step, counters, spaces, names of the policies
    policies/<name>/tensors.safetensors    weights, optimiser moments, normalisation
    policies/<name>/state.json             the policy's other state

Reading turns bytes into numbers and text and nothing else; there is no way to a constructor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from policy_server.errors import CheckpointError
from policy_server.spaces_json import json_to_wire, wire_to_json
from policy_server.types import PolicyState

SETTINGS, STATE, POLICIES, TENSORS = (
    "settings.json",
    "state.json",
    "policies",
    "tensors.safetensors",
)
_MAX_FOLDER_NAME = 200


@dataclass(frozen=True)
class Checkpoint:
    """All that a server needs to go on.

    Attributes:
        step: environment steps so far.
        policies: name -> state.
        spaces: name -> `{"observation": wire, "action": wire, "mask": bool}`, spaces as
            `Space.to_wire` gives them (bytes included).
        settings: resolved, as `Settings.to_mapping` gives them.
        data: counters, generator states and the like; JSON, where tuples come back as lists.
    """

    step: int
    policies: dict[str, PolicyState] = field(default_factory=dict)
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def folder_name(policy: str) -> str:
    """A policy's name as one harmless path segment: letters, digits, `_`, `-` and `%XX`.

    Raises:
        CheckpointError: the name is empty, or no UTF-8.
    """
    try:
        encoded = quote(policy, safe="", errors="strict")
    except (UnicodeEncodeError, TypeError):
        encoded = ""
    if not encoded:
        raise CheckpointError(f"expected a policy name of at least one character, got {policy!r}.")
    encoded = encoded.replace(".", "%2E").replace("~", "%7E")
    if len(encoded) > _MAX_FOLDER_NAME:  # file systems stop at 255 bytes
        encoded = encoded[: _MAX_FOLDER_NAME - 33] + "-" + sha256(policy.encode()).hexdigest()[:32]
    return encoded


def to_files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """(relative path, content) of every file, one at a time.

    Raises:
        CheckpointError: something in it is neither a plain array nor JSON.
    """
    yield SETTINGS, _to_json(checkpoint.settings, "settings")
    state = {
        "step": checkpoint.step,
        "policies": list(checkpoint.policies),
        "spaces": {name: _to_parts(parts) for name, parts in checkpoint.spaces.items()},
        "data": checkpoint.data,
    }
    yield STATE, _to_json(state, "state")
    for name, policy in checkpoint.policies.items():
        folder, where = f"{POLICIES}/{folder_name(name)}", f"policy {name!r}"
        yield f"{folder}/{TENSORS}", _to_safetensors(policy.tensors, where)
        # safetensors sorts; the order of names is kept here, so that a round trip is exact.
        order = list(policy.tensors)
        content = {"name": name, "tensors": order, "data": policy.data}
        yield f"{folder}/{STATE}", _to_json(content, where)


def from_files(read: Callable[[str], bytes]) -> Checkpoint:
    """The inverse of `to_files`.

    Args:
        read: relative path -> verified content.

    Raises:
        CheckpointError: a file has another content than this version writes.
    """
    settings = _from_json(read(SETTINGS), SETTINGS, {})
    state = _from_json(
        read(STATE), STATE, {"step": int, "policies": list, "spaces": dict, "data": dict}
    )
    policies = {}
    for name in state["policies"]:
        if not isinstance(name, str):
            raise CheckpointError(f"{STATE}: expected policy names, got {type(name).__name__}.")
        path = f"{POLICIES}/{folder_name(name)}"
        rest = _from_json(
            read(f"{path}/{STATE}"), f"{path}/{STATE}", {"name": str, "tensors": list, "data": dict}
        )
        tensors = _from_safetensors(read(f"{path}/{TENSORS}"), f"{path}/{TENSORS}")
        if rest["name"] != name or sorted(map(str, rest["tensors"])) != sorted(tensors):
            raise CheckpointError(
                f"{path}: expected the state of policy {name!r} and its tensors, got those of "
                f"another: use another checkpoint."
            )
        policies[name] = PolicyState({key: tensors[key] for key in rest["tensors"]}, rest["data"])
    try:
        spaces = {
            name: {key: json_to_wire(value) for key, value in parts.items()}
            for name, parts in state["spaces"].items()
        }
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{STATE}: spaces: {error}.") from None
    return Checkpoint(state["step"], policies, spaces, settings, state["data"])


def _to_parts(parts: dict[str, Any]) -> dict[str, Any]:
    return {key: wire_to_json(value) for key, value in parts.items()}


def _to_safetensors(tensors: dict[str, np.ndarray], where: str) -> bytes:
    arrays = {}
    for name, tensor in tensors.items():
        # Only an exact ndarray of plain numbers: an object array would need pickle.
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in "biuf":
            came = getattr(tensor, "dtype", type(tensor).__name__)
            raise CheckpointError(
                f"{where}, tensor {name!r}: expected a numpy array of numbers, got {came}."
            )
        native = tensor.dtype.newbyteorder("=")
        arrays[name] = np.asarray(tensor, dtype=native, order="C")
    try:
        return bytes(save_tensors(arrays))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: the tensors cannot be stored: {error}.") from None


def _from_safetensors(content: bytes, path: str) -> dict[str, np.ndarray]:
    try:
        return dict(load_tensors(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected safetensors, got something else ({error}): only checkpoints of "
            "this server can be loaded; pickled ones never."
        ) from None


def _to_json(value: Any, where: str) -> bytes:
    _check_json(value, where)
    # Not strict: a best return of -infinity is a legal counter. Python reads its own spelling.
    return json.dumps(value, indent=1).encode()


def _check_json(value: Any, where: str) -> None:
    """json.dumps would turn a key 1 into "1" without a word; that must not pass."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise CheckpointError(f"{where}: expected text as every key, got {key!r}.")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise CheckpointError(
            f"{where}: expected what JSON can hold, got {type(value).__name__}: convert it first."
        )


def _from_json(content: bytes, path: str, expected: dict[str, type]) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got something else ({error}).") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON map, got {type(value).__name__}.")
    for key, type_ in expected.items():
        if type(value.get(key)) is not type_:
            raise CheckpointError(
                f"{path}: expected {key!r} as {type_.__name__}, got "
                f"{type(value.get(key)).__name__}."
            )
    return value
