"""A folder of checkpoints: written whole or not at all, verified when read, pruned.

A checkpoint is written into a hidden sibling folder, file by file, each one flushed to the disk,
the manifest last; then the folder gets its name in one rename. A writer killed at any point
leaves the earlier checkpoints as they were, and a hidden folder that the next `save` removes.
One process writes into a store at a time; any number may read.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from policy_server.checkpoints.checkpoint import Checkpoint, from_files, to_files
from policy_server.checkpoints.manifest import (
    MANIFEST,
    Entry,
    Manifest,
    read_manifest,
    read_verified,
)
from policy_server.errors import CheckpointError

_log = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_(\d{12,})(?:-(\d+))?")
_HIDDEN = ".writing-"


class CheckpointStore:
    """Saves, finds and loads checkpoints in one folder.

    Args:
        directory: made by the first `save`.
        keep: newest checkpoints that stay; 0: all.
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        if keep < 0:
            raise CheckpointError(f"keep: expected 0 (all) or more checkpoints, got {keep}.")
        self.directory = Path(directory)
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint and removes the oldest ones beyond `keep`.

        Returns:
            Its folder, `checkpoint_<step>`, with `-2`, `-3`, ... behind it where a checkpoint of
            this step exists. When this returns, the checkpoint survives a power cut.

        Raises:
            CheckpointError: it holds something that cannot be stored, or the disk refused.
        """
        if type(checkpoint.step) is not int or checkpoint.step < 0:
            raise CheckpointError(f"step: expected a whole number >= 0, got {checkpoint.step!r}.")
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                _sync_folder(self.directory.parent)
            self._remove_leftovers()
            final = self._write(checkpoint)
        except OSError as error:
            raise CheckpointError(
                f"{error.filename or self.directory}: the checkpoint cannot be written: "
                f"{error.strerror}."
            ) from error
        self._prune(final)
        return final

    def load(self, path: str | Path | None = None) -> Checkpoint:
        """Reads and verifies one checkpoint.

        Args:
            path: a checkpoint's folder, taken or refused; or a folder of checkpoints (default:
                this store's own) or a run folder that has one, where the newest good one is taken
                and each damaged one before it is logged as a warning.

        Raises:
            CheckpointError: there is none, or none that is whole; the damaged file is named.
        """
        path = self.directory if path is None else Path(path)
        if _NAME.fullmatch(path.name) or os.path.lexists(path / MANIFEST):
            return _read(path)
        if not path.is_dir():
            raise CheckpointError(f"{path}: there is no such checkpoint, nor a folder of them.")
        found = _newest_first(path) or _newest_first(path / "checkpoints")
        if not found:
            raise CheckpointError(f"{path}: there is no checkpoint in this folder.")
        first: CheckpointError | None = None
        for folder in found:
            try:
                return _read(folder)
            except CheckpointError as error:
                _log.warning("skipped a checkpoint that is not whole: %s", error)
                first = first or error
        raise CheckpointError(
            f"{path}: none of the {len(found)} checkpoints here is whole; the newest: {first}"
        )

    def latest(self) -> Path | None:
        """The newest checkpoint's folder (not yet verified), or None."""
        found = _newest_first(self.directory)
        return found[0] if found else None

    def folders(self) -> list[Path]:
        """All checkpoints, newest first."""
        return _newest_first(self.directory)

    # -- writing -----------------------------------------------------------------------------------

    def _write(self, checkpoint: Checkpoint) -> Path:
        serial = 1 + max((_serial(folder) for folder in _folders(self.directory)), default=0)
        hidden = self.directory / f"{_HIDDEN}{secrets.token_hex(8)}"
        hidden.mkdir()
        try:
            entries = []
            for relative, content in to_files(checkpoint):
                path = hidden / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_file(path, content)
                entries.append(Entry.of(relative, content))
            manifest = Manifest(checkpoint.step, serial, tuple(entries))
            _write_file(hidden / MANIFEST, manifest.to_json())
            for folder, _, _ in os.walk(hidden, topdown=False):
                _sync_folder(Path(folder))
            final = self._free_name(checkpoint.step)
            os.rename(hidden, final)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        _sync_folder(self.directory)
        return final

    def _free_name(self, step: int) -> Path:
        name = f"checkpoint_{step:012d}"
        path, suffix = self.directory / name, 2
        while os.path.lexists(path):
            path, suffix = self.directory / f"{name}-{suffix}", suffix + 1
        return path

    def _remove_leftovers(self) -> None:
        for path in self.directory.glob(f"{_HIDDEN}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self, just_written: Path) -> None:
        if self.keep == 0:
            return
        others = [folder for folder in _newest_first(self.directory) if folder != just_written]
        for folder in others[self.keep - 1 :]:
            # Hidden first: half a checkpoint must never look like one.
            doomed = self.directory / f"{_HIDDEN}{secrets.token_hex(8)}"
            try:
                os.rename(folder, doomed)
                shutil.rmtree(doomed)
            except OSError as error:
                _log.warning("an old checkpoint stays: %s: %s", folder, error.strerror)


def _read(folder: Path) -> Checkpoint:
    manifest = read_manifest(folder)
    entries = {entry.path: entry for entry in manifest.files}

    def read(relative: str) -> bytes:
        if relative not in entries:
            raise CheckpointError(f"{folder / relative}: missing in {MANIFEST}.")
        return read_verified(folder, entries[relative])

    try:
        return from_files(read)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if str(folder) in text else f"{folder}/{text}") from None


def _folders(directory: Path) -> list[Path]:
    """Everything in the store that is named like a checkpoint; links are not looked at."""
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    named = [entry for entry in entries if _NAME.fullmatch(entry.name)]
    return [entry for entry in named if entry.is_dir() and not entry.is_symlink()]


def _newest_first(directory: Path) -> list[Path]:
    def age(folder: Path) -> tuple[int, int, int]:
        match = _NAME.fullmatch(folder.name)
        assert match is not None
        return _serial(folder), int(match[1]), int(match[2] or 1)

    return sorted(_folders(directory), key=age, reverse=True)


def _serial(folder: Path) -> int:
    """Number of the save that made it; 0, older than all, where that cannot be read."""
    try:
        return read_manifest(folder).serial
    except CheckpointError:
        return 0


def _write_file(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle to flush a folder by
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
