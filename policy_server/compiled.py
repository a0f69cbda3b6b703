"""Functions that are compiled to machine code, for the few places where a tick is spent.

At a handful of rows a NumPy call costs about a microsecond whatever it does, and a tick needed
sixty of them. A compiled function of twelve arrays is called in 0.7 us, and a plain loop in it
costs nothing more. Rules for such functions:

- They are short loops over arrays, given their types here: a wrong type raises, it never
  compiles anew in the middle of a run.
- They know no objects, raise nothing and allocate little. What is wrong with a row is found and
  worded in Python; the compiled function only says *whether* something is.

Compiled once per installation (some seconds, kept in `__pycache__`), then loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


_HOW: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",  # divisions by zero give infinity
    "fastmath": {"contract"},  # a * b + c may be one instruction; nothing else is reordered
}


def compiled(*signatures: str) -> Callable[[F], F]:
    """Compiles for exactly these signatures ("f4(f4[::1], i8)"); arrays are C-contiguous and
    writable. What it calls must stand above it."""
    return cast(Callable[[F], F], numba.njit(list(signatures), **_HOW))


def part(function: F) -> F:
    """A part of compiled functions, for whatever types they use it with."""
    return cast(F, numba.njit(**_HOW)(function))
