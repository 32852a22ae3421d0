"""What is done to a tile before a classifier learns from it: stain and geometry, and what destroys its architecture.

A treatment's name is a chain, such as "blur+tint". Each takes uint8 RGB [S, S, 3] and a generator and gives the like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import v2

from bundle.data.stain import (
    macenko_normalise,
    optical_density_to_rgb,
    rgb_to_optical_density,
    scale_density,
    vary_stains,
)
from bundle.data.transforms import orient, resize_patch

Treatment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
PLAIN = "plain"
REDUCED = 64  # pixels, the side of the published models' images
SIGMA = 3 / 64  # of a side
BLOCKS = 8  # a side
GLASS = 0.15  # mean optical density below which a tile is hardly stained, and says nothing of its slide's stain


def plain(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return rgb


def density(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each channel's optical density times a factor of 0.5 to 1.5: strong stain augmentation."""
    return scale_density(rgb, random.uniform(0.5, 1.5, 3))


def hed(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Densities of haematoxylin and eosin times 0.6 to 1.4, shifted by up to 0.1 (after Tellez et al., 2019)."""
    return vary_stains(rgb, random.uniform(0.6, 1.4, 2), random.uniform(-0.1, 0.1, 2))


def stain(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """:func:`density` or :func:`hed`, either as likely."""
    return (density if random.random() < 0.5 else hed)(rgb, random)


def geometric(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A flip and rotation of the square, then torchvision's RandAugment (arXiv 1909.13719) with two operations."""
    image = orient(torch.from_numpy(rgb.copy()).permute(2, 0, 1), int(random.integers(8))).contiguous()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(random.integers(2**31)))
        image = v2.RandAugment(num_ops=2, magnitude=7, fill=255)(image)
    return image.permute(1, 2, 0).numpy()


def flip(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One of the eight flips and rotations of the square."""
    return orient(torch.from_numpy(rgb.copy()).permute(2, 0, 1), int(random.integers(8))).permute(1, 2, 0).numpy()


def normalised(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """To one pair of stains (Macenko et al., 2009)."""
    return macenko_normalise(rgb)


def reduced(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Reduced to the pixels that the published models draw, and enlarged again."""
    return enlarge(resize_patch(rgb, REDUCED), len(rgb)) if len(rgb) > REDUCED else rgb


def blur(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """By a Gaussian of 3 of 64 pixels: colours and large shapes stay, cells and glands go."""
    return gaussian_filter(rgb, (SIGMA * len(rgb), SIGMA * len(rgb), 0))


def blocks(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Cut into 8 x 8 blocks in another order: cells stay, what they form goes."""
    side = len(rgb) // BLOCKS
    cut = rgb[: side * BLOCKS, : side * BLOCKS].reshape(BLOCKS, side, BLOCKS, side, 3).swapaxes(1, 2)
    mixed = cut.reshape(-1, side, side, 3)[random.permutation(BLOCKS**2)].reshape(cut.shape)
    return mixed.swapaxes(1, 2).reshape(side * BLOCKS, side * BLOCKS, 3)


def scatter(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each pixel at another place: the colours stay alone."""
    return random.permutation(rgb.reshape(-1, 3)).reshape(rgb.shape)


TREATMENTS: dict[str, Treatment] = {
    function.__name__: function
    for function in (plain, density, hed, stain, geometric, flip, normalised, reduced, blur, blocks, scatter)
}
TINT, RECONSTRUCTION = "tint", "reconstruction"  # these need tiles of the pre-training, or its autoencoder


class Tint:
    """Recolours a tile to the stain of a random tile of the pre-training's: mean and spread of the optical density of
    each channel (the transfer of Reinhard et al., 2001, in optical density).

    Args:
        tiles: uint8 RGB [S, S, 3], of which hardly stained ones are left out.

    Raises:
        ValueError: all are hardly stained.
    """

    def __init__(self, tiles: Sequence[np.ndarray]) -> None:
        moments = [_moments(rgb) for rgb in tiles]
        self.stains = [found for found in moments if found[0].mean() >= GLASS]
        if not self.stains:
            raise ValueError("no tile of --pretraining_dir is stained, so there is no colour to take from it")

    def __call__(self, rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
        mean, spread = self.stains[random.integers(len(self.stains))]
        own_mean, own_spread = _moments(rgb)
        density = (rgb_to_optical_density(rgb) - own_mean) / own_spread * spread + mean
        return optical_density_to_rgb(np.maximum(density, 0).astype(np.float32))


def _moments(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    density = rgb_to_optical_density(rgb).reshape(-1, 3)
    return density.mean(axis=0), density.std(axis=0) + 1e-3  # of glass the spread is nearly 0


def treat(rgb: np.ndarray, name: str, random: np.random.Generator, treatments: Mapping[str, Treatment]) -> np.ndarray:
    """A tile after each treatment of a chain, of the same size."""
    side = len(rgb)
    for part in name.split("+"):
        rgb = treatments[part](rgb, random)
    return enlarge(rgb, side) if len(rgb) != side else rgb


def require_treatments(name: str, known: Mapping[str, Treatment] | Sequence[str]) -> str:
    """A chain of treatments, if all are known.

    Raises:
        ValueError: one is not; says which there are.
    """
    unknown = [part for part in name.split("+") if part not in known]
    if unknown:
        raise ValueError(f"--rows: there is no treatment {unknown[0]!r}; there are {', '.join(known)}, joined by +")
    return name


def enlarge(rgb: np.ndarray, side: int) -> np.ndarray:
    """A square uint8 [H, H, 3] at another size, bicubic."""
    return rgb if len(rgb) == side else np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC))
