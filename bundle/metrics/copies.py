"""Whether generated images are copies of the ones a model was trained on."""

from __future__ import annotations

from typing import Any

import torch

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
