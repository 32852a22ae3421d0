"""Differentiable augmentation of what a discriminator sees, real and generated alike.

Zhao et al. (arXiv 2006.10738): with few images a discriminator learns them by heart; augmenting both sides, and passing
the gradient on through it, keeps it from that without the generator learning the augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bundle.baselines.augmentation import cut_out, shift, vary_density


class Augmentation:
    """Some of these, each drawn anew for each image.

    Args:
        kinds: of "density", "translation" and "cutout"; or their names with commas; none for no augmentation.
        density_scale: see :func:`vary_density`, in [0, 1).

    Raises:
        ValueError: an unknown kind, or a scale out of range.
    """

    def __init__(self, kinds: Sequence[str] | str, density_scale: float = 0.5) -> None:
        known = {"density": lambda images: vary_density(images, density_scale), "translation": shift, "cutout": cut_out}
        self.kinds = [kind.strip() for kind in kinds.split(",") if kind.strip()] if isinstance(kinds, str) else [*kinds]
        unknown = [kind for kind in self.kinds if kind not in known]
        if unknown:
            raise ValueError(f"--augmentation names {unknown[0]!r}; it must name some of {', '.join(known)}")
        if not 0 <= density_scale < 1:
            raise ValueError(
                f"--train#augmentation#density_scale is {density_scale}; it must be 0 or more, and below 1"
            )
        self.chosen = [known[kind] for kind in self.kinds]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] in [-1, 1], same shape; draws from torch's generator of the device."""
        for augment in self.chosen:
            images = augment(images)
        return images
