"""Whether generated images are copies of the ones a model was trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import interpolate

from bundle.data.transforms import orient

COPY_RATIO = 1 / 3


def oriented_distances(images: torch.Tensor, references: torch.Tensor, chunk: int = 64) -> torch.Tensor:
    """Euclidean distance to each reference in that of its eight orientations which is nearest, [N, M] on the CPU.

    Args:
        images: [N, C, S, S], fp32 or fp64; in fp32 distances below a thousandth of the images' norm are noise.
        references: [M, C, S, S], likewise.
        chunk: images compared at once.
    """
    nearest = torch.full((len(images), len(references)), torch.inf, dtype=images.dtype)
    for orientation in range(8):
        turned = orient(references, orientation).flatten(1)
        for start in range(0, len(images), chunk):
            rows = slice(start, start + chunk)
            distance = torch.cdist(images[rows].flatten(1), turned).cpu()
            nearest[rows] = torch.minimum(nearest[rows], distance)
    return nearest


def nearest_ratios(generated: torch.Tensor, training: torch.Tensor, chunk: int = 64) -> torch.Tensor:
    """Distance to the nearest training image over that to the second nearest, fp32 [N] in [0, 1].

    Near 1 where nothing is copied; near 0 where one training image is far nearer than any other. It needs no
    threshold in pixels, as both distances are of the same picture (Yoon et al., "Diffusion Probabilistic Models
    Generalize when They Fail to Memorize", 2023, who call an image memorised below 1/3).

    Args:
        generated: [N, C, S, S].
        training: [M, C, S, S], M of 2 or more; each counts in its eight orientations, as one image.
        chunk: generated images compared at once.
    """
    count = len(training)
    if count < 2:
        raise ValueError(f"{count} training images: the second nearest needs at least 2")
    two = oriented_distances(generated.float(), training.float(), chunk).topk(2, dim=1, largest=False).values
    return two[:, 0] / two[:, 1].clamp(min=1e-12)


def copy_report(generated: torch.Tensor, training: torch.Tensor) -> dict[str, Any]:
    """Share of generated images that are copies by :func:`nearest_ratios`, and the smallest and median ratio."""
    ratios = nearest_ratios(generated, training)
    return {
        "images": len(generated),
        "training_images": len(training),
        "share_of_copies": round((ratios < COPY_RATIO).float().mean().item(), 4),
        "smallest_ratio": round(ratios.min().item(), 4),
        "median_ratio": round(ratios.median().item(), 4),
    }


def nearest_images(
    images: torch.Tensor, references: torch.Tensor, count: int, chunk: int = 256
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nearest references of each image, each in that of its eight orientations which is nearest.

    Euclidean, in blocks: no more than [chunk, M] distances are in memory.

    Args:
        images: float32 [N, C, S, S].
        references: float32 [M, C, S, S], M of `count` or more.
        count: how many are wanted.
        chunk: images compared at once.

    Returns:
        distances, ascending, float32 [N, count]; places in `references`, int64 [N, count]; the orientations, int64
        [N, count], numbers of :func:`bundle.data.transforms.orient`.

    Raises:
        ValueError: fewer than `count` references.
    """
    if len(references) < count:
        raise ValueError(f"{len(references)} training images: {count} nearest ones of each image need at least {count}")
    # Found by matrix products, whose rounding the mean makes smaller, and then measured by differences.
    mean = references.mean((0, 2, 3), keepdim=True)
    known = (references - mean).flatten(1)
    found = []
    for block in images.split(chunk):
        distances = torch.full((len(block), len(references)), torch.inf)
        for orientation in range(8):  # the images are turned, all ways, as they are fewer
            turned = orient(block - mean, orientation).flatten(1)
            these = torch.cdist(turned, known, compute_mode="use_mm_for_euclid_dist")
            torch.minimum(distances, these, out=distances)
        places = distances.topk(count, dim=1, largest=False).indices
        candidates = references[places]
        exact = torch.stack([(block[:, None] - orient(candidates, way)).flatten(2).norm(dim=2) for way in range(8)])
        nearest, ways = exact.min(0)
        order = nearest.argsort(dim=1, stable=True)
        found.append([values.gather(1, order) for values in (nearest, places, ways)])
    return tuple(torch.cat(values) for values in zip(*found))


def aligned_distances(images: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Root mean square difference of each image to each of its candidates, moved and cropped to fit best.

    A candidate is moved by up to 1/32 of its side each way (the difference is that of what both show), or its border is
    cut away, of one pixel to 1/16 of the side, and the rest enlarged.

    Args:
        images: [B, C, S, S].
        candidates: [B, K, C, S, S], turned as the images.

    Returns:
        [B, K], in the units of the images.
    """
    side = images.shape[-1]
    images, reach, best = images[:, None], round(side / 32), torch.tensor(torch.inf)
    for down in range(-reach, reach + 1):
        rows = [slice(max(sign * down, 0), side + min(sign * down, 0)) for sign in (1, -1)]
        for right in range(-reach, reach + 1):
            columns = [slice(max(sign * right, 0), side + min(sign * right, 0)) for sign in (1, -1)]
            moved = images[..., rows[0], columns[0]] - candidates[..., rows[1], columns[1]]
            best = torch.minimum(best, _root_mean_square(moved))
    for border in range(1, round(side / 16) + 1):
        cropped = candidates[..., border:-border, border:-border].flatten(0, 1)
        grown = interpolate(cropped, size=(side, side), mode="bicubic", antialias=True).view_as(candidates)
        best = torch.minimum(best, _root_mean_square(images - grown))
    return best


def _root_mean_square(differences: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(differences, dim=(2, 3, 4)) / differences[0, 0].numel() ** 0.5
