"""A value from a file, a flag or a call -> what a field's annotation promises, and back.

Coercion is narrow: whole floats for integers, integers for floats, lists for tuples, and three
spellings that TOML or YAML force on people: "inf", "1e-3" (YAML 1.1 reads that as text), and
"none" (TOML has no null). Anything else of another type is an error that names the path.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np

from policy_server.errors import ConfigError
from policy_server.spaces_json import space_to_json
from sim_clients.protocol.spaces import Space

_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", re.IGNORECASE)
_MAX_DEPTH = 32
_ELSEWHERE_CALLED = {
    "learning_rate": ("lr",), "batch_size": ("minibatch_size", "train_batch_size"),
    "n_epochs": ("num_epochs",), "gae_lambda": ("lambda_",), "lambda": ("lambda_",),
    "clip_range": ("clip_param",), "ent_coef": ("entropy_coeff",),
    "vf_coef": ("vf_loss_coeff",), "max_grad_norm": ("grad_clip",),
}  # fmt: skip
"""What Stable-Baselines3 calls our settings, and one that is no name in Python."""


def unknown(
    path: str, key: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None
) -> ConfigError:
    """The error for a key that does not exist, with the nearest one that does.

    Args:
        path: of the mapping that holds the key; "" at the top.
        known: the keys there are.
        elsewhere: keys of other sections -> their full path.
    """
    names = sorted(known)
    close = difflib.get_close_matches(key, names, 1)
    ours = [name for name in _ELSEWHERE_CALLED.get(key, ()) if name in names]
    if ours:
        hint = f"did you mean {ours[0]!r}?"
    elif elsewhere and key in elsewhere:
        hint = f"did you mean {elsewhere[key]!r}?"
    elif close:
        hint = f"did you mean {close[0]!r}?"
    else:
        hint = f"expected one of {', '.join(names)}."
    return ConfigError(f"{path}{'.' if path else ''}{key}: unknown setting, {hint}")


def fields_of(cls: type) -> dict[str, Any]:
    """Field name -> resolved annotation, of a dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def mapping_at(value: Any, path: str) -> dict[str, Any]:
    """`value` as a mapping with text keys, or a ConfigError."""
    if not isinstance(value, Mapping):
        _wrong(path, "a table of settings", value)
    for key in value:
        if not isinstance(key, str):
            _wrong(path, "text as every key", key)
    return dict(value)


def coerce_fields(
    cls: type, value: Any, path: str, elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A mapping of some of a dataclass's fields -> the same with checked values.

    A field whose name had to dodge a Python keyword (`lambda_`) is also known without its
    underscore, because files need not dodge.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type; the path is named.
    """
    hints, result = fields_of(cls), {}
    for key, item in mapping_at(value, path).items():
        name = f"{key}_" if iskeyword(key) and f"{key}_" in hints else key
        if name not in hints:
            raise unknown(path, key, hints, elsewhere)
        if name in result:
            raise ConfigError(f"{path}.{key}: given twice, as {key!r} and as {name!r}: keep one.")
        result[name] = coerce(hints[name], item, f"{path}.{key}")
    return result


def coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotation `hint` promises.

    Raises:
        ConfigError: naming the path, what was expected and what came.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if hint is Any:
        return free_form(value, path)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _coerce_union(hint, args, value, path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            _wrong(path, describe(hint), value)
        return value
    if hint is type(None):
        if value is not None:
            _wrong(path, "none", value)
        return None
    if hint in (bool, int, float, str):
        return _coerce_scalar(hint, value, path)
    if (origin or hint) in (tuple, list):
        return _coerce_sequence(hint, origin or hint, args, value, path)
    if (origin or hint) is dict:
        item = args[1] if args else Any
        entries = mapping_at(value, path).items()
        return {key: coerce(item, entry, f"{path}.{key}") for key, entry in entries}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else hint(**coerce_fields(hint, value, path))
    raise TypeError(f"{path}: settings of type {hint!r} are not supported.")


def _coerce_union(hint: Any, args: tuple[Any, ...], value: Any, path: str) -> Any:
    optional = type(None) in args
    if value is None or (optional and isinstance(value, str) and value.lower() == "none"):
        if not optional:
            _wrong(path, describe(hint), value)
        return None
    members = [arg for arg in args if arg is not type(None)]
    if len(members) == 1:
        return coerce(members[0], value, path)
    # A member of exactly this type wins, so that 3 stays an integer where a float would also do.
    for arg in sorted(members, key=lambda arg: type(value) is not arg):
        try:
            return coerce(arg, value, path)
        except ConfigError:
            continue
    _wrong(path, describe(hint), value)


def _coerce_scalar(hint: type, value: Any, path: str) -> Any:
    if hint is str or hint is bool:
        if type(value) is not hint:
            _wrong(path, describe(hint), value)
        return value
    number = value
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        number = float(value)
    if isinstance(value, str) and hint is float and _INFINITE.fullmatch(value):
        number = float(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or math.isnan(number):
        _wrong(path, describe(hint), value)
    if hint is float:
        return float(number)
    if isinstance(number, float) and not number.is_integer():
        _wrong(path, describe(hint), value)
    return int(number)


def _coerce_sequence(hint: Any, kind: type, args: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        _wrong(path, describe(hint), value)
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            _wrong(path, describe(hint), value)
        types_ = list(args)
    else:
        types_ = [args[0] if args else Any] * len(value)
    entries = enumerate(zip(types_, value, strict=True))
    return kind(coerce(arg, item, f"{path}[{i}]") for i, (arg, item) in entries)


def free_form(value: Any, path: str, depth: int = 0) -> Any:
    """Any value that strict JSON can hold; tuples become lists.

    Raises:
        ConfigError: an object, a callable, a non-finite number, a key that is not text.
    """
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{path}: expected at most {_MAX_DEPTH} levels of nesting, got more.")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        entries = mapping_at(value, path).items()
        return {key: free_form(item, f"{path}.{key}", depth + 1) for key, item in entries}
    if isinstance(value, (list, tuple)):
        return [free_form(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    fine = value is None or type(value) in (bool, int, str)
    if not fine and not (type(value) is float and math.isfinite(value)):
        expected = "a value that JSON can hold, because it travels to other processes as text"
        _wrong(path, expected, value)
    return value


def dump(value: Any) -> Any:
    """A checked value -> strict JSON that `coerce` reads back to the same value."""
    if isinstance(value, Space):
        return space_to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: dump(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "none",
    Any: "any value",
}


def describe(hint: Any) -> str:
    """An annotation in words, as error messages use them."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)} ({', '.join(describe(arg) for arg in args)})"
    if origin in (tuple, list):
        return f"a list, each element {describe(args[0])}"
    if origin is tuple or hint in (tuple, list):
        return "a list"
    return "a table of settings"


def _wrong(path: str, expected: str, value: Any) -> NoReturn:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    raise ConfigError(f"{path}: expected {expected}, got {shown} ({type(value).__name__}).")
