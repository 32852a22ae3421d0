"""What is known of one source from earlier runs, on disk: facts about each file, and the resized pixels.

    index.npz            the facts as of the last complete run
    part-<time>.npz      those of one chunk, while a run is in progress (or after it was interrupted)
    pixels-<time>.u8     uint8 rows of 3 x patch_size x patch_size: the pixels that one run found

A file of pixels grows by a chunk, which is on the disk before its facts are written: what the facts name is always
there. One file a run, so that a million patches need a few open files and not thousands. Whoever writes must hold the
lock of the store.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bundle.data.listing import Item
from bundle.data.texts import Texts
from bundle.runs.files import OUT_OF_FILES, explain_full_disk, require_space, write_atomically

logger = logging.getLogger(__name__)

NOT_CACHED = -1
OPEN_FILES = 32  # files of pixels that one process keeps open for one source
REMEDY = ", give a --cache_dir on another disk, or lower --cache_gigabytes,"
FACTS = np.dtype(
    [
        ("size", "i8"), ("mtime_ns", "i8"), ("height", "i4"), ("width", "i4"), ("sha256", "u1", 32), ("chunk", "i8"),
        ("row", "i8"), ("look", "i1"), ("peak", "f8"), ("unit", "i1"),
    ]
)  # fmt: skip


class Record(NamedTuple):
    """One file: its size and time as read, its decoded size and hash, or why it was rejected."""

    size: int  # bytes
    mtime_ns: int
    height: int
    width: int
    sha256: bytes  # of the full-size RGB pixels
    reason: str = ""  # empty where the file is good
    look: int = 0  # place in `bundle.data.looks.LOOKS`
    peak: float = 0.0  # largest value of an image of floats, 0 for any other
    unit: int = 0  # whether they were read as lying in [0, 1]


@dataclasses.dataclass(frozen=True)
class Records:
    """Facts about many files, by column.

    Args:
        names: of the files.
        facts: of type FACTS, one each; `chunk` is the time in the name of the file that has its pixels, or NOT_CACHED,
            and `row` their place there.
        reasons: why each was rejected; empty where it is good.
    """

    names: Texts
    facts: np.ndarray
    reasons: Texts

    @classmethod
    def of(cls, files: Sequence[str], records: Sequence[Record], chunk: int, rows: Sequence[int]) -> Records:
        """Of files whose pixels have these rows of a chunk; the row of one without pixels is negative."""
        facts = np.zeros(len(files), FACTS)
        for name in ("size", "mtime_ns", "height", "width", "look", "peak", "unit"):
            facts[name] = [getattr(record, name) for record in records]
        hashes = b"".join(record.sha256.ljust(32, b"\0") for record in records)
        facts["sha256"] = np.frombuffer(hashes, np.uint8).reshape(-1, 32)
        facts["row"] = rows
        facts["chunk"] = np.where(facts["row"] < 0, NOT_CACHED, chunk)
        return cls(Texts.of(files), facts, Texts.of(record.reason for record in records))

    @classmethod
    def merged(cls, parts: Sequence[Records]) -> Records:
        """All of them; what a later part says of a file replaces what an earlier one says."""
        names = Texts.joined([part.names for part in parts])
        facts = np.concatenate([part.facts for part in parts]) if parts else np.zeros(0, FACTS)
        together = cls(names, facts, Texts.joined([part.reasons for part in parts]))
        if len(parts) < 2:
            return together
        return together.take(np.array(list({name: row for row, name in enumerate(names)}.values()), np.int64))

    def take(self, rows: np.ndarray) -> Records:
        """Those at these places, in this order."""
        return Records(self.names.take(rows), self.facts[rows], self.reasons.take(rows))

    def rows_of(self, names: Texts) -> np.ndarray:
        """Where each name is; -1 where it isn't."""
        if names == self.names:
            return np.arange(len(names))
        places = {name: row for row, name in enumerate(self.names)}
        return np.array([places.get(name, -1) for name in names], np.int64)

    def known(self, items: Sequence[Item], names: Texts, cached: bool) -> tuple[np.ndarray, np.ndarray]:
        """Of each item, whether what was recorded still holds, and whether it was rejected and still is.

        It holds where the file has not changed, and its pixels are there if they should be.
        """
        rows = self.rows_of(names)
        there = np.flatnonzero(rows >= 0)
        facts, good = self.facts[rows[there]], self.good[rows[there]]
        holds = ~good | (facts["chunk"] != NOT_CACHED) if cached else np.ones(len(there), bool)
        for column, field in ((1, "size"), (2, "mtime_ns")):
            found = np.fromiter((item[column] for item in items), np.int64, len(items))
            holds &= facts[field] == found[there]
        known, bad = np.zeros(len(items), bool), np.zeros(len(items), bool)
        known[there], bad[there] = holds, holds & ~good
        return known, bad

    @property
    def good(self) -> np.ndarray:
        """Boolean [N]: whether each could be read."""
        return self.reasons.lengths() == 0

    def write(self, path: Path) -> None:
        arrays = {"names": self.names.content, "facts": self.facts, "reasons": self.reasons.content}
        write_atomically(path, lambda temporary: np.savez(temporary, **arrays), REMEDY)

    @classmethod
    def read(cls, path: Path) -> Records:
        """Raises whatever a damaged file makes numpy raise; ValueError where its columns differ in length."""
        with np.load(path, allow_pickle=False) as archive:
            found = cls(Texts(archive["names"]), archive["facts"], Texts(archive["reasons"]))
        if found.facts.dtype != FACTS or not len(found.names) == len(found.facts) == len(found.reasons):
            raise ValueError("its columns differ in length or type")
        return found


class SourceCache:
    """The facts and pixels of one source at one setting; reads nothing until :meth:`load`."""

    def __init__(self, folder: Path, patch_size: int) -> None:
        self.folder = folder
        self.patch_size = patch_size
        self._parts: list[Records] = []
        self._writing: int | None = None
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": OrderedDict()}  # a pickled memory map would carry all its pixels along

    @property
    def records(self) -> Records:
        if len(self._parts) != 1:
            self._parts = [Records.merged(self._parts)]
        return self._parts[0]

    def load(self) -> None:
        """Reads the facts, complete or of an interrupted run; drops those whose pixels are gone."""
        self._parts, self._writing = [], None
        self._maps.clear()
        for path in [self.folder / "index.npz", *sorted(self.folder.glob("part-*.npz"))]:
            if path.exists():
                try:
                    self._parts.append(Records.read(path))
                except Exception as error:  # damaged from outside; what it held is found out again
                    if getattr(error, "errno", None) in OUT_OF_FILES:
                        raise
                    logger.warning("%s cannot be read (%s); its files are read again", path, error)
        facts = self.records.facts
        lost = np.zeros(len(facts), bool)
        for chunk in np.unique(facts["chunk"][facts["chunk"] != NOT_CACHED]).tolist():
            named = facts["chunk"] == chunk
            path = self._pixel_file(chunk)
            needed = (int(facts["row"][named].max()) + 1) * self.patch_bytes
            held = path.stat().st_size if path.exists() else 0
            if held < needed:
                logger.warning("%s has %d bytes of %d; its files are read again", path, held, needed)
                lost |= named
        if lost.any():
            self._parts = [self.records.take(np.flatnonzero(~lost))]

    def forget(self) -> None:
        """Lets go of the facts, which whoever asked for them now keeps."""
        self._parts = []

    def append(self, files: list[str], records: list[Record], pixels: list[np.ndarray | None]) -> None:
        """Keeps a chunk: `pixels` are uint8 [3, S, S], or None where they are not to be kept."""
        kept = [row for row in pixels if row is not None]
        first = self._write(kept) if kept else 0
        places = iter(range(first, first + len(kept)))
        rows = [NOT_CACHED if row is None else next(places) for row in pixels]
        part = Records.of(files, records, self._writing or NOT_CACHED, rows)
        part.write(self.folder / f"part-{time.time_ns()}.npz")
        self._parts.append(part)

    def _write(self, rows: list[np.ndarray]) -> int:
        """Adds rows to this run's file of pixels; returns the place of the first."""
        if self._writing is None:
            # Never a name used before: another process may still be reading a file that has since been removed.
            self._writing = time.time_ns()
        path, size = self._pixel_file(self._writing), len(rows) * self.patch_bytes
        with explain_full_disk(path, REMEDY, size):
            require_space(path, size, REMEDY)
            with open(path, "ab") as file:
                first = file.tell() // self.patch_bytes
                for row in rows:
                    file.write(row.data)
                file.flush()
                os.fsync(file.fileno())
        return first

    def complete(self, names: Texts) -> None:
        """Writes the one index of exactly these files, then removes the parts, and the pixels that nothing names."""
        parts = sorted(self.folder.glob("part-*.npz"))
        before, rows = self.records, self.records.rows_of(names)
        self._parts = [before.take(rows)]
        if parts or names != before.names or not (self.folder / "index.npz").exists():
            self.records.write(self.folder / "index.npz")
        chunks = np.unique(self.records.facts["chunk"]).tolist()
        for chunk in chunks[-OPEN_FILES:]:  # opened now: readable still if a later run of another process removes them
            if chunk != NOT_CACHED:
                self._pixels(chunk)
        used = {self._pixel_file(chunk) for chunk in chunks}
        unused = [path for path in self.folder.glob("pixels-*") if path not in used]
        for path in [*parts, *unused, *self.folder.glob(".*.tmp.*")]:
            path.unlink(missing_ok=True)

    def pixels(self, chunk: int, row: int) -> np.ndarray | None:
        """uint8 [3, S, S], a copy; None where they are not cached, or no longer."""
        if chunk == NOT_CACHED:
            return None
        try:
            return np.array(self._pixels(chunk)[row])
        except FileNotFoundError:  # another run has found its patches changed
            return None

    @property
    def patch_bytes(self) -> int:
        return 3 * self.patch_size**2

    def _pixel_file(self, chunk: int) -> Path:
        return self.folder / f"pixels-{chunk}.u8"

    def _pixels(self, chunk: int) -> np.ndarray:
        if chunk not in self._maps:
            path = self._pixel_file(chunk)
            rows = path.stat().st_size // self.patch_bytes
            self._maps[chunk] = np.memmap(path, np.uint8, "r", shape=(rows, 3, self.patch_size, self.patch_size))
            if len(self._maps) > OPEN_FILES:
                self._maps.popitem(last=False)
        self._maps.move_to_end(chunk)
        return self._maps[chunk]
