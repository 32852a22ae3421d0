"""All patches of all sources: found, verified once, resized and kept, so that the next start only compares listings."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from bundle.data.cache import Record, SourceCache
from bundle.data.float_range import reading_order
from bundle.data.groups import groups_of
from bundle.data.looks import look_of
from bundle.data.sources import BEYOND_UNIT, Item, Listing, UnreadableImage, list_source, parse_sources, read_image
from bundle.data.stain import macenko_normalise
from bundle.data.store_report import require_tissue, summarise
from bundle.data.texts import Texts
from bundle.data.transforms import resize_patch
from bundle.runs.context import RunContext
from bundle.runs.opening import OpenedOnUse
from bundle.runs.tables import write_rows
from bundle.runs.workflow import by_name

logger = logging.getLogger(__name__)

VERSION = 3  # raise it when decoding, hashing or resizing changes, so that old caches are not met
CHUNK_PATCHES = 1024  # written at a time: what an interruption can lose
CHUNK_BYTES = 64 * 2**20


class PatchStore(OpenedOnUse):
    """The patches of one or several sources as uint8 RGB of one size, in the order of the sources, then of the names.

    Args:
        dataset_dir: anything :func:`bundle.data.sources.parse_sources` takes.
        patch_size: side of the patches in pixels.
        cache_dir: folder for the index, the resized pixels and the list of rejected files. May be shared: each source
            has a folder of its own there for each patch size and choice of stain normalisation.
        normalise_stain: whether to normalise the stain of each full-size image (Macenko) before it is resized.
        maximum_rejected_share: share of unreadable files, in [0, 1], above which :meth:`open` raises.
        cache_gigabytes: the resized pixels are kept on disk if they fit in this many 10^9 bytes; otherwise images are
            decoded each time they are asked for.
        workers: decoding threads; None for one per core.
        maximum_blank_share: share of patches that are nearly black, nearly white, of one colour or grey, in [0, 1],
            above which :meth:`open` raises.
        blank_picture: the file that shows sixteen of these; None for `blank_patches.png` in the cache.

    Attributes:
        files: names within their source; sources: the sources themselves; source_of: int array [patches], which.
        slides: names of the slides, see `bundle.data.groups.groups_of`; slide_of: int array [patches], which.
        facts: array [patches] of `bundle.data.cache.FACTS`: what is known of each file.
        sizes: int array [patches, 2], full-size height and width.
        looks: int array [patches], places in `bundle.data.looks.LOOKS`, of the full-size image.
        weights: float array [sources], summing to 1; weighted: whether they were given, and not counted.
        rejected: (source, file, reason) of each file left out.
        caches, passed_over: by source, its pixels, and for people what is not among its images.
        fingerprint: sha256 of the sorted pixel hashes, the patch size and the choice of stain normalisation: the same
            for the same images wherever they lie and whatever they are called.
    """

    opened = (
        "files", "sources", "source_of", "slides", "slide_of", "facts", "sizes", "looks", "weights", "weighted",
        "rejected", "caches", "passed_over", "fingerprint",
    )  # fmt: skip

    def __init__(
        self,
        dataset_dir: object,
        patch_size: int,
        cache_dir: str | os.PathLike,
        normalise_stain: bool = False,
        maximum_rejected_share: float = 0.01,
        cache_gigabytes: float = 16.0,
        workers: int | None = None,
        maximum_blank_share: float = 0.75,
        blank_picture: str | os.PathLike | None = None,
    ) -> None:
        self.dataset_dir = dataset_dir
        self.patch_size = patch_size
        self.cache_dir = Path(cache_dir).expanduser()
        self.normalise_stain = normalise_stain
        self.maximum_rejected_share = maximum_rejected_share
        self.cache_gigabytes = cache_gigabytes
        self.workers = workers
        self.maximum_blank_share = maximum_blank_share
        self.blank_picture = Path(blank_picture or self.cache_dir / "blank_patches.png").expanduser()

    def open(self) -> None:
        """Lists the sources, decodes and verifies what is new or changed, and writes the cache.

        Several processes may do so at once: the others wait for the first. Interrupted, the next goes on after the last
        chunk written.

        Raises:
            FileNotFoundError, ValueError: a bad source or setting; too many files rejected or patches blank; none left.
            OSError: the cache cannot be written, or its disk is full.
        """
        self._check_settings()
        sources = parse_sources(self.dataset_dir)
        listings = {source: list_source(source) for source in sources}
        total = sum(len(listing.items) for listing in listings.values())
        cached = total * self.patch_bytes <= self.cache_gigabytes * 1e9
        caches = {source: SourceCache(self._folder(source), self.patch_size) for source in sources}
        lock = FileLock(self.cache_dir / ".lock")
        try:
            for cache in caches.values():
                cache.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=1)
            except Timeout:
                logger.info("another process is preparing %s; waiting for it", self.cache_dir)
                lock.acquire()
        except OSError as error:
            raise OSError(
                error.errno, f"cache_dir {str(self.cache_dir)!r} cannot be written: {error}. Give another --cache_dir"
            ) from error
        names = {source: Texts.of(file for file, _, _ in listing.items) for source, listing in listings.items()}
        try:
            self._update(listings, names, caches, cached)
            for listing in listings.values():
                listing.items = []  # a third of what a million patches take in memory
            self._list_rejected(listings, names, caches)
        finally:
            lock.release()
        self._collect(sources, listings, names, caches)
        require_tissue(self)

    @property
    def rejected_file(self) -> Path:
        """The list of rejected files and of what could not be examined, with columns source, file, reason."""
        return self.cache_dir / "rejected.csv"

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> torch.Tensor:
        """uint8 [3, patch_size, patch_size], RGB; from the cache, or decoded now.

        Raises:
            UnreadableImage: not cached, and the file has gone or changed for the worse since.
        """
        source, facts = self.sources[self.source_of[index]], self.facts[index]
        pixels = self.caches[source].pixels(int(facts["chunk"]), int(facts["row"]))
        if pixels is None:
            rgb, _ = read_image(source, self.files[index], bool(facts["unit"]) if facts["peak"] else None)
            pixels = _resized(rgb, self.patch_size, self.normalise_stain)
        return torch.from_numpy(pixels)

    def summary(self) -> str:
        """What was found, for people, in several lines."""
        return summarise(self)

    @property
    def groups(self) -> list[str]:
        """The slide of each patch, by name."""
        return [self.slides[number] for number in self.slide_of.tolist()]

    @property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image's full-size RGB pixels and shape, uint8 [patches, 32]."""
        return self.facts["sha256"]

    @functools.cached_property
    def pictures(self) -> np.ndarray:
        """A number for each patch, the same for those of the same pixels; int array [patches]."""
        words = np.ascontiguousarray(self.digests).view(np.uint64)
        order = np.lexsort(words.T)
        new = np.concatenate([[False], (np.diff(words[order].astype(np.uint64), axis=0) != 0).any(1)])
        pictures = np.empty(len(words), np.int64)
        pictures[order] = np.cumsum(new)
        return pictures

    @property
    def duplicates(self) -> int:
        """Patches with the same pixels as an earlier one."""
        return len(self) - int(self.pictures.max()) - 1

    @property
    def sha256(self) -> list[str]:
        """The same, hexadecimal."""
        return self.digests.tobytes().hex(" ", 32).split()

    @property
    def patch_bytes(self) -> int:
        """Of the resized pixels of one patch."""
        return 3 * self.patch_size**2

    def _check_settings(self) -> None:
        for name, kinds, lowest, highest in (
            ("patch_size", int, 1, np.inf),
            ("maximum_rejected_share", (int, float), 0, 1),
            ("maximum_blank_share", (int, float), 0, 1),
            ("cache_gigabytes", (int, float), 0, np.inf),
            ("workers", int, 1, np.inf),
        ):
            value = getattr(self, name)
            if name == "workers" and value is None:
                continue
            if not isinstance(value, kinds) or isinstance(value, bool) or not lowest <= value <= highest:
                needed = ("an integer" if kinds is int else "a number") + f" from {lowest}"
                needed += f" to {highest}" if highest < np.inf else " up"
                raise ValueError(f"--{name} is {value!r}; it must be {needed}")

    def _folder(self, source: str) -> Path:
        key = f"{VERSION}\0{os.path.abspath(source)}\0{self.patch_size}\0{bool(self.normalise_stain)}"
        return self.cache_dir / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]

    def _update(
        self, listings: dict[str, Listing], names: dict[str, Texts], caches: dict[str, SourceCache], cached: bool
    ) -> None:
        """Examine what is new or changed and complete the caches; break off once too many are known to be bad."""
        waiting: dict[str, list[Item]] = {}
        rejected = 0
        for source, cache in caches.items():
            cache.load()
            known, bad = cache.records.known(listings[source].items, names[source], cached)
            waiting[source] = [listings[source].items[place] for place in np.flatnonzero(~known).tolist()]
            rejected += int(bad.sum())
        allowed = self.maximum_rejected_share * sum(len(listing.items) for listing in listings.values())
        count = sum(len(items) for items in waiting.values())
        rows = max(1, min(CHUNK_PATCHES, CHUNK_BYTES // self.patch_bytes)) if cached else CHUNK_PATCHES
        with (
            ThreadPoolExecutor(self.workers or os.cpu_count() or 1) as threads,
            tqdm(total=count, desc="reading patches", unit="patch", disable=not count) as bar,
        ):
            for source, items, unit in reading_order(waiting, names, caches):
                before = caches[source].records if unit is not None else None
                examine = partial(_examine, source, self.patch_size, self.normalise_stain, cached, unit)
                for start in range(0, len(items), rows):
                    chunk = items[start : start + rows]
                    records, pixels = [], []
                    for record, row in threads.map(examine, chunk):
                        records.append(record)
                        pixels.append(row)
                        bar.update()
                    files = [file for file, _, _ in chunk]
                    if before is not None:  # read anew: what they weigh in the decision stays
                        places = before.rows_of(Texts.of(files))
                        peaks = before.facts["peak"][places].tolist()
                        records = [new._replace(peak=peak, unit=int(unit)) for new, peak in zip(records, peaks)]
                        rejected -= int((~before.good[places]).sum())
                    caches[source].append(files, records, pixels)
                    rejected += sum(bool(record.reason) for record in records)
                    if rejected > allowed:
                        return
        for source, cache in caches.items():
            cache.complete(names[source])

    def _list_rejected(
        self, listings: dict[str, Listing], names: dict[str, Texts], caches: dict[str, SourceCache]
    ) -> None:
        """Write the list of rejected files; raise where they are too many."""
        rejected = []
        for source, cache in caches.items():
            rows = cache.records.rows_of(names[source])  # -1 where it wasn't looked at any more
            bad = rows[rows >= 0][~cache.records.good[rows[rows >= 0]]].tolist()
            rejected += [(source, cache.records.names[row], cache.records.reasons[row]) for row in bad]
        unexamined = [(source, *entry) for source, listing in listings.items() for entry in listing.unexamined]
        write_rows(self.rejected_file, [("source", "file", "reason"), *rejected, *unexamined])
        self.rejected = rejected
        total = sum(map(len, names.values()))
        if len(rejected) > self.maximum_rejected_share * total:
            first = "; ".join(f"{Path(source) / file}: {reason}" for source, file, reason in rejected[:3])
            raise ValueError(
                f"at least {len(rejected)} of {total} files cannot be read, more than maximum_rejected_share = "
                f"{self.maximum_rejected_share}. The first: {first}. All are listed in {self.rejected_file}. Mend or "
                "remove them, or raise --maximum_rejected_share"
            )

    def _collect(
        self,
        sources: dict[str, float | None],
        listings: dict[str, Listing],
        names: dict[str, Texts],
        caches: dict[str, SourceCache],
    ) -> None:
        good = {source: np.flatnonzero(caches[source].records.good) for source in sources}
        counts = np.array([len(places) for places in good.values()])
        for source, count in zip(sources, counts):
            if count == 0:
                raise ValueError(f"dataset_dir: no file of {source!r} can be read; see {self.rejected_file} for why")
        given = [weight for weight in sources.values() if weight is not None]
        self.weights, self.weighted = np.array(given or counts / counts.sum(), np.float64), bool(given)
        self.sources, self.source_of = list(sources), np.repeat(np.arange(len(sources)), counts)
        files = Texts.joined([names[source].take(places) for source, places in good.items()])
        said = [listings[self.sources[number]].groups for number in self.source_of.tolist()]
        self.slides, self.slide_of = groups_of(files, [of.get(file) for of, file in zip(said, files)])
        self.facts = np.concatenate([caches[source].records.facts[places] for source, places in good.items()])
        self.sizes = np.stack([self.facts["height"], self.facts["width"]], axis=1)
        digests = np.ascontiguousarray(self.digests)
        in_order = np.lexsort(digests.view(">u8").T[::-1])
        content = f"{self.patch_size} {bool(self.normalise_stain)} {digests[in_order].tobytes().hex(' ', 32)}"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self.passed_over = {source: listing.passed_over() for source, listing in listings.items()}
        for cache in caches.values():
            cache.forget()  # what is known of the files is in `facts`
        self.caches = caches
        self.looks = self.facts["look"].astype(np.int64)
        self.files = files


@by_name("patch_size", "normalise_stain", "maximum_rejected_share", "maximum_blank_share", "cache_gigabytes")
def patch_store(context: RunContext, **settings: object) -> PatchStore:
    """A store of the running config, with the cache of its run.

    Args:
        context: of the run.
        **settings: arguments of PatchStore; those that are not given are top-level settings, by name.
    """
    return PatchStore(cache_dir=context.cache_dir, **settings)


def evaluated(arguments: dict[str, object]) -> dict[str, object]:
    """Arguments of a PatchStore, with the results of those that are functions: facts that earlier artefacts hold."""
    return {name: value() if callable(value) else value for name, value in arguments.items()}


def _examine(
    source: str, patch_size: int, normalise_stain: bool, keep: bool, unit: bool | None, item: Item
) -> tuple[Record, np.ndarray | None]:
    """Decode one image once: its record, and its resized pixels, [3, S, S], where they are to be kept."""
    file, size, mtime_ns = item
    try:
        rgb, peak = read_image(source, file, unit)
    except UnreadableImage as error:
        return Record(size, mtime_ns, 0, 0, b"", error.reason), None
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(f"{height}x{width}".encode())
    digest.update(rgb)  # and no copy of it, which may be large
    pixels = _resized(rgb, patch_size, normalise_stain) if keep else None
    is_unit = 0 < peak < BEYOND_UNIT if unit is None else unit
    return Record(size, mtime_ns, height, width, digest.digest(), "", look_of(rgb), peak, int(is_unit)), pixels


def _resized(rgb: np.ndarray, patch_size: int, normalise_stain: bool) -> np.ndarray:
    rgb = resize_patch(macenko_normalise(rgb) if normalise_stain else rgb, patch_size)
    return np.array(rgb.transpose(2, 0, 1), order="C")
