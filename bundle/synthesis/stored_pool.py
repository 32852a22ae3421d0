"""A pool of synthetic images as it lies on the disk, whoever made it: checked before it is believed, and extended."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.sources import read_rgb
from bundle.runs.chain import run_config
from bundle.runs.opening import OpenedOnUse
from bundle.runs.sums import content_hash
from bundle.synthesis.extension import checked
from bundle.synthesis.pool import FORMAT, POOL_FILE, Key, image_file, marks_of, require_marks, seed_of

MAKE = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir"


class StoredPool(OpenedOnUse):
    """The images of a pool, in which nothing is ever written.

    Args:
        folder: the pool's folder.
        patch_size: pixels a side that its images must have.

    Attributes:
        identity, hash: what made the pool, see `bundle.synthesis.pool.Pool`, and its hash.
        extend: the pool's record of how it gets more images, or None.
    """

    opened = ("hash", "identity", "extend")

    def __init__(self, folder: str | Path, patch_size: int) -> None:
        self.folder = Path(folder).expanduser()
        self.patch_size = patch_size

    def open(self) -> None:
        """Reads `pool.json`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not that of a pool, or its identity has another hash than it says.
        """
        path = self.folder / POOL_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} is not a pool: it has no {POOL_FILE}. Name one with --pool_dir, or make one ({MAKE} "
                f"{self.folder})"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, identity, digest = content["format"], content["identity"], content["hash"]
            marks_of(identity)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} can't be read as the identity of a pool: {error!r}") from error
        if found != FORMAT or digest != content_hash(identity):
            raise ValueError(
                f"{path} is not as a pool's was written: format {found!r}, expected {FORMAT!r}; hash {digest}, "
                f"expected {content_hash(identity)}. Name another pool with --pool_dir"
            )
        self.hash, self.identity, self.extend = digest, identity, content.get("extend")

    def keys(self, classes: Collection[str]) -> list[Key]:
        """Class and seed of each image that is there now, in order.

        Raises:
            ValueError: an image of none of these classes, or a file that belongs in no pool; names it.
        """
        found: list[Key] = []
        for entry in self.prepare().folder.iterdir():
            if entry.name.startswith(".") or entry.name in (POOL_FILE, "manifest.csv"):
                continue
            if not entry.is_dir():
                raise ValueError(f"{entry} does not belong to a pool. Remove it from there")
            if entry.name not in classes:
                raise ValueError(
                    f"{entry}: the class {entry.name!r} is not one of the labelled images, {', '.join(classes)}. Give "
                    "the labelled images that the pool was made for, or remove the folder from it"
                )
            for image in entry.iterdir():
                if image.name.startswith("."):
                    continue
                seed = seed_of(image)
                if seed is None:
                    raise ValueError(f"{image} does not belong to a pool. Remove it from there")
                found.append((entry.name, seed))
        return sorted(found)

    def require_classes(self, classes: Collection[str]) -> list[Key]:
        """:meth:`keys`, of a pool that has images of each of these classes.

        Raises:
            ValueError: it has none of one; names it, and what to do.
        """
        found = self.keys(classes)
        missing = [name for name in classes if name not in {name for name, _ in found}]
        if missing:
            raise ValueError(
                f"the pool {self.folder} has no image of the class {missing[0]!r} of the labelled images. Make some "
                f"({MAKE} {self.folder} --classes {missing[0]}, with the other settings of the pool), or name another "
                "--pool_dir"
            )
        return found

    def read(self, name: str, seed: int) -> np.ndarray:
        """An image, uint8 RGB [S, S, 3], that says itself that it is of this pool, class and seed.

        Raises:
            bundle.data.sources.UnreadableImage: the file is broken.
            ValueError: its marks say otherwise, or it has another size.
        """
        path = self.prepare().folder / image_file(name, seed)
        image = read_rgb(str(self.folder), image_file(name, seed))
        marks = {"SyntheticData": "YES", "Class": name, "Seed": str(seed)}
        require_marks(path, {**marks, **marks_of(self.identity)})
        if image.shape != (self.patch_size, self.patch_size, 3):
            raise ValueError(
                f"{path} is {image.shape[1]} x {image.shape[0]} pixels, expected {self.patch_size} x {self.patch_size}"
                ": give the size of the pool's images with --patch_size"
            )
        return image

    def make_more(self, classes: Sequence[str], num_images: int, output_dir: Path) -> None:
        """Has images made as the pool's record says, in this process.

        Args:
            classes: names.
            num_images: images of each class in all, as of `bundle.synthesis.requests.SynthesisRequests`.
            output_dir: what the run writes besides the images.

        Raises:
            ValueError: there is no record, or one that `bundle.synthesis.extension.checked` refuses.
        """
        config, settings = self.recorded_command()
        given = {"classes": list(classes), "num_images": num_images}
        folders = {"dataset_dir": str(self.folder.absolute()), "output_dir": str(output_dir)}
        run_config(config, **{**settings, **given, **folders})

    def recorded_command(self) -> tuple[str, dict[str, Any]]:
        """Config and settings of the record; see :meth:`make_more`, for which it may come from a stranger."""
        return checked(self.prepare().extend, self.hash, self.folder / POOL_FILE)


def number_to_ask(exists: Collection[int], first: int, total: int) -> int:
    """How many seeds from `first` on are to be asked for, so that there are `total` images in all."""
    missing, seed = total - len(exists), first
    while missing > 0:
        missing -= seed not in exists
        seed += 1
    return seed - first
