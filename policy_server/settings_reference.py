"""Every setting with its type, default and meaning, as Markdown, from the dataclasses themselves.

python -m policy_server.settings_reference docs/SETTINGS.md
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from policy_server import algorithms, config
from policy_server.config_sources import preset_names
from policy_server.config_values import describe, dump, fields_of
from policy_server.exploration.plugin import OPTIONS
from policy_server.settings import PER_POLICY, training_class

HEAD = """\
# Settings

Made by `python -m policy_server.settings_reference docs/SETTINGS.md`; a test keeps it up to date.

A settings file (`.toml`, `.yaml`, `.json`) has `algorithm` and one table per section:

```toml
algorithm = "PPO"

[training]
lr = 1e-3
```

The same as a flag is `--set training.lr=1e-3`, and in Python `PPOConfig().training(lr=1e-3)`.
Later ones win: defaults, then preset, then file, then flags; a number such as `lr` ends the
schedule that an earlier one has for it (`lr_schedule`). An unknown key is an error. TOML has no
null: write `"none"`. A trailing underscore, which Python needs, may be left out: `lambda`.
"""


def reference() -> str:
    """The whole page."""
    tuned = ", ".join(f"`{name}`" for name in preset_names())
    own = ", ".join(f"`{name}`" for name in PER_POLICY)
    parts = [
        HEAD,
        f"Presets that ship: {tuned}.\n",
        f"A policy may have its own {own}: `multi_agent.policies.NAME.training.lr`, for example.\n",
    ]
    for name in algorithms.names():
        parts.append(section(f"training ({name})", training_class(name)))
    for name, type_ in config.SECTIONS.items():
        parts.append(section(name, type_))
        if name == "exploration":
            each = OPTIONS.items()
            parts += [section(f"exploration.options ({plug})", own) for plug, own in each]
    return "\n".join(parts)


def section(title: str, type_: type) -> str:
    """One dataclass as a heading and a table.

    Raises:
        ValueError: a field has no line under `Attributes:` in the docstring, or the other way
            round.
    """
    meanings, hints = _all_attributes(type_), fields_of(type_)
    if set(meanings) != set(hints):
        odd = ", ".join(sorted(set(meanings) ^ set(hints)))
        raise ValueError(
            f"{type_.__name__}: expected its docstring to say under `Attributes:` what each field "
            f"means, and nothing else there; they differ in {odd}."
        )
    lines = [f"## {title}\n", *_purpose(type_)]
    lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(type_):
        cells = (
            f"`{field.name}`",
            describe(hints[field.name]),
            f"`{_default(field)}`",
            meanings[field.name],
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _all_attributes(type_: type) -> dict[str, str]:
    """Those of its bases, too; what it says itself counts most."""
    found: dict[str, str] = {}
    for one in reversed([t for t in type_.__mro__ if dataclasses.is_dataclass(t)]):
        found |= attributes(one)
    return found


def attributes(type_: type) -> dict[str, str]:
    """Field -> what the `Attributes:` part of the docstring says of it, on one line.

    Names that share an entry (`low, high: ...`) share its text.
    """
    _, _, text = inspect.cleandoc(type_.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    margin = len(text) - len(text.lstrip(" "))
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        if not line.strip() or indent < margin:
            break
        entry = re.fullmatch(r"(\w+(?:, \w+)*): (.*)", line.strip()) if indent == margin else None
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _purpose(type_: type) -> list[str]:
    """The docstring's first paragraph, unless it begins with the attributes at once."""
    first = inspect.cleandoc(type_.__doc__ or "").split("\n\n")[0]
    return [] if first.startswith("Attributes:") else [f"{' '.join(first.split())}\n"]


def _default(field: dataclasses.Field[Any]) -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    return "none" if value is None else json.dumps(dump(value))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m policy_server.settings_reference FILE")
    text = reference()  # first, so that a fault leaves the file as it was
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
