"""Near-duplicates among images, by their descriptors."""

from __future__ import annotations

import torch

from bundle.metrics.copies import COPY_RATIO, oriented_distances
from bundle.selection.scores import DESCRIPTOR_SHAPE


def copy_limits(
    descriptors: torch.Tensor, labels: torch.Tensor, num_classes: int, copy_ratio: float = COPY_RATIO
) -> torch.Tensor:
    """The distance below which an image of a class is a copy, float64 [K].

    It is `copy_ratio` of the median distance of a real image of the class to the nearest other one. The scale is that
    of a whole class, because tiles of background, say, all look alike without being copies. It is 0, so that nothing is
    a copy, where most real images of a class have a twin.

    Args:
        descriptors: of real images [N, 768], see :func:`bundle.selection.scores.descriptors`.
        labels: their classes [N].
        num_classes: K.
        copy_ratio: 0 or more.

    Raises:
        ValueError: a class has fewer than two images.
    """
    limits = []
    for number in range(num_classes):
        own = _as_images(descriptors[labels == number])
        if len(own) < 2:
            raise ValueError(
                f"class number {number} has {len(own)} real images: how far apart they are needs 2. Add labels"
            )
        distances = oriented_distances(own, own)
        distances.fill_diagonal_(torch.inf)
        limits.append(distances.min(1).values.quantile(0.5) * copy_ratio)
    return torch.stack(limits)


def find_copies(
    descriptors: torch.Tensor, references: torch.Tensor, limit: float, chunk: int = 512
) -> list[int | None]:
    """Goes through images in order and accepts those that are no copy of a reference or of one accepted before.

    References and accepted images count in their eight orientations.

    Args:
        descriptors: [N, 768], in the order in which to accept.
        references: [M, 768].
        limit: copies are nearer than this.
        chunk: images compared at once.

    Returns:
        None for each accepted image; otherwise what it is nearest to: the number of a reference, or M + the place of an
        accepted image in `descriptors`.
    """
    found: list[int | None] = []
    known, numbers = _as_images(references), list(range(len(references)))
    for block in _as_images(descriptors).split(chunk):
        start = len(found)
        within = oriented_distances(block, block)
        # The column of an image of the block is infinite until it is accepted.
        distances = torch.cat([oriented_distances(block, known), torch.full_like(within, torch.inf)], 1)
        accepted = []
        for place, row in enumerate(distances):
            nearest = int(row.argmin())
            if row[nearest] >= limit:
                found.append(None)
                accepted.append(place)
                distances[:, len(known) + place] = within[:, place]
            elif nearest < len(known):
                found.append(numbers[nearest])
            else:
                found.append(len(references) + start + nearest - len(known))
        numbers += [len(references) + start + place for place in accepted]
        known = torch.cat([known, block[accepted]])
    return found


def _as_images(descriptors: torch.Tensor) -> torch.Tensor:
    # In float32 the distances of nearly white tiles would be noise.
    return descriptors.double().reshape(len(descriptors), *DESCRIPTOR_SHAPE)
