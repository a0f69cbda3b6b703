"""The manifest: which files a checkpoint has, how long they are, and their SHA-256.

It is written last, so a folder without one is a folder whose writer died. It guards against
torn writes and bit rot, not against a forger, who can write a manifest too; against that one
stands that nothing here can leave the folder and nothing that is read can run.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from policy_server.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
_MAX_MANIFEST_BYTES = 16 << 20
# Everything a checkpoint may consist of: no "..", no absolute path, nothing hidden.
_PATH = re.compile(
    r"(settings|state)\.json|policies/[A-Za-z0-9_%-]{1,255}/(tensors\.safetensors|state\.json)"
)


@dataclass(frozen=True)
class Entry:
    """One file: its path below the folder (with "/"), bytes, and hash as 64 hex digits."""

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, content: bytes) -> Entry:
        return cls(path, len(content), sha256(content).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    step: environment steps.
    serial: grows by one with each checkpoint written into a store; tells which is newest even
        where a run went back to an earlier step.
    """

    step: int
    serial: int
    files: tuple[Entry, ...]

    def to_json(self) -> bytes:
        files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files]
        content = {"format": FORMAT, "step": self.step, "serial": self.serial, "files": files}
        return json.dumps(content, indent=1).encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, every field checked.

    Raises:
        CheckpointError: there is none, it is damaged, of another format, or names a file that no
            checkpoint has.
    """
    path = folder / MANIFEST
    raw = read_plain_file(folder, MANIFEST, _MAX_MANIFEST_BYTES)
    try:
        data = json.loads(raw)
        format_ = data["format"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged, expected a manifest in JSON.") from None
    if format_ != FORMAT:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT}, got {format_!r:.40}: load it with the "
            "version of the server that wrote it."
        )
    try:
        files = tuple(_read_entry(item, path) for item in data["files"])
        manifest = Manifest(_count(data["step"]), _count(data["serial"]), files)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: damaged, expected step, serial and files.") from None
    if len({entry.path for entry in files}) != len(files):
        raise CheckpointError(f"{path}: damaged, names a file twice.")
    return manifest


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _read_entry(item: Any, manifest: Path) -> Entry:
    path = item["path"]
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise CheckpointError(
            f"{manifest}: refused, it names {path!r:.80}, which is not a file of a checkpoint."
        )
    digest = item["sha256"]
    if not isinstance(digest, str):
        raise ValueError
    return Entry(path, _count(item["size"]), digest)


def read_verified(folder: Path, entry: Entry) -> bytes:
    """The content of one file, which is what the manifest says.

    Raises:
        CheckpointError: naming the file.
    """
    content = read_plain_file(folder, entry.path, entry.size)
    if len(content) != entry.size:
        raise CheckpointError(
            f"{folder / entry.path}: damaged, expected {entry.size} bytes, got {len(content)}."
        )
    if sha256(content).hexdigest() != entry.sha256:
        raise CheckpointError(f"{folder / entry.path}: damaged, its SHA-256 is another.")
    return content


def read_plain_file(folder: Path, relative: str, limit: int) -> bytes:
    """A file below `folder`, no link on the way, no device or pipe at the end.

    Raises:
        CheckpointError: missing, no plain file, longer than `limit` bytes, unreadable.
    """
    path = folder
    try:
        for part in ("", *relative.split("/")):
            path = path / part
            mode = path.lstat().st_mode
            wanted = stat.S_ISREG(mode) if path == folder / relative else stat.S_ISDIR(mode)
            if not wanted:
                kind = "a link" if stat.S_ISLNK(mode) else "something else"
                what = "a plain file" if path == folder / relative else "a folder"
                raise CheckpointError(f"{path}: refused, expected {what}, got {kind}.")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing, so this is no complete checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(content) > limit:
        raise CheckpointError(f"{path}: damaged, expected at most {limit} bytes, got more.")
    return content
