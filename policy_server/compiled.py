"""Functions that are compiled to machine code, for the few places where a tick is spent.

At a handful of rows a NumPy call costs about a microsecond whatever it does, and a tick needed
sixty of them. A compiled function of twelve arrays is called in 0.7 us, and a plain loop in it
costs nothing more. Rules for such functions:

- They are short loops over arrays, given their types here: a wrong type raises, it never
  compiles anew in the middle of a run.
- They know no objects, raise nothing and allocate little. What is wrong with a row is found and
  worded in Python; the compiled function only says *whether* something is.

Compiled once per installation (some seconds, kept in `__pycache__`), then loaded. What is kept is
as old as the file of the function itself: whoever changes a `part` that functions in other files use
runs `make clean`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])


_HOW: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",  # divisions by zero give infinity
    "fastmath": {"contract"},  # a * b + c may be one instruction; nothing else is reordered
}


def compiled(*signatures: str) -> Callable[[F], F]:
    """Compiles for exactly these signatures ("f4(f4[::1], i8)"); arrays are C-contiguous and
    writable. One that may be read-only, such as what was received, is `Array(u1, 2, 'C', True)`.
    What the function calls must stand above it."""

    def compile_(function: F) -> F:
        return _kept(list(signatures), function)

    return compile_


def part(function: F) -> F:
    """A part of compiled functions, for whatever types they use it with."""
    return _kept(None, function)


def _kept(signatures: list[str] | None, function: F) -> F:
    try:
        return cast(F, numba.njit(signatures, **_HOW)(function))
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        _tell_uncached()
        return cast(F, numba.njit(signatures, **{**_HOW, "cache": False})(function))


@functools.cache
def _tell_uncached() -> None:
    log.warning(
        "compiled code cannot be kept, neither beside the package nor in the home directory: "
        "every start takes some seconds longer. Set NUMBA_CACHE_DIR to a directory of your own."
    )
