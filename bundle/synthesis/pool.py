"""A pool of synthetic images in class folders, the same for every generator, that can be continued and extended.

`<CLASS>/<CLASS>_<seed>.png`, each with marks that say what made it; `manifest.csv` with a row an image; `pool.json`
with the identity of what made them. All images of a pool have the same identity.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, read_marks, save_marked_png
from bundle.runs.files import require_space, write_json
from bundle.runs.processes import lock_folder
from bundle.runs.sums import content_hash
from bundle.runs.tables import read_csv, write_rows
from bundle.synthesis.extension import sealed

FORMAT = "histodiffusion-pool/1"
POOL_FILE = "pool.json"
COLUMNS = ("file", "class", "seed", "generator", "sampler", "steps", "guidance_scale", "model_hash", "config_hash")
WAITING_IMAGES = 256  # images in memory that wait for the disk
# By what a file is whole: a cheap look, since a pool may have a hundred thousand.
PNG_BEGINS, PNG_ENDS = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
PNG_SHARE = 0.5  # of the bytes of its pixels, what a PNG of tissue takes at least; 0.68 in the mean over NCT-CRC-HE
REMEDY = ", lower --num_images, or give a --dataset_dir on another disk,"

logger = logging.getLogger(__name__)

Key = tuple[str, int]


class Pool:
    """A folder of synthetic images. Nothing is read or written before :meth:`open`.

    Args:
        folder: the pool's folder, for nothing else.
        identity: what decides the pixels of an image besides its class and seed, or a function that gives it:
            "generator" (name), "model" (hash of the weights) and "settings" (plain data; "sampler", "steps" and
            "guidance_scale", where given, have columns in the manifest). No counts, batch sizes or paths.
        threads: images are compressed and written by so many threads.
        shared: whether the processes of one torchrun may fill it together.
        extend: how it gets more images, kept in `pool.json` beside the identity: {"config": name of a config of this
            bundle that makes pools, "settings": {flag: plain value}}, or a function that gives it or None. None leaves
            there what is there. See `bundle.synthesis.extension`.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: dict[str, Any] | Callable[[], dict[str, Any]],
        threads: int = 4,
        shared: bool = False,
        extend: dict[str, Any] | Callable[[], dict[str, Any] | None] | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.given_identity = identity
        self.given_extend = extend
        self.threads = threads
        self.shared = shared
        self.identity: dict[str, Any] = {}
        self._lock: FileLock | None = None
        self._known: set[Key] = set()
        self._pending: dict[Future, Key] = {}

    def open(self) -> Pool:
        """Locks the folder and finds out which images are there, once.

        Raises:
            RuntimeError: another run is writing to it.
            ValueError: it is not a pool, or one of another model or other settings; both sides are named.
        """
        if self._lock is not None:
            return self
        self.identity = self.given_identity() if callable(self.given_identity) else self.given_identity
        self._lock = lock_folder(self.folder, "dataset_dir", self.shared)
        try:
            with self.among_processes():
                self._require_identity()
                self._known = self._find()
        except BaseException:
            self._lock.release()
            self._lock = None
            raise
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="png")
        return self

    @property
    def hash(self) -> str:
        """Of the identity, as in `pool.json`."""
        return content_hash(self.identity)

    @property
    def marks(self) -> dict[str, str]:
        """What every image of the pool says about its origin."""
        return marks_of(self.identity)

    def path(self, name: str, seed: int) -> Path:
        """Where the image of a class and seed is or will be.

        Raises:
            ValueError: the class name can't be a folder's.
        """
        if name in ("", ".", "..") or name.startswith(".") or re.search(r"[/\\\0]", name):
            raise ValueError(
                f"the class {name!r} can't name a folder of a pool: rename it, without '/' and '\\' and a '.' in front"
            )
        return self.folder / image_file(name, seed)

    def has(self, name: str, seed: int) -> bool:
        """Whether the image is there or about to be."""
        return (name, seed) in self._known or (name, seed) in self._pending.values()

    def __len__(self) -> int:
        return len(self._known)

    def keys(self) -> list[Key]:
        """Class and seed of each image on the disk, in order."""
        return sorted(self._known)

    def add(self, name: str, seed: int, image: np.ndarray) -> None:
        """Writes an image in the background; one that is there already is left as it is.

        Args:
            name: its class.
            seed: its seed.
            image: uint8 RGB [height, width, 3].

        Raises:
            OSError: an earlier image could not be written, as on a full disk. All others are kept.
        """
        self._settle(WAITING_IMAGES)
        if not self.has(name, seed):
            arguments = self.path(name, seed), image, TRAINED_ALGORITHMIC_MEDIA
            fields = {"Class": name, "Seed": str(seed), **self.marks}
            # On the disk before the manifest names it.
            self._pending[self._executor.submit(save_marked_png, *arguments, fields, True)] = (name, seed)

    def require_space(self, count: int, side: int) -> None:
        """Refuses to begin with more images of `side` x `side` pixels than the disk has room for.

        Raises:
            OSError: too little is free; says how much is needed.
        """
        require_space(self.folder, round(PNG_SHARE * count * side * side * 3), REMEDY)

    def image(self, name: str, seed: int) -> np.ndarray:
        """An image of the pool, uint8 RGB [height, width, 3]."""
        with Image.open(self.path(name, seed)) as image:
            return np.asarray(image.convert("RGB"))

    def flush(self) -> None:
        """Waits until all images are on the disk, and lists every image of the pool in `manifest.csv`.

        Raises:
            OSError: an image or the list could not be written.
        """
        try:
            self._settle(0)
        finally:
            wait(self._pending)
            with self.among_processes():
                self._known = self._find()
                self._write_manifest()

    def close(self) -> None:
        """Flushes, and gives the lock back."""
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._executor.shutdown()
            self._pending = {}
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Pool:
        return self.open()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _settle(self, waiting: int) -> None:
        """Takes note of what has been written, until at most so many images wait."""
        while True:
            for future in [future for future in self._pending if future.done()]:
                key = self._pending.pop(future)
                future.result()
                self._known.add(key)
            if len(self._pending) <= waiting:
                return
            wait(self._pending, return_when=FIRST_COMPLETED)

    def among_processes(self) -> FileLock:
        """A lock to hold for a moment, so that no two processes write the same file."""
        return FileLock(self.folder / ".manifest.lock")

    def _require_identity(self) -> None:
        path = self.folder / POOL_FILE
        extend = self.given_extend() if callable(self.given_extend) else self.given_extend
        content = {"format": FORMAT, "hash": self.hash, "identity": self.identity}
        extend = None if extend is None else sealed(extend, self.hash)
        content |= {} if extend is None else {"extend": extend}
        if not path.is_file():
            others = [entry.name for entry in self.folder.iterdir() if not entry.name.startswith(".")]
            if others:
                raise ValueError(
                    f"{self.folder} is not a pool: it has no pool.json, but {', '.join(sorted(others)[:3])}. Choose "
                    "another folder with --output_dir or --dataset_dir"
                )
            write_json(path, content)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            theirs = flatten(found["identity"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} can't be read as the identity of a pool: {error!r}") from error
        ours = flatten(json.loads(json.dumps(self.identity)))
        differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if differing or found.get("format") != FORMAT:
            listed = "; ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in differing)
            raise ValueError(
                f"the pool {self.folder} was made by another model or with other settings ({listed or found['format']})"
                ", and one pool doesn't mix them. Give the former ones, or choose another --output_dir"
            )
        if extend is not None and found.get("extend") != extend:
            write_json(path, content)

    def _find(self) -> set[Key]:
        """All whole images in the folder. Those that the manifest doesn't list say themselves where they come from.

        One that a power failure left empty or cut short is no image: it is made again where it is asked for.
        """
        listed = self._listed()
        found, broken = set(), []
        for folder in self.folder.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            for entry in folder.iterdir():
                seed = seed_of(entry)
                if seed is None:
                    continue
                key = (folder.name, seed)
                if key not in self._known and not is_whole_png(entry):
                    broken.append(str(entry))
                elif key in listed or key in self._known or self._is_ours(entry, *key):
                    found.add(key)
        if broken:
            logger.warning(
                f"{len(broken)} broken images of the pool are made again when asked for, such as {broken[0]}"
            )
        return found

    def _is_ours(self, path: Path, name: str, seed: int) -> bool:
        try:
            require_marks(path, {"Class": name, "Seed": str(seed), **self.marks})
        except (OSError, SyntaxError):
            return False  # its middle is broken; it will be made again
        return True

    def _listed(self) -> set[Key]:
        path = self.folder / "manifest.csv"
        if not path.is_file():
            return set()
        hashes = {"model_hash": self.marks["ModelHash"], "config_hash": self.marks["ConfigHash"]}
        rows = [row for row in read_csv(path) if row.items() >= hashes.items()]
        keys = [(row.get("class"), row.get("seed") or "") for row in rows]
        return {(name, int(seed)) for name, seed in keys if name and seed.isascii() and seed.isdigit()}

    def _write_manifest(self) -> None:
        settings = self.identity["settings"]
        shared = [self.identity["generator"], *(settings.get(name, "") for name in COLUMNS[4:7])]
        shared += [self.marks["ModelHash"], self.marks["ConfigHash"]]
        keys = sorted(self._known)
        rows = ([image_file(*key), *key, *shared] for key in keys)
        write_rows(self.folder / "manifest.csv", [COLUMNS, *rows])


def image_file(name: str, seed: int) -> str:
    """Name of an image within its pool."""
    return f"{name}/{name}_{seed}.png"


def seed_of(path: Path) -> int | None:
    """The seed that an image in the folder of its class is named by; None for any other file."""
    found = re.fullmatch(re.escape(path.parent.name) + r"_(0|[1-9][0-9]*)\.png", path.name)
    return None if found is None else int(found[1])


def is_whole_png(path: Path) -> bool:
    """Whether a file begins and ends as a PNG does."""
    with open(path, "rb") as file:
        begins = file.read(len(PNG_BEGINS)) == PNG_BEGINS
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(PNG_ENDS)))
        return begins and file.read() == PNG_ENDS


def marks_of(identity: dict[str, Any]) -> dict[str, str]:
    """What every image of a pool says about its origin."""
    return {
        "Generator": identity["generator"],
        "ModelHash": identity["model"],
        "ConfigHash": content_hash(identity["settings"]),
    }


def require_marks(path: Path, expected: dict[str, str]) -> None:
    """Refuses an image without the marks of its pool.

    Raises:
        ValueError: it has others; both are named.
        OSError: it can't be read.
    """
    marks = read_marks(path)
    found = {field: marks.get(field) for field in expected}
    if found != expected:
        raise ValueError(
            f"{path} does not belong to this pool: its marks are {found}, expected {expected}. Remove it from there"
        )


def flatten(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"settings": {"steps": 50}} -> {"settings: steps": 50}, to name what differs."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= flatten(value, f"{above}{name}: ") if isinstance(value, dict) else {above + name: value}
    return flat
