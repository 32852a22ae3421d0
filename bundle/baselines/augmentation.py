"""Operations of differentiable augmentation, of images [B, 3, S, S] in [-1, 1], drawn anew for each image.

Of those of Zhao et al. (arXiv 2006.10738) and Karras et al. (arXiv 2006.06676) these are what histology bears. Colour
there is made for photographs; here the optical density is varied, which keeps white white, with the same for
laboratories' stains.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from bundle.data.transforms import orient

SHIFT = 0.125  # of the side; as in arXiv 2006.10738
CUT = 0.5  # of the side; as in arXiv 2006.10738


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


def orient_each(images: torch.Tensor) -> torch.Tensor:
    """Each of [B, 3, S, S] in one of the eight flips and rotations of the square, drawn for each."""
    drawn = torch.randint(8, (len(images),)).tolist()
    return torch.stack([orient(image, orientation) for image, orientation in zip(images, drawn)])
