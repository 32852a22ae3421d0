"""Optical density and the stain vectors of haematoxylin and eosin.

Source: Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution",
Anal Quant Cytol Histol 23 (2001), the vectors of their H&E table.
"""

from __future__ import annotations

import numpy as np

# Optical density per unit of stain in (red, green, blue), each of unit length.
HAEMATOXYLIN = np.array([0.650, 0.704, 0.286]) / np.linalg.norm([0.650, 0.704, 0.286])
EOSIN = np.array([0.072, 0.990, 0.105]) / np.linalg.norm([0.072, 0.990, 0.105])


def rgb_to_optical_density(rgb: np.ndarray) -> np.ndarray:
    """Beer-Lambert optical density, -ln((v + 1) / 256), of 8-bit values in [0, 255]; same shape, float32, in [0, 5.55].

    The offset of one keeps black finite and makes white exactly zero.
    """
    return -np.log((rgb.astype(np.float32) + 1.0) / 256.0)


def optical_density_to_rgb(density: np.ndarray) -> np.ndarray:
    """The inverse of :func:`rgb_to_optical_density`, rounded and clipped to 8-bit [0, 255]."""
    return np.clip(np.rint(256.0 * np.exp(-density) - 1.0), 0, 255).astype(np.uint8)


# Rows haematoxylin, eosin and what is left over, in a direction at right angles to both.
STAINS = np.stack([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)])
STAINS[2] /= np.linalg.norm(STAINS[2])

# The reference of Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, in
# the authors' code: optical density per unit of haematoxylin and of eosin in (red, green, blue), and the 99th
# percentile of each one's density.
MACENKO_STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
MACENKO_DENSITIES = np.array([1.9705, 1.0308])
TISSUE_DENSITY = 0.15  # the optical density below which Macenko et al. hold a pixel to be background


def vary_stains(rgb: np.ndarray, factors: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Scale and shift the densities of haematoxylin and eosin; uint8 [H, W, 3] in and out.

    The density c of a stain becomes `factor * c + shift * t`. t = d / (d + 0.15), with d the mean optical density of
    the pixel over the three channels, is 0 at white and near 1 in tissue, so that empty glass stays as it is.

    Args:
        rgb: values in [0, 255].
        factors: [2], for haematoxylin and eosin.
        shifts: [2], in units of optical density.
    """
    density = rgb_to_optical_density(rgb)
    stains = STAINS.astype(np.float32)
    amounts = density @ np.linalg.inv(stains)
    mean = density.mean(axis=-1, keepdims=True)
    tissue = mean / (mean + TISSUE_DENSITY)
    change = amounts[..., :2] * (np.asarray(factors, np.float32) - 1) + tissue * np.asarray(shifts, np.float32)
    return optical_density_to_rgb(np.maximum(density + change @ stains[:2], 0))


def scale_density(rgb: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the optical density of each colour channel by a factor, [3]; uint8 [H, W, 3] in and out.

    White stays white. Unlike :func:`vary_stains` it changes hues too, as another scanner or another make of eosin does.
    """
    return optical_density_to_rgb(rgb_to_optical_density(rgb) * np.asarray(factors, np.float32))


def macenko_stains(density: np.ndarray, smallest_tissue_share: float = 0.05) -> np.ndarray | None:
    """The haematoxylin and eosin vectors of one image, after Macenko et al., ISBI 2009.

    Args:
        density: optical density, [pixels, 3].
        smallest_tissue_share: share of pixels that must be tissue (optical density above 0.15 in every channel).

    Returns:
        [2, 3], haematoxylin (the one with more red) first, of unit length; None with too little tissue, or with one
        stain only, so that there is no second direction to be found.
    """
    tissue = density[(density >= TISSUE_DENSITY).all(axis=1)]
    if len(tissue) < max(smallest_tissue_share * len(density), 3):
        return None
    _, directions = np.linalg.eigh(np.cov(tissue.T))
    plane = directions[:, 1:]
    # Stain adds density, so the axes are turned to the positive side: else the angles may wrap around.
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(tissue @ plane[:, 1], tissue @ plane[:, 0])
    extremes = np.percentile(angles, (1, 99))
    if extremes[1] - extremes[0] < 0.01:  # radians; one colour, and the unmixing would divide by nearly nothing
        return None
    stains = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    return stains if stains[0, 0] > stains[1, 0] else stains[::-1]


def macenko_normalise(rgb: np.ndarray) -> np.ndarray:
    """Replace the stain vectors and densities of an image by the reference; uint8 [H, W, 3] in and out.

    Left as it is where :func:`macenko_stains` finds no two stains, and where either has no density.
    """
    density = rgb_to_optical_density(rgb).reshape(-1, 3)
    stains = macenko_stains(density)
    if stains is None:
        return rgb
    amounts = density @ np.linalg.pinv(stains)
    strongest = np.percentile(amounts, 99, axis=0)
    if (strongest <= 0).any():
        return rgb
    amounts *= MACENKO_DENSITIES / strongest
    return optical_density_to_rgb(amounts @ MACENKO_STAINS).reshape(rgb.shape)
