"""Code of the user's own: found by its name, and where in it something went wrong."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policy_server.errors import ConfigError, LearnerError, PolicyServerError

log = logging.getLogger(__name__)
_OURS = [Path(__file__).parents[1] / package for package in ("policy_server", "sim_clients")]
_NOT_THEIRS = re.compile(
    r"<|.*[\\/](site|dist)-packages[\\/]|"
    + "|".join(re.escape(str(folder) + os.sep) for folder in (sysconfig.get_path("stdlib"), *_OURS))
)
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*:\w+(\.\w+)*")


def named(option: str, name: str) -> Any:
    """What "module:Class" names; `option` is the setting that says so.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not _NAME.fullmatch(name):
        raise ConfigError(f'{option}: expected "module:Class", got {name!r}.')
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{option}: {name!r} cannot be imported: {_fault(error, module)}"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ConfigError(f"{option}: {name!r} cannot be imported: {error}.") from error
    return found


def line(error: BaseException) -> str:
    """ " (my_losses.py:7)": the innermost line of the user's own files that led there, which are
    those of neither this package nor an installed one; "" where there is none."""
    places = [
        f" ({Path(frame.f_code.co_filename).name}:{number})"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if not _NOT_THEIRS.match(frame.f_code.co_filename)
    ]
    return places[-1] if places else ""


@contextmanager
def told(name: str) -> Iterator[None]:
    """What goes wrong within `name` is said with the line of the user's own; the log has all of it.

    Raises:
        LearnerError: whatever is no error of ours already.
    """
    try:
        yield
    except PolicyServerError:
        raise
    except Exception as error:
        log.exception("%s failed", name)
        raise LearnerError(f"{name}: {type(error).__name__}: {error}{line(error)}") from error


def _fault(error: Exception, module: str) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module + ".").startswith(missing + "."):
        if module.endswith(".py"):
            return f"{error}. A module is named without '.py'."
        return f"{error}. Run this where its file is, or put that folder into PYTHONPATH."
    if isinstance(error, ImportError):
        return f"{error}{line(error)}."
    return f"{type(error).__name__}: {error}{line(error)}."
