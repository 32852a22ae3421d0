"""What is known of one source from earlier runs, on disk: a record per file, and the resized pixels in chunks.

    index.npz           the records as of the last complete run
    part-<chunk>.npz    the records of one chunk, while a run is in progress (or after it was interrupted)
    pixels-<chunk>.npy  uint8 [rows, 3, patch_size, patch_size], the pixels of that chunk

A chunk is named by the time of its writing and written once, its pixels before its records, so what the records name
is always there. Whoever writes must hold the lock of the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bundle.runs.files import write_atomically

logger = logging.getLogger(__name__)

NOT_CACHED = -1
REMEDY = ", give a --cache_dir on another disk, or lower --cache_gigabytes,"


class Record(NamedTuple):
    """One file: its size and time as read, its decoded size and hash, where its pixels are, or why it was rejected."""

    size: int  # bytes
    mtime_ns: int
    height: int
    width: int
    sha256: str  # of the full-size RGB pixels; empty where rejected
    chunk: int  # NOT_CACHED where the pixels are not kept
    row: int
    reason: str  # empty where the file is good
    look: int = 0  # place in `bundle.data.looks.LOOKS`
    peak: float = 0.0  # largest value of an image of floats, 0 for any other
    unit: int = 0  # whether they were read as lying in [0, 1]


class SourceCache:
    """The records and pixel chunks of one source at one setting; reads nothing until :meth:`load`."""

    def __init__(self, folder: Path, patch_size: int) -> None:
        self.folder = folder
        self.patch_size = patch_size
        self.records: dict[str, Record] = {}
        self._chunks: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_chunks": {}}  # a pickled memory map would carry all its pixels along

    def load(self) -> None:
        """Read the records, complete or of an interrupted run; drop those whose pixels are gone."""
        self.records, self._chunks = {}, {}
        for path in [self.folder / "index.npz", *sorted(self.folder.glob("part-*.npz"))]:
            if path.exists():
                try:
                    self.records.update(_read_records(path))
                except Exception as error:  # damaged from outside; what it held is found out again
                    logger.warning("%s cannot be read (%s); its files are read again", path, error)
        usable = {NOT_CACHED}
        for chunk in {record.chunk for record in self.records.values()} - usable:
            try:
                self._pixels(chunk)
                usable.add(chunk)
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be read (%s); its files are read again", self._pixel_file(chunk), error)
        self.records = {file: record for file, record in self.records.items() if record.chunk in usable}

    def append(self, files: list[str], records: list[Record], pixels: list[np.ndarray | None]) -> None:
        """Keep a chunk: `pixels` are uint8 [3, S, S], or None where they are not to be kept. Both files are atomic."""
        # Never a name used before: another process may still be reading a chunk that has since been removed.
        chunk = time.time_ns()
        rows = [row for row in pixels if row is not None]
        if rows:
            size = sum(row.nbytes for row in rows)
            write_atomically(
                self._pixel_file(chunk), lambda temporary: np.save(temporary, np.stack(rows)), REMEDY, size=size
            )
        next_row = 0
        placed: dict[str, Record] = {}
        for file, record, row in zip(files, records, pixels):
            placed[file] = record if row is None else record._replace(chunk=chunk, row=next_row)
            next_row += row is not None
        _write_records(self.folder / f"part-{chunk}.npz", placed)
        self.records.update(placed)

    def complete(self, files: Iterable[str]) -> None:
        """Write the one index of exactly `files`, then remove the parts, and the chunks that nothing names any more."""
        kept = {file: self.records[file] for file in files}
        parts = sorted(self.folder.glob("part-*.npz"))
        if parts or kept.keys() != self.records.keys() or not (self.folder / "index.npz").exists():
            self.records = kept
            _write_records(self.folder / "index.npz", kept)
        self.records = kept
        chunks = {record.chunk for record in kept.values()} - {NOT_CACHED}
        for chunk in chunks:  # opened now, so that they stay readable if a later run of another process removes them
            self._pixels(chunk)
        used = {self._pixel_file(chunk) for chunk in chunks}
        unused = [path for path in self.folder.glob("pixels-*.npy") if path not in used]
        for path in [*parts, *unused, *self.folder.glob(".*.tmp.*")]:
            path.unlink(missing_ok=True)

    def pixels(self, file: str) -> np.ndarray | None:
        """uint8 [3, S, S], a copy; None where the pixels are not cached."""
        record = self.records[file]
        return None if record.chunk == NOT_CACHED else np.array(self._pixels(record.chunk)[record.row])

    def _pixel_file(self, chunk: int) -> Path:
        return self.folder / f"pixels-{chunk}.npy"

    def _pixels(self, chunk: int) -> np.ndarray:
        if chunk not in self._chunks:
            pixels = np.load(self._pixel_file(chunk), mmap_mode="r", allow_pickle=False)
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, self.patch_size, self.patch_size):
                raise ValueError(f"it holds {pixels.dtype} {pixels.shape}")
            self._chunks[chunk] = pixels
        return self._chunks[chunk]


def _write_records(path: Path, records: dict[str, Record]) -> None:
    columns = dict(zip(Record._fields, zip(*records.values()))) if records else {name: () for name in Record._fields}
    numbers = ("size", "mtime_ns", "height", "width", "chunk", "row", "look", "unit")
    arrays = {name: np.array(columns[name], np.int64) for name in numbers}
    arrays["peak"] = np.array(columns["peak"], np.float64)
    # Text as UTF-8 with a zero byte between: a numpy array of strings would take four bytes for every letter of the
    # longest path, for every path.
    for name, strings in (("name", records), ("sha256", columns["sha256"]), ("reason", columns["reason"])):
        arrays[name] = np.frombuffer("\0".join(strings).encode(errors="surrogateescape"), np.uint8)
    write_atomically(path, lambda temporary: np.savez(temporary, **arrays), REMEDY)


def _read_records(path: Path) -> dict[str, Record]:
    with np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    count = len(columns["size"])
    text = {
        name: columns[name].tobytes().decode(errors="surrogateescape").split("\0") if count else []
        for name in ("name", "sha256", "reason")
    }
    values = [text[name] if name in text else columns[name].tolist() for name in Record._fields]
    if any(len(column) != count for column in (*values, text["name"])):
        raise ValueError("its columns differ in length")
    return dict(zip(text["name"], map(Record._make, zip(*values))))
