"""Where on a slide there is tissue, and what else lies there: seen at low power, by colour and by size.

Thresholds after Otsu (IEEE Trans. Syst. Man Cybern. 9, 1979) of saturation and of optical density over the glass, kept
within bounds: without tissue Otsu would divide the noise of the glass, and beside dark tissue it loses the pale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage
from skimage.filters import threshold_otsu

GLASS, TISSUE, PEN, GREY, SPECK = range(5)
# How fields are counted in which these prevail.
REASONS = ("glass", "tissue", "pen", "dust or an edge of glass", "speck")


@dataclasses.dataclass(frozen=True)
class TissueRule:
    """How tissue is told from glass, on an overview.

    Args:
        mpp: µm per pixel that the overview has at most.
        smoothing: µm; the deviation of the Gaussian that is laid over the overview first.
        saturation: of a pixel over the glass, in [0, 1], above which it is coloured; None for Otsu's threshold.
        saturation_bounds: lowest and highest that Otsu's may be.
        density: optical density (natural logarithm, mean of the channels) over the glass above which something lies
            there; None for Otsu's threshold.
        density_bounds: lowest and highest that Otsu's may be.
        closing: µm; gaps in the tissue up to twice as wide are closed.
        least_area: mm²; smaller pieces are specks.
        least_width: µm; pieces that are nowhere so wide are specks too, such as threads and coloured edges of glass.
        pen: whether ink is looked for: blue, green, red and yellow, which no H&E is, and black.

    Raises:
        ValueError: a value out of its range.
    """

    mpp: float = 8.0
    smoothing: float = 8.0
    saturation: float | None = None
    saturation_bounds: Sequence[float] = (0.02, 0.06)
    density: float | None = None
    density_bounds: Sequence[float] = (0.03, 0.08)
    closing: float = 24.0
    least_area: float = 0.04
    least_width: float = 60.0
    pen: bool = True

    def __post_init__(self) -> None:
        for name in ("mpp", "smoothing", "closing", "least_area", "least_width"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0 or (name == "mpp" and value == 0):
                raise ValueError(
                    f"--tissue#{name} is {value!r}; it must be a number {'above' if name == 'mpp' else 'from'} 0"
                )
        for name in ("saturation", "density"):
            value, bounds = getattr(self, name), getattr(self, f"{name}_bounds")
            if value is not None and (not _is_number(value) or value < 0):
                raise ValueError(f"--tissue#{name} is {value!r}; it must be a number from 0, or None for Otsu's")
            if len(bounds) != 2 or not all(map(_is_number, bounds)) or not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"--tissue#{name}_bounds is {bounds!r}; it must be two numbers from 0, the lower first"
                )

    def find(self, overview: np.ndarray, mpp: float) -> np.ndarray:
        """uint8 [H, W]: places in :data:`REASONS` of an overview, uint8 RGB [H, W, 3], of `mpp` µm per pixel."""
        image = Image.fromarray(overview).filter(ImageFilter.GaussianBlur(self.smoothing / mpp))
        rgb = np.asarray(image)
        # By tables of the 256 levels: the light that comes through, over that of the glass, and its density.
        light = (np.arange(256, dtype=np.float32)[:, None] + 1) / (glass_of(rgb).astype(np.float32) + 1)
        light = np.minimum(light, 1)
        channels = [light[rgb[:, :, channel], channel] for channel in range(3)]
        densities = [(-np.log(light[:, channel]))[rgb[:, :, channel]] for channel in range(3)]
        density = sum(densities) / 3
        highest = np.maximum(np.maximum(*channels[:2]), channels[2])
        saturation = 1 - np.minimum(np.minimum(*channels[:2]), channels[2]) / highest
        lying = density > _threshold(density, self.density, self.density_bounds)
        coloured = saturation > _threshold(saturation, self.saturation, self.saturation_bounds)
        found = np.full(density.shape, GLASS, np.uint8)
        found[lying & ~coloured] = GREY
        pen = _pen(densities, density, saturation, mpp) if self.pen else np.zeros_like(lying)
        tissue = _closed(lying & coloured & ~pen, self.closing / mpp) & ~pen
        specks = self._specks(tissue, mpp)
        found[tissue] = TISSUE
        found[specks] = SPECK
        found[pen] = PEN
        return found

    def _specks(self, tissue: np.ndarray, mpp: float) -> np.ndarray:
        """Those pieces of the tissue that are too small or too thin."""
        pieces, count = ndimage.label(tissue, np.ones((3, 3)))
        areas = np.bincount(pieces.ravel(), minlength=count + 1) * mpp**2 / 1e6
        wide = ndimage.minimum_filter(tissue.view(np.uint8), max(1, int(self.least_width / mpp)), mode="nearest")
        wide = np.bincount(pieces[wide > 0], minlength=count + 1) > 0
        small = (areas < self.least_area) | ~wide
        small[0] = False
        return small[pieces]


def glass_of(rgb: np.ndarray) -> np.ndarray:
    """The colour of the empty glass, [3]: the commonest of bright grey; 243, what scanners give, where there is none.

    Args:
        rgb: values in [0, 255], [H, W, 3].
    """
    rgb = rgb[::4, ::4].astype(np.float32)
    grey = rgb.mean(axis=-1)
    bright = (grey > 200) & (np.ptp(rgb, axis=-1) < 12)
    if bright.mean() < 0.005:
        return np.full(3, 243.0)
    level = np.bincount(grey[bright].astype(int), minlength=256).argmax()
    return np.median(rgb[bright & (abs(grey - level) <= 2)], axis=0)


def _threshold(values: np.ndarray, given: float | None, bounds: Sequence[float]) -> float:
    if given is not None:
        return given
    values = values[::3, ::3]
    found = threshold_otsu(values) if np.ptp(values) > 0 else bounds[1]
    return float(np.clip(found, *bounds))


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """By squares, which can be taken by rows and columns, and so cost the same at any size."""
    side = 2 * int(radius) + 1
    grown = ndimage.maximum_filter(mask.view(np.uint8), side, mode="constant")
    return (ndimage.minimum_filter(grown, side, mode="nearest") > 0) | mask


def _pen(densities: Sequence[np.ndarray], density: np.ndarray, saturation: np.ndarray, mpp: float) -> np.ndarray:
    """Ink: colours in which green is not what is absorbed most, or black without a colour; broad, not a nucleus."""
    red, green, blue = densities
    strong = density > 0.25
    cold = strong & (red > 1.25 * green)  # blue and green ink, turquoise
    warm = strong & (blue > 1.05 * green) & (saturation > 0.4)  # yellow, orange, red
    black = (density > 1.2) & (saturation < 0.3)
    ink = (cold | warm | black).view(np.uint8)
    core = ndimage.minimum_filter(ink, 2 * max(1, int(20 / mpp)) + 1, mode="constant")
    # A stroke is paler at its edge.
    return ndimage.maximum_filter(core, 2 * int(50 / mpp) + 1, mode="constant") > 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
