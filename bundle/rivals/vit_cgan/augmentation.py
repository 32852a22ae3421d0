"""Differentiable augmentation of what a discriminator sees, real and generated alike.

Zhao et al. (arXiv 2006.10738): with few images a discriminator learns them by heart; augmenting both sides, and passing
the gradient on through it, keeps it from that without the generator learning the augmentation. Colour there is made for
photographs; here the optical density is varied, which keeps white white, with the same for laboratories' stains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

SHIFT = 0.125  # of the side; the paper's
CUT = 0.5  # of the side; the paper's


def vary_density(images: torch.Tensor, scale: float) -> torch.Tensor:
    """The optical density of each colour channel of each image times a factor drawn from [1 - scale, 1 + scale].

    As `bundle.data.transforms.RandDensityd` does, of images [B, 3, H, W] in [-1, 1].
    """
    factors = 1 + scale * (2 * torch.rand(len(images), 3, 1, 1, device=images.device) - 1)
    # 256 levels, of which the darkest is not quite black, so that its density is finite.
    light = ((images + 1) * 127.5 + 1).clamp(min=1) / 256
    return ((light**factors * 256 - 1) / 127.5 - 1).clamp(min=-1)


def shift(images: torch.Tensor, scale: float = SHIFT) -> torch.Tensor:
    """Moves each image by up to `scale` of its side in both directions; what comes in is white, as glass is."""
    side = images.shape[-1]
    reach = round(side * scale)
    padded = pad(images, (reach,) * 4, value=1.0)
    down, right = torch.randint(2 * reach + 1, (2, len(images), 1), device=images.device)
    places = torch.arange(side, device=images.device)
    rows, columns = (down + places)[:, None, :, None], (right + places)[:, None, None]
    image, channel = (torch.arange(count, device=images.device) for count in images.shape[:2])
    return padded[image[:, None, None, None], channel[:, None, None], rows, columns]


def cut_out(images: torch.Tensor, scale: float = CUT) -> torch.Tensor:
    """Makes a square of `scale` of the side grey in each image; it may lie partly outside."""
    side = images.shape[-1]
    half = round(side * scale) / 2
    centre = torch.randint(side + 1, (2, len(images), 1), device=images.device)
    places = torch.arange(side, device=images.device) + 0.5
    inside = (places - centre).abs() < half  # [2, B, side]
    return images * ~(inside[0, :, :, None] & inside[1, :, None, :])[:, None]


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
            raise ValueError(f"--density_scale is {density_scale}; it must be 0 or more, and below 1")
        self.density_scale = density_scale
        self.chosen = [known[kind] for kind in self.kinds]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] in [-1, 1], same shape; draws from torch's generator of the device."""
        for augment in self.chosen:
            images = augment(images)
        return images

    def describe(self) -> list:
        """Plain facts that a resumed run must share."""
        return [self.kinds, self.density_scale]
