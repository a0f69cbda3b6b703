"""Numbers over time, written where people and programs look for them.

    recorder = Recorder("runs/today", ["jsonl", "csv", "tensorboard"])
    recorder.record(4000, {"policy1/episode_return_mean": 21.5})

Every sink appends to what an earlier run of the same folder left, after repairing a last line
that a crash cut short.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from policy_server.errors import ConfigError, RunDirError

JSONL, CSV, TENSORBOARD = "metrics.jsonl", "metrics.csv", "tensorboard"
STEP = "env_steps"


class Sink(Protocol):
    """Takes records in; made with the run folder."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """`step`: environment steps so far; `values`: name, such as "policy1/kl" -> number."""

    def close(self) -> None:
        """No more records come."""


class JsonlSink:
    """`metrics.jsonl`: one JSON object a line, `env_steps` first, flushed. A number that is not
    finite is written as null, since JSON has no spelling for it."""

    def __init__(self, run_dir: Path):
        self._file = _open_repaired(run_dir / JSONL)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        row: dict[str, float | None] = {STEP: step}
        row |= {k: v if math.isfinite(v) else None for k, v in values.items() if k != STEP}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class CsvSink:
    """`metrics.csv`: a header, then one row per record, an empty cell where a record has no such
    number. When a new name turns up, the file is written again with one more column and takes
    the old one's place in one rename, so that a reader always finds a whole table."""

    def __init__(self, run_dir: Path):
        self._path = run_dir / CSV
        self._file = _open_repaired(self._path)
        with open(self._path, newline="", encoding="utf-8") as file:
            self._columns = next(csv.reader(file), [])

    def record(self, step: int, values: Mapping[str, float]) -> None:
        row = {STEP: step, **{k: v for k, v in values.items() if k != STEP}}
        new = [name for name in row if name not in self._columns]
        if new:
            self._grow([*self._columns, *new])
        csv.DictWriter(self._file, self._columns, lineterminator="\n").writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _grow(self, columns: list[str]) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        with (
            open(self._path, newline="", encoding="utf-8") as old,
            open(temporary, "w", newline="", encoding="utf-8") as new,
        ):
            writer = csv.DictWriter(new, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(csv.DictReader(old))
            new.flush()
            os.fsync(new.fileno())
        self._file.close()
        os.replace(temporary, self._path)
        self._file = _open_repaired(self._path)
        self._columns = columns


class TensorBoardSink:
    """`tensorboard/`: event files for `tensorboard --logdir`, written at least every 10 s.

    Written by tensorboard's own package, with the first record: torch's writer would import
    torch, a second of a start at which nothing else in this process needs it.
    """

    def __init__(self, run_dir: Path):
        self._folder = run_dir / TENSORBOARD
        self._writer: Any = None

    def record(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder), flush_secs=10)
        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if name != STEP
        ]
        summary = Summary(value=scalars)
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


SINKS: dict[str, type[JsonlSink] | type[CsvSink] | type[TensorBoardSink]] = {
    "jsonl": JsonlSink,
    "csv": CsvSink,
    "tensorboard": TensorBoardSink,
}


class Recorder:
    """Writes records to all its sinks. One thread calls it, never the hot loop's.

    Args:
        run_dir: an existing folder (`run_dir.prepare_run_dir`).
        sinks: names among `SINKS`, or objects that are a `Sink`.

    Raises:
        ConfigError: there is no sink of that name.
        RunDirError: from every method, where the disk refuses.
    """

    def __init__(self, run_dir: str | Path, sinks: Iterable[str | Sink] = tuple(SINKS)):
        self._run_dir = Path(run_dir)
        self._sinks: list[Sink] = []
        for sink in sinks:
            if isinstance(sink, str) and sink not in SINKS:
                raise ConfigError(
                    f"metrics: expected sinks among {', '.join(SINKS)}, got {sink!r}."
                )
            try:
                self._sinks.append(SINKS[sink](self._run_dir) if isinstance(sink, str) else sink)
            except OSError as error:
                raise self._refused(error) from error

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one record.

        Args:
            step: environment steps so far; the x axis of everything.
            values: nested names, "policy1/episode_return_mean" -> number. A "env_steps" among
                them is ignored in favour of `step`.

        Raises:
            TypeError: a value is no number.
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        for sink in self._sinks:
            try:
                sink.record(int(step), numbers)
            except OSError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """Flushes and closes all sinks. The second time does nothing."""
        while self._sinks:
            try:
                self._sinks.pop().close()
            except OSError as error:
                raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refused(self, error: OSError) -> RunDirError:
        where = error.filename or self._run_dir
        return RunDirError(f"{where}: metrics cannot be written: {error.strerror}.")


def _number(name: str, value: Any) -> float:
    if hasattr(value, "item"):  # numpy's scalars, torch's
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"metric {name!r}: expected a number, got {value!r:.60}")
    return value


def _open_repaired(path: Path) -> IO[str]:
    """Opens for appending; what stands behind the last line break was cut by a crash and goes."""
    with open(path, "a+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep, block = end, 1 << 16
        while keep > 0:
            start = max(0, keep - block)
            file.seek(start)
            at = file.read(keep - start).rfind(b"\n")
            keep = start + at + 1 if at >= 0 else start
            if at >= 0:
                break
        if keep != end:
            file.truncate(keep)
    return open(path, "a", newline="", encoding="utf-8")
