"""Sets of images that are compared: real ones by part, synthetic ones of a pool or of a selection."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch


class ImageSet:
    """Images of one origin with their classes, read when they are needed.

    Args:
        name: in tables: "synthetic", "reference", "floor", "training" or "held out".
        origin: plain facts of where they come from, for `evaluation.json`.
        classes: K names, shared by all sets that are compared.
        labels: int [N], places in `classes`; of a synthetic image the class it was made for.
        files: N names, for people.
        read: place -> uint8 RGB [3, S, S].
    """

    def __init__(
        self,
        name: str,
        origin: dict[str, Any],
        classes: Sequence[str],
        labels: Sequence[int],
        files: Sequence[str],
        read: Callable[[int], torch.Tensor],
    ) -> None:
        self.name = name
        self.origin = origin
        self.classes = list(classes)
        self.labels = np.asarray(labels, np.int64)
        self.files = list(files)
        self.read = read

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """Images of each class, in the order of the classes."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts)}

    def images(self, places: Sequence[int] | None = None) -> torch.Tensor:
        """uint8 [n, 3, S, S] of these places, or of all."""
        return torch.stack([self.read(int(place)) for place in (range(len(self)) if places is None else places)])

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All images in order, uint8 [<= size, 3, S, S] at a time."""
        for start in range(0, len(self), size):
            yield self.images(range(start, min(start + size, len(self))))

    def take(self, places: Sequence[int], name: str | None = None) -> ImageSet:
        """Some of the images, as a set."""
        places = [int(place) for place in places]
        files = [self.files[place] for place in places]
        return ImageSet(
            name or self.name,
            self.origin,
            self.classes,
            self.labels[places],
            files,
            lambda place: self.read(places[place]),
        )

    @functools.cached_property
    def digests(self) -> list[str]:
        """SHA-256 of each image's pixels."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for batch in self.batches(256) for image in batch]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and classes, in order."""
        content = [(digest, self.classes[label]) for digest, label in zip(self.digests, self.labels)]
        return hashlib.sha256(repr(content).encode()).hexdigest()
