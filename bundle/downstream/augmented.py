"""Real training images followed by the selected synthetic ones, as a source of training items."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle.data.labelled import LabelledPatches
from bundle.data.split import fingerprint_split, is_number
from bundle.data.transforms import MacenkoNormalized
from bundle.runs.opening import OpenedOnUse
from bundle.selection.table import SelectionRow, read_selection
from bundle.synthesis.stored_pool import StoredPool

logger = logging.getLogger(__name__)

SELECTIONS = ("selective", "random")


class AugmentedPatches(OpenedOnUse):
    """The training part of labelled patches, then the synthetic images that a selection chose.

    Synthetic images, and real ones whose stain is normalised, are kept in memory: 3 S² bytes each, with S the side.

    Args:
        labelled: the labelled patches, without stain normalisation of their own.
        selection_file: the selection (see `bundle.selection.table`); None for real images alone.
        ratio: which of its nested sets, in percent of the labelled images; None for the largest.
        selection: "selective", or "random" for the control of equal size.
        pool_dir: where the pool is now; None for where it was when the selection was made.
        synthetic_share: probability, above 0 and up to 1, that a place of a batch is synthetic; None mixes by count,
            each image once a round.
        real_repeats: how often a round has each real image.
        normalise_stain: whether real and synthetic images alike are normalised after Macenko, at the size they have
            here. (At the full size of the real ones the result is paler, by 0.05 to 0.1 in optical density on 256-pixel
            tiles reduced to 64, which would tell real from synthetic.)

    Attributes:
        labels: int array [N], places in the classes; files: names within the dataset, then within the pool.
        real: number of items of real images, the first ones.
        shortfall: {class: number of images that the selection lacks of its quota}, of the classes that lack some.

    Raises:
        ValueError: settings out of range, or that mean nothing together.
    """

    opened = ("part", "real", "labels", "files", "real_images", "synthetic_images", "shortfall")

    def __init__(
        self,
        labelled: LabelledPatches,
        selection_file: str | Path | None = None,
        ratio: int | None = None,
        selection: str = SELECTIONS[0],
        pool_dir: str | Path | None = None,
        synthetic_share: float | None = None,
        real_repeats: int = 1,
        normalise_stain: bool = False,
    ) -> None:
        if selection not in SELECTIONS:
            raise ValueError(f"--selection is {selection!r}; it must be one of {', '.join(SELECTIONS)}")
        if synthetic_share is not None and not (is_number(synthetic_share) and 0 < synthetic_share <= 1):
            raise ValueError(f"--synthetic_share is {synthetic_share!r}; it must be above 0 and at most 1, or None")
        if not isinstance(real_repeats, int) or isinstance(real_repeats, bool) or real_repeats < 1:
            raise ValueError(f"--real_repeats is {real_repeats!r}; it must be an integer of at least 1")
        if synthetic_share is not None and real_repeats > 1:
            raise ValueError(
                f"--synthetic_share {synthetic_share} says how often real images are seen, and so does --real_repeats "
                f"{real_repeats}: leave one out"
            )
        if not isinstance(normalise_stain, bool):  # any text would count as true
            raise ValueError(f"--normalise_stain is {normalise_stain!r}; it must be True or False")
        about_selection = {"ratio": ratio, "pool_dir": pool_dir, "synthetic_share": synthetic_share}
        if selection != SELECTIONS[0]:
            about_selection["selection"] = selection
        given = [f"--{name} {value}" for name, value in about_selection.items() if value is not None]
        if selection_file is None and given:
            raise ValueError(f"{given[0]} says which synthetic images are used, and no --selection_file is given")
        self.labelled = labelled
        self.selection_file = None if selection_file is None else Path(selection_file).expanduser()
        self.ratio = ratio
        self.selection = selection
        self.pool_dir = None if pool_dir is None else Path(pool_dir).expanduser()
        self.synthetic_share = synthetic_share
        self.real_repeats = real_repeats
        self.normalise_stain = normalise_stain

    def open(self) -> None:
        """Checks the selection against the labelled patches and its files against the pool, and reads them.

        Raises:
            FileNotFoundError: the selection, its pool or one of the images is missing.
            ValueError: a selection of another split or without one of the classes, a pool without images of one of
                them, an image of another pool or size or without its marks.
        """
        self.part = self.labelled.part("train")
        self.shortfall = {}
        chosen = [] if self.selection_file is None else self._chosen()
        self.synthetic_images = [self._normalised(self._read(row)) for row in chosen]
        self.real_images = []  # where they are normalised
        if self.normalise_stain:
            self.real_images = [self._normalised(self.part.read(index)["image"]) for index in range(len(self.part))]
        number = {name: number for number, name in enumerate(self.labelled.classes)}
        real = np.tile(self.part.labels, self.real_repeats)
        synthetic = np.array([number[row.label] for row in chosen], np.int64)
        self.real = len(real)
        self.files = self.part.files * self.real_repeats + [row.file for row in chosen]
        self.labels = np.concatenate([real, synthetic])
        logger.info(f"training on {self.real} real and {len(chosen)} synthetic images a round")
        for name, missing in self.shortfall.items():
            logger.warning(
                f"{self.selection_file} lacks {missing} images of class {name} to its quota at {self.ratio} %"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the pixels and classes of the synthetic images, in their order."""
        digest = hashlib.sha256(repr([self.labelled.classes[label] for label in self.labels[self.real :]]).encode())
        for image in self.synthetic_images:
            digest.update(image.numpy())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What is trained on, for `metrics.json`."""
        classes = self.labelled.classes
        real, synthetic = Counter(self.part.labels.tolist()), Counter(self.labels[self.real :].tolist())
        facts = {
            "real_images": len(self.part),
            "synthetic_images": len(self.synthetic_images),
            "real_repeats": self.real_repeats,
            "normalise_stain": self.normalise_stain,
            "training": {
                name: {"real": real[number], "synthetic": synthetic[number]} for number, name in enumerate(classes)
            },
        }
        if self.selection_file is not None:
            facts |= {
                "selection_file": str(self.selection_file),
                "selection": self.selection,
                "ratio": self.ratio,
                "pool": str(self.pool_dir),
                "synthetic_share": self.synthetic_share,
                "shortfall": self.shortfall,
            }
        return facts

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> dict[str, Any]:
        """{"image": uint8 RGB [3, S, S], "label": place in the classes} of one image."""
        if index >= self.real:
            image = self.synthetic_images[index - self.real]
        elif self.normalise_stain:
            image = self.real_images[index % len(self.part)]
        else:
            return self.part.read(index % len(self.part))
        return {"image": image, "label": int(self.labels[index])}

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        """The places of real and of synthetic images with their probabilities; None where they are mixed by count."""
        if self.synthetic_share is None:
            return None
        count = len(self)
        shares = np.array([1 - self.synthetic_share, self.synthetic_share])
        return [np.arange(self.real), np.arange(self.real, count)], shares

    def _chosen(self) -> list[SelectionRow]:
        """The rows of the selection that are used; what they need to be compared with is set."""
        rows, facts = read_selection(self.selection_file)
        classes = self.labelled.classes
        if set(facts["classes"]) != set(classes):
            raise ValueError(
                f"{self.selection_file} is for the classes {facts['classes']}, and the labelled set has {classes}: "
                "select again for these images, with configs/select.json and the same --split_file"
            )
        split = fingerprint_split(self.labelled.rows)
        if facts["split"] != split:
            raise ValueError(
                f"{self.selection_file} was made for the split {facts['split']}, and the labelled images here are "
                f"those of {split}: it may have been chosen with images that are tested on here. Give the --split_file "
                "it was made with, or select again"
            )
        if self.ratio is None:
            self.ratio = facts["ratios"][-1]
        elif self.ratio not in facts["ratios"]:
            raise ValueError(
                f"--ratio is {self.ratio!r}; {self.selection_file} has sets of "
                f"{', '.join(map(str, facts['ratios']))} %. Take one of them, or select again with it"
            )
        if self.pool_dir is None:
            self.pool_dir = Path(facts["pool"])
        self.pool = StoredPool(self.pool_dir, self.labelled.patch_size)
        if self.pool.hash != facts["pool_hash"]:
            raise ValueError(
                f"{self.pool_dir} is another pool than the selection was made from: its hash is {self.pool.hash}, "
                f"expected {facts['pool_hash']}. Name the right one with --pool_dir, or select again"
            )
        made = {row.label for row in rows}
        absent = [name for name in classes if name not in made]
        if absent:
            raise ValueError(
                f"the pool {facts['pool']} had no image of class {absent[0]!r} when {self.selection_file} was made: "
                f"add some to it (configs/inference.json with --classes {absent[0]!r}) and select again, or train "
                "without --selection_file"
            )
        smallest = [row.ratio if self.selection == SELECTIONS[0] else row.random_ratio for row in rows]
        chosen = [row for row, ratio in zip(rows, smallest) if ratio is not None and ratio <= self.ratio]
        if not chosen:
            raise ValueError(
                f"{self.selection_file} has no {self.selection} image at {self.ratio} %: nothing passed. Extend the "
                "pool and select again, or train without --selection_file"
            )
        counts = Counter(row.label for row in chosen)
        lacks = {name: facts["quotas"][name][self.ratio] - counts[name] for name in classes}
        self.shortfall = {name: number for name, number in lacks.items() if number > 0}
        return chosen

    def _read(self, row: SelectionRow) -> torch.Tensor:
        """One synthetic image, uint8 [3, S, S]."""
        path = self.pool_dir / row.file
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}, which {self.selection_file} lists, is missing: put it back, say where the pool is with "
                "--pool_dir, or select again"
            )
        return torch.from_numpy(self.pool.read(row.label, row.seed).transpose(2, 0, 1).copy())

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [3, S, S] as the classifier is to see it."""
        return MacenkoNormalized("image")({"image": image})["image"] if self.normalise_stain else image
