"""One part of the labelled patches, as stages read it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from bundle.data.split import PARTS, SplitRow

# A judge learns from images that nothing else uses and is measured on others of them: two shares of "unused".
JUDGE_PARTS = ("judge_training", "judge_validation")


class LabelledPart:
    """One part of labelled patches, as a source for ItemDataset.

    Args:
        patches: a LabelledPatches.
        part: name of the part.
        maximum: at most so many images, evenly spaced over the classes; None for all.

    Attributes:
        labels: int array [N], places in `classes`; files: names within the dataset or test set; sha256: pixel hashes.
    """

    def __init__(self, patches: Any, part: str, maximum: int | None = None) -> None:
        if part not in (*PARTS, *JUDGE_PARTS):
            raise ValueError(f"part {part!r} is unknown: use one of {', '.join((*PARTS, *JUDGE_PARTS))}")
        self.patches = patches
        self.part = part
        self.maximum = maximum

    @functools.cached_property
    def rows(self) -> list[SplitRow]:
        """The images, by class and file."""
        rows = self.patches.parts[self.part]
        if self.maximum is None or len(rows) <= self.maximum:
            return rows
        return [rows[place] for place in np.linspace(0, len(rows) - 1, self.maximum).round().astype(int)]

    @property
    def fingerprint(self) -> str:
        """Identity of this part alone, as `LabelledPatches.fingerprint` is of train and validation."""
        return fingerprint_rows(self.patches, self.rows)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        number = {name: number for number, name in enumerate(self.patches.classes)}
        return np.array([number[row.label] for row in self.rows], np.int64)

    @property
    def files(self) -> list[str]:
        return [row.file for row in self.rows]

    @property
    def sha256(self) -> list[str]:
        return [row.sha256 for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> dict[str, Any]:
        """{"image": uint8 RGB [3, S, S], "label": place in `classes`} of one image."""
        return {"image": self.patches.image(self.rows[index]), "label": int(self.labels[index])}

    def weighted_items(self) -> None:
        """None: each image counts the same."""
        return None


def fingerprint_rows(patches: Any, rows: Iterable[SplitRow]) -> str:
    """SHA-256 over patch size, stain normalisation, class names, and pixels and classes of `rows` in their order."""
    content = [patches.patch_size, bool(patches.store.normalise_stain), patches.classes]
    content += [(row.sha256, row.label) for row in rows]
    return hashlib.sha256(repr(content).encode()).hexdigest()
