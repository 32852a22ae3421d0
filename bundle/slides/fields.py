"""Which fields of a slide become patches: by tissue, by regions, as many as wanted, spread evenly, and sharp."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bundle.data.slides import Scale, Slide
from bundle.slides.tissue import GLASS, PEN, REASONS, TISSUE

OUTSIDE = "outside the regions"
BLURRED = "blurred"
NOT_DRAWN = "beyond maximum_patches"
LITTLE = "too little tissue"


class Field(NamedTuple):
    """A field that may become a patch: (x, y) in level 0, the share of tissue in it, and its class or ''."""

    x: int
    y: int
    tissue: float
    label: str


@dataclasses.dataclass(frozen=True)
class FieldRule:
    """Which fields are taken.

    Args:
        mpp: µm per pixel of the patches. A level of the slide within 5 % of it is taken as it is.
        patch_size: pixels a side.
        overlap: pixels that neighbours share.
        minimum_tissue: share of a field, in [0, 1], that must be tissue.
        maximum_pen: share of a field, in [0, 1], that may be ink.
        maximum_patches: at most so many of a slide, and of each class of it, spread evenly over the tissue and drawn by
            the seed; None for all.
        minimum_sharpness: least variance of the Laplacian of the green channel over its own variance; 0 keeps what is
            blurred.
        coordinates_dir: folder with an `.h5` file of CLAM or TRIDENT for each slide, whose fields are taken as they
            are, in their own size; None to choose fields here.
        seed: seed of what is drawn.

    Raises:
        ValueError: a value that can't be meant.
    """

    mpp: float = 0.5
    patch_size: int = 256
    overlap: int = 0
    minimum_tissue: float = 0.5
    maximum_pen: float = 0.02
    maximum_patches: int | None = None
    minimum_sharpness: float = 0.02
    coordinates_dir: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.mpp, "mpp", "a number of µm above 0, such as 0.5", lambda value: value > 0)
        _require(self.patch_size, "patch_size", "an integer of at least 8", lambda size: _whole(size) and size >= 8)
        _require(self.overlap, "overlap", f"an integer from 0 to {self.patch_size - 1}, below --patch_size",
                 lambda pixels: _whole(pixels) and 0 <= pixels < self.patch_size)  # fmt: skip
        for name in ("minimum_tissue", "maximum_pen"):
            _require(getattr(self, name), name, "a share from 0 to 1", lambda share: 0 <= share <= 1)
        _require(self.minimum_sharpness, "minimum_sharpness", "a number from 0", lambda value: value >= 0)
        if self.maximum_patches is not None:
            _require(self.maximum_patches, "maximum_patches", "an integer of at least 1, or None for all",
                     lambda number: _whole(number) and number >= 1)  # fmt: skip
        if self.coordinates_dir is not None and not Path(self.coordinates_dir).expanduser().is_dir():
            raise FileNotFoundError(f"--coordinates_dir: there is no folder {str(self.coordinates_dir)!r}")

    def choose(
        self,
        slide: Slide,
        scale: Scale,
        found: np.ndarray,
        classes: dict[str, np.ndarray] | None,
        minimum_region: float,
    ) -> tuple[list[Field], Counter]:
        """The fields of a slide with enough tissue, by row and column, and the number of others by reason.

        Args:
            found: uint8 [H, W], see :class:`bundle.slides.tissue.TissueRule`.
            classes: bool [H, W] of each class, or None without regions.
        """
        left, top, width, height = slide.bounds
        step = scale.footprint * (1 - self.overlap / self.patch_size)
        across, down = (max(0, math.floor((length - scale.footprint) / step + 1e-6) + 1) for length in (width, height))
        columns, rows = (part.ravel() for part in np.meshgrid(np.arange(across), np.arange(down)))
        places = np.stack([left + np.rint(columns * step), top + np.rint(rows * step)], axis=1).astype(np.int64)
        windows = Windows(slide, scale.footprint, found.shape)
        shares = np.stack([windows.shares(found == kind, places) for kind in range(len(REASONS))], axis=1)
        names, inside = [""], np.ones(len(places))
        label = np.zeros(len(places), int)
        if classes is not None:
            names = list(classes)
            by_class = np.stack([windows.shares(mask, places) for mask in classes.values()] or [0 * inside], axis=1)
            label, inside = by_class.argmax(axis=1), by_class.max(axis=1)
        reasons = self._reasons(shares, inside, minimum_region if classes is not None else 0)
        taken = np.flatnonzero(reasons == "")
        fields = [Field(*map(int, places[at]), float(shares[at, TISSUE]), names[label[at]]) for at in taken]
        return fields, Counter(reasons[reasons != ""].tolist())

    def _reasons(self, shares: np.ndarray, inside: np.ndarray, minimum_region: float) -> np.ndarray:
        """Why each field is left out, '' where it isn't."""
        enough = shares[:, TISSUE] >= self.minimum_tissue
        prevailing = shares[:, 1:].argmax(axis=1) + 1
        reason = np.array(REASONS, dtype=object)[np.where(shares[:, 1:].sum(axis=1) < 0.01, GLASS, prevailing)]
        reason[reason == REASONS[TISSUE]] = LITTLE
        reason[enough] = ""
        reason[shares[:, PEN] > self.maximum_pen] = REASONS[PEN]
        reason[inside < minimum_region] = OUTSIDE
        return reason

    def strata(self, fields: list[Field], slide: str) -> list[list[Field]]:
        """Groups of neighbouring fields, in the order in which they are tried: one of each is wanted.

        The fields are laid along a curve that fills the plane (Morton's) and cut into as many stretches of equal length
        as patches are wanted, so that the choice is even wherever tissue lies.
        """
        if self.maximum_patches is None:
            return [[field] for field in fields]
        groups: list[list[Field]] = []
        for label in sorted({field.label for field in fields}):
            own = sorted((field for field in fields if field.label == label), key=_along_the_curve)
            random = np.random.default_rng([self.seed, *f"{slide}/{label}".encode()])
            for stretch in np.array_split(np.arange(len(own)), min(self.maximum_patches, len(own))):
                groups.append([own[place] for place in random.permutation(stretch)])
        return sorted(groups, key=lambda group: (group[0].y, group[0].x))


class Windows:
    """Shares of masks within fields of one size, by sums over rectangles."""

    def __init__(self, slide: Slide, footprint: float, shape: tuple[int, int]) -> None:
        self.corner = np.array(slide.bounds[:2])
        self.factor = np.array([slide.bounds[2] / shape[1], slide.bounds[3] / shape[0]])
        self.footprint = footprint
        self.limits = np.array(shape[::-1])

    def shares(self, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Float [N] in [0, 1] of a mask, bool [H, W], in the fields at places, [N, 2]."""
        sums = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        start = np.clip(np.rint((places - self.corner) / self.factor), 0, self.limits - 1).astype(int)
        end = np.rint((places - self.corner + self.footprint) / self.factor)
        end = np.clip(end, start + 1, self.limits).astype(int)
        (left, top), (right, bottom) = start.T, end.T
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return total / ((right - left) * (bottom - top))


def sharpness(patch: Image.Image) -> float:
    """Variance of the Laplacian of green, where stains show most, over the variance of green itself; 0 of one colour.

    The Laplacian's variance is a common measure of focus (Pech-Pacheco et al., ICPR 2000); taken over the variance it
    does not follow how strong the stain is. About 0 to 20; blur lowers it, noise raises it. The inner half of a patch
    and every fourth row of it suffice.
    """
    width, height = patch.size
    inner = patch.crop((width // 4, height // 4, width - width // 4, height - height // 4))
    green = np.asarray(inner.getchannel("G"))
    last = len(green) - 2
    above, centre, below = (green[at : last + at : 4].astype(np.float32) for at in (0, 1, 2))
    laplacian = above[:, 1:-1] + below[:, 1:-1] + centre[:, :-2] + centre[:, 2:] - 4 * centre[:, 1:-1]
    variance = float(centre.var())
    # Rounding to whole levels adds a twelfth to the variance of each pixel, of which the Laplacian weighs 20.
    return max(0.0, float(laplacian.var()) - 20 / 12) / variance if variance > 0 else 0.0


def _along_the_curve(field: Field) -> int:
    return _spread(field.x) | _spread(field.y) << 1


def _spread(number: int) -> int:
    """The bits of a number with a zero bit between each two."""
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
                        (2, 0x3333333333333333), (1, 0x5555555555555555)):  # fmt: skip
        number = (number | number << shift) & mask
    return number


def _whole(value: object) -> bool:
    return isinstance(value, int)


def _require(value: object, flag: str, needed: str, fits) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not fits(value):
        raise ValueError(f"--{flag} is {value!r}; it must be {needed}")
