"""Where settings come from: presets, files, flags. All of them are plain nested mappings.

Precedence, lowest first: defaults < preset < file < flags; `merge` takes them in that order.
Files are data: nothing in them is ever run, and YAML tags that would construct objects are
refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from policy_server.errors import ConfigError

MAX_FILE_BYTES = 1 << 20

_PART = r'(?:"[^"]+"|[^".=\s]+)'
_OVERRIDE = re.compile(rf"\s*({_PART}(?:\.{_PART})*)\s*=(.*)", re.DOTALL)


def load_file(path: str | Path) -> dict[str, Any]:
    """Reads a settings file: `.toml`, `.yaml`, `.yml`, or the `.json` that a run writes.

    Raises:
        ConfigError: no such file, another suffix, not valid text of its kind, a YAML tag, or
            no mapping at the top.
    """
    path = Path(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise ConfigError(
            f"{path}: expected a settings file that ends in {', '.join(_PARSERS)}, got "
            f"{path.suffix or 'no ending'!r}: rename it."
        )
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such settings file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: the settings file cannot be read: {error.strerror}.") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {len(raw)}.")
    try:
        data = parse(raw.decode())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:  # TOML's, JSON's and UTF-8's are ValueErrors
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected sections such as `training:` at the top, got "
            f"{'an empty file' if data is None else type(data).__name__}."
        )
    return data


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"{error.problem}{where}: settings are plain data; tags that construct objects are "
            "refused."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}.") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": json.loads,
}


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`mapping` with `["training.lr=1e-3", 'multi_agent.policy_mapping."a.*"=red', ...]` on top.

    The right side is read as a TOML value, then as JSON (for `null`); else it is text. A key
    that has a dot or an equals sign in it stands in double quotes.

    Raises:
        ConfigError: not of the form key=value, or the path goes through a value.
    """
    result = merge(mapping)
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None:
            raise ConfigError(
                f"{override!r}: expected section.key=value, such as training.lr=1e-3."
            )
        keys = [part.strip('"') for part in re.findall(_PART, match[1])]
        below: Any = result
        for i, key in enumerate(keys[:-1]):
            below = below.get(key, {})
            if not isinstance(below, Mapping):
                raise ConfigError(
                    f"{override!r}: {'.'.join(keys[: i + 1])} is {below!r}, which has no "
                    f"settings inside."
                )
        nested: Any = _parse_value(match[2].strip())
        for key in reversed(keys):
            nested = {key: nested}
        result = merge(result, nested)
    return result


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
        # A line break in the text could smuggle in a second key; dates are not settings.
        if list(parsed) == ["value"] and _is_plain(parsed["value"]):
            return parsed["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str))


def preset(algorithm: str, env: str | None) -> dict[str, Any] | None:
    """The tuned settings that ship for this algorithm and environment, or None."""
    if not env:
        return None
    name = f"{algorithm}-{env.replace('/', '_')}.toml"
    for entry in _preset_files():
        if entry.name == name:
            return tomllib.loads(entry.read_text(encoding="utf-8"))
    return None


def preset_names() -> list[str]:
    """All presets that ship, "PPO-CartPole-v1" and the like, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _preset_files())


def _preset_folder() -> Traversable:
    return resources.files("policy_server") / "presets"


def _preset_files() -> list[Traversable]:
    # Looked up by listing, never by joining a path, so that no name can lead elsewhere.
    folder = _preset_folder()
    if not folder.is_dir():
        return []
    return [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]


def merge(*mappings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Deep merge, later ones win; None counts as empty. The arguments stay as they are.

    Tables are merged key by key, everything else is replaced as a whole. A number ends the
    schedule that an earlier mapping has for it: who says `lr` does not want `lr_schedule`.
    `multi_agent` has two rules of its own. Where a later mapping lists its policies, or has both
    policies and a mapping, it replaces the section, because leftovers would be policies that
    nobody plays. Else what it says in `policy_mapping`, where the first match counts, comes first.
    """
    result: dict[str, Any] = {}
    for mapping in mappings:
        result = without_ended(result, mapping or {})
        for key, value in (mapping or {}).items():
            old = result.get(key)
            if not isinstance(value, Mapping):
                result[key] = value
            elif not isinstance(old, Mapping) or (key == "multi_agent" and _is_whole(value)):
                result[key] = merge(value)
            elif key == "policy_mapping":
                result[key] = {**value, **{k: v for k, v in old.items() if k not in value}}
            else:
                result[key] = merge(old, value)
    return result


def without_ended(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`low` without the schedules of numbers that `high` says instead."""
    return {
        key: value
        for key, value in low.items()
        if not key.endswith("_schedule") or key in high or key.removesuffix("_schedule") not in high
    }


def _is_whole(multi_agent: Mapping[str, Any]) -> bool:
    policies = multi_agent.get("policies", {})
    return not isinstance(policies, Mapping) or {"policies", "policy_mapping"} <= set(multi_agent)
