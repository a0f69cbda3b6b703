"""The folder of one run: made, recognised, cleared, never taken by accident.

settings.json      the resolved settings; what makes a folder a run folder
metrics.jsonl      every record, one a line
metrics.csv        the same as a table
plot.png           what `plot_run` draws
tensorboard/       events
checkpoints/       checkpoint_000000123456/ ...
simulators/        what simulators that the server started printed
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy_server.errors import RunDirError

SETTINGS = "settings.json"
PLOT = "plot.png"
CHECKPOINTS = "checkpoints"

RUN_FILES = (
    "metrics.jsonl",
    "metrics.csv",
    "metrics.csv.new",
    PLOT,
    "tensorboard/events.out.tfevents.*",
    f"{CHECKPOINTS}/checkpoint_[0-9]*",
    f"{CHECKPOINTS}/.writing-*",
    "simulators/*.log",
    f"{SETTINGS}.new",
    SETTINGS,  # last: while it is there, a clearing that was interrupted can be repeated
)
"""All that a run makes, and all that `force` deletes."""


def prepare_run_dir(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
) -> Path:
    """Makes a run folder, or takes an existing one where told so.

    Args:
        settings: the resolved ones, as `Settings.to_mapping` gives them; written to
            `settings.json`. None: that file is left alone.
        resume: go on in the run that is there; nothing is deleted.
        force: delete what the run that is there has made (`RUN_FILES`), and nothing else.

    Returns:
        The folder, absolute.

    Raises:
        RunDirError: there is a run already and neither was said; there is none to resume; the
            folder holds other things; the disk refused.
    """
    path = Path(path).expanduser().absolute()
    if resume and force:
        raise RunDirError(
            f"{path}: --resume goes on with the run that is there and --force deletes it: give "
            "one of the two."
        )
    try:
        _refuse(path, resume, force)
        if force:
            clear_run_dir(path)
        path.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            write_settings(path, settings)
    except OSError as error:
        raise RunDirError(
            f"{error.filename or path}: the run folder cannot be used: {error.strerror}."
        ) from error
    return path


def forget_run_dir(path: str | Path) -> None:
    """Undoes `prepare_run_dir` for a run that never began."""
    clear_run_dir(Path(path))
    with contextlib.suppress(OSError):
        Path(path).rmdir()


def is_run_dir(path: str | Path) -> bool:
    """Whether a run was here."""
    return (Path(path) / SETTINGS).is_file()


def _refuse(path: Path, resume: bool, force: bool) -> None:
    if not path.is_dir():
        if os.path.lexists(path):
            raise RunDirError(f"{path}: expected a folder for the run, got a file.")
        if resume:
            raise RunDirError(
                f"{path}: there is no run to resume: leave out --resume to begin one here."
            )
        return
    if is_run_dir(path):
        if not (resume or force):
            raise RunDirError(
                f"{path}: a run is here already: give --resume to go on with it, --force to "
                "delete its files and begin again, or choose another folder."
            )
        return
    others = sorted(entry.name for entry in path.iterdir())
    if others:
        raise RunDirError(
            f"{path}: expected a run folder or an empty one, got one that holds {others[0]!r} and "
            f"no {SETTINGS}: choose another folder."
        )
    if resume:
        raise RunDirError(
            f"{path}: there is no run to resume: leave out --resume to begin one here."
        )


def clear_run_dir(path: Path) -> None:
    """Deletes the files of `RUN_FILES`; folders of a run go where nothing else is in them."""
    for pattern in RUN_FILES:
        folder, _, name = pattern.rpartition("/")
        if (path / folder).is_symlink():
            continue  # what a link leads to is not ours
        for entry in (path / folder).glob(name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for name in sorted({pattern.rpartition("/")[0] for pattern in RUN_FILES} - {""}):
        folder_path = path / name
        if folder_path.is_dir() and not folder_path.is_symlink() and not any(folder_path.iterdir()):
            folder_path.rmdir()


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """`settings.json`, in one rename, so that it is never half a file."""
    temporary = path / f"{SETTINGS}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(settings, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / SETTINGS)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The resolved settings of a run.

    Raises:
        RunDirError: this is no run folder, or the file is damaged.
    """
    file = Path(path) / SETTINGS
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunDirError(
            f"{path}: expected a run folder, got none: {SETTINGS} is missing."
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirError(f"{file}: the settings of the run cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise RunDirError(f"{file}: expected a JSON map, got {type(data).__name__}.")
    return data
