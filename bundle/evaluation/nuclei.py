"""How many nuclei images show and how large they are, beside real ones, by a simple segmenter.

What a nucleus is taken to be: an object with more haematoxylin than a threshold and than its surroundings, of the area
of a nucleus. Steps of `NucleusSegmenter`, lengths in micrometres:

1. The density of haematoxylin by the vectors of Ruifrok & Johnston (`bundle.data.stain`), brought to 1 um a pixel or
   finer and smoothed by a Gaussian of 1 um.
2. Dark is what exceeds both one threshold for all images and the mean of its surroundings, a Gaussian of 8 um. The
   threshold is Otsu's (IEEE Trans. Syst. Man Cybern. 9, 1979) over pixels of the reference, kept within 0.4 and 1.5, so
   that an image without nuclei gets none.
3. Touching nuclei are parted by a watershed on the distance to the edge, from peaks at least 2 um apart.
4. Objects below 10 or above 400 um2 are dropped.

An object at the edge of an image counts, but its area does not, as part of it lies outside.

It is no instrument of pathology. At 2 um a pixel a lymphocyte is 3 to 4 pixels wide: crowded nuclei (lymphoid tissue,
layered epithelium) are parted by guess, shapes are not seen, pale nuclei are missed, and red cells, pigment, folds and
dark strands count as nuclei, the long ones in pieces. All sets are treated alike, so compare a figure with its floor,
never with counts by others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import find_boundaries, watershed
from torch.nn.functional import interpolate

from bundle.data.canvas import FIELD_OF_VIEW
from bundle.data.pictures import save_labelled_grid
from bundle.data.stain import STAINS, rgb_to_optical_density
from bundle.evaluation.distributions import INTERVALS, Sample, quantiles, wasserstein_figure
from bundle.evaluation.sets import ImageSet

FINEST = 1.0  # um a pixel
SMOOTHING = 1.0
SURROUNDINGS = 8.0
APART = 2.0
AREAS = (10.0, 400.0)  # um2
THRESHOLDS = (0.4, 1.5)  # optical density of haematoxylin
FITTED_TILES = 300
FEWEST_NUCLEI = 20
PICTURE = "nuclei.png"
CONTOUR = (255, 255, 0)


@dataclass(frozen=True)
class NucleusSegmenter:
    """uint8 RGB images -> labelled nuclei; see the text at the head of this file.

    Args:
        threshold: density of haematoxylin, in optical density.
        pitch: micrometres a pixel of the images.
    """

    threshold: float
    pitch: float

    @property
    def zoom(self) -> int:
        """By how much images are enlarged."""
        return max(1, math.ceil(self.pitch / FINEST))

    @classmethod
    def fit(cls, images: ImageSet, pitch: float) -> NucleusSegmenter:
        """Chooses the threshold on real images, evenly spaced over the set."""
        places = np.linspace(0, len(images) - 1, min(len(images), FITTED_TILES)).round().astype(int)
        smooth = cls(0.0, pitch)._smooth(images.images(places))
        # Otsu's needs two values; a set of one flat colour has no nuclei to be parted from anything.
        found = threshold_otsu(smooth) if np.ptp(smooth) > 0 else THRESHOLDS[1]
        return cls(float(np.clip(float(found), *THRESHOLDS)), pitch)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """int [N, zoom * S, zoom * S]: 0 beside nuclei, and a number of its own for each nucleus of all images.

        Args:
            images: uint8 RGB [N, 3, S, S].
        """
        smooth = self._smooth(images)
        fine = self.pitch / self.zoom
        around = gaussian_filter(smooth, (0, SURROUNDINGS / fine, SURROUNDINGS / fine))
        dark = (smooth > self.threshold) & (smooth > around)
        # All images under each other as one sheet, parted by a frame, so that each step is one call.
        framed = np.pad(dark, ((0, 0), (1, 1), (1, 1)))
        sheet = framed.reshape(-1, framed.shape[-1])
        inside = np.where(sheet, gaussian_filter(distance_transform_edt(sheet), 0.5 / fine), 0)
        peaks = peak_local_max(inside, min_distance=round(APART / fine), exclude_border=False)
        seeds = np.zeros(sheet.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        objects = watershed(-inside, seeds, mask=sheet)
        areas = np.bincount(objects.ravel()) * fine**2
        objects[((areas < AREAS[0]) | (areas > AREAS[1]))[objects]] = 0
        return objects.reshape(framed.shape)[:, 1:-1, 1:-1]

    def measure(self, images: ImageSet, size: int = 64) -> tuple[np.ndarray, Sample]:
        """Nuclei of each image, int [N], and the areas in um2 of those that do not touch its edge."""
        counts, areas, owners = [], [], []
        for number, batch in enumerate(images.batches(size)):
            objects = self(batch)
            sizes = np.bincount(objects.ravel())
            owner = np.zeros(len(sizes), np.int64)
            # One image owns each object, so the order in which its pixels are written makes no difference.
            owner[objects.ravel()] = np.repeat(np.arange(len(batch)), objects[0].size)
            known = np.flatnonzero(sizes[1:]) + 1
            counts.append(np.bincount(owner[known], minlength=len(batch)))
            edge = np.concatenate([objects[:, place].ravel() for place in (0, -1)])
            edge = np.concatenate([edge, *(objects[:, :, place].ravel() for place in (0, -1))])
            whole = np.setdiff1d(known, edge)
            areas.append(sizes[whole] * (self.pitch / self.zoom) ** 2)
            owners.append(owner[whole] + number * size)
        return np.concatenate(counts), Sample(np.concatenate(areas), np.concatenate(owners), len(images))

    def _smooth(self, images: torch.Tensor) -> np.ndarray:
        """Smoothed density of haematoxylin, float32 [N, zoom * S, zoom * S]."""
        density = rgb_to_optical_density(images.permute(0, 2, 3, 1).numpy())
        amounts = torch.from_numpy(density @ np.linalg.inv(STAINS)[:, 0].astype(np.float32))
        if self.zoom > 1:
            amounts = interpolate(amounts[:, None], scale_factor=self.zoom, mode="bicubic")[:, 0]
        sigma = SMOOTHING * self.zoom / self.pitch
        return gaussian_filter(amounts.numpy(), (0, sigma, sigma))


def measure_nuclei(
    synthetic: ImageSet,
    reference: ImageSet,
    floor: ImageSet,
    microns_per_pixel: float | None = None,
    folder: Path | None = None,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Distances of the distributions of nucleus counts and areas to the reference's, over all and within each class.

    Args:
        synthetic, reference, floor: of the same classes, and of as many images.
        microns_per_pixel: of the images as they are here, after resizing. None where unknown: the segmenter then takes
            an image to be 128 um wide, as in NCT-CRC-HE, and areas are given in pixels of the images.
        folder: where nuclei.png is written, a look at what was taken for nuclei; it shows real tiles.
        draws, seed: of the bootstrap over images.

    Returns:
        a section of `evaluation.json`; its "quantiles", {"overall" or class: {set: {"count", "area": percentiles 5, 25,
        50, 75 and 95}}}, are for people, its "segmenter" says how nuclei were found.

    Raises:
        ValueError: `microns_per_pixel` is not above 0, or a set has no image.
    """
    if microns_per_pixel is not None and not 0 < microns_per_pixel < math.inf:
        raise ValueError(f"--microns_per_pixel is {microns_per_pixel}; it must be above 0")
    sets = (synthetic, reference, floor)
    if not all(map(len, sets)):
        raise ValueError("nuclei can't be compared: " + ", ".join(f"{one.name} has {len(one)} images" for one in sets))
    side = reference.read(0).shape[-1]
    pitch = FIELD_OF_VIEW / side if microns_per_pixel is None else microns_per_pixel
    unit, scale = ("pixels", pitch**-2) if microns_per_pixel is None else ("um2", 1.0)
    segmenter = NucleusSegmenter.fit(reference, pitch)
    found = []
    for one in sets:
        counts, areas = segmenter.measure(one)
        found.append((counts, Sample(areas.values * scale, areas.owners, areas.images)))
    section: dict[str, Any] = {
        "overall": {},
        "classes": {},
        "notes": _notes(segmenter, microns_per_pixel, side) + ([INTERVALS.format(draws=draws)] if draws else []),
        "metrics": _metrics(unit),
        "quantiles": {},
        "segmenter": {"threshold": segmenter.threshold, "microns_per_pixel": pitch, "unit_of_area": unit},
    }
    for place, name in enumerate(["overall", *synthetic.classes]):
        kept = [np.full(len(one), True) if place == 0 else one.labels == place - 1 for one in sets]
        if not all(some.any() for some in kept):
            section["notes"].append(f"class {name} has no image in one of the sets and is left out")
            continue
        counts = [values[some] for (values, _), some in zip(found, kept)]
        areas = [sample.take(some) for (_, sample), some in zip(found, kept)]
        figures = {"nuclei_count": wasserstein_figure(*map(Sample.each, counts), draws, seed)}
        fewest = min(len(sample.values) for sample in areas)
        if fewest >= FEWEST_NUCLEI:
            figures["nuclei_area"] = wasserstein_figure(*areas, draws, seed)
        else:
            section["notes"].append(
                f"{name}: areas are not compared, as one of the sets has {fewest} whole nuclei; {FEWEST_NUCLEI} are "
                "needed"
            )
        (section["classes"] if place else section)[name] = figures
        section["quantiles"][name] = {
            one.name: {"count": quantiles(of_count), "area": quantiles(of_area.values)}
            for one, of_count, of_area in zip(sets, counts, areas)
        }
    if folder is not None:
        save_nuclei(Path(folder) / PICTURE, synthetic, reference, segmenter)
        section["picture"] = PICTURE
    return section


def save_nuclei(path: Path, synthetic: ImageSet, reference: ImageSet, segmenter: NucleusSegmenter) -> None:
    """Writes a PNG of two real and two synthetic images of each class, each beside itself with its nuclei outlined."""
    rows, sets = [], (reference, synthetic)
    shown = [number for number in range(len(synthetic.classes)) if all((one.labels == number).any() for one in sets)]
    for number in shown:
        for one in sets:
            places = np.flatnonzero(one.labels == number)
            images = one.images(places[np.linspace(0, len(places) - 1, 4).round().astype(int)[1:3]])
            rows += [picture for pair in zip(*_outlined(images, segmenter)) for picture in pair]
    columns = [f"{name}{outlined}" for name in ("real", "synthetic") for outlined in ("", ", outlined") * 2]
    made = {"Description": "Real tiles and synthetic images, with what the segmenter takes for nuclei"}
    save_labelled_grid(path, np.stack(rows), [synthetic.classes[number] for number in shown], columns, made)


def _outlined(images: torch.Tensor, segmenter: NucleusSegmenter) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, H, W, 3], enlarged enough to see outlines, and the same with them."""
    objects = segmenter(images)
    zoom = segmenter.zoom * max(1, round(256 / objects.shape[-1]))
    plain = images.permute(0, 2, 3, 1).numpy().repeat(zoom, axis=1).repeat(zoom, axis=2)
    objects = objects.repeat(zoom // segmenter.zoom, axis=1).repeat(zoom // segmenter.zoom, axis=2)
    edges = np.stack([find_boundaries(image, mode="inner") for image in objects])
    return plain, np.where(edges[..., None], np.uint8(CONTOUR), plain)


def _metrics(unit: str) -> dict[str, dict[str, str]]:
    return {
        "nuclei_count": {
            "title": "Nuclei an image",
            "explanation": "1-Wasserstein distance between the distributions of the number of nuclei in an image: how "
            "many an image would have to gain or lose, on average.",
        },
        "nuclei_area": {
            "title": f"Nuclear area, {'square micrometres' if unit == 'um2' else unit}",
            "explanation": "1-Wasserstein distance between the distributions of the areas of all whole nuclei: by how "
            "much a nucleus would have to grow or shrink, on average.",
        },
    }


def _notes(segmenter: NucleusSegmenter, microns_per_pixel: float | None, side: int) -> list[str]:
    notes = [
        "Nuclei are found by a threshold on haematoxylin and a watershed. It parts crowded nuclei by guess, misses "
        "pale ones and takes red cells, pigment and folds for nuclei; it does so in all sets alike."
    ]
    if segmenter.pitch > 1:
        notes.append(
            f"At {segmenter.pitch:.3g} um a pixel a lymphocyte is {7 / segmenter.pitch:.1f} pixels wide, so areas are "
            "rough and shapes are not measured."
        )
    if microns_per_pixel is None:
        notes.append(
            f"No --microns_per_pixel was given: the images were taken to be {FIELD_OF_VIEW:.0f} um wide "
            f"({FIELD_OF_VIEW / side:.3g} um a pixel), and areas are in pixels."
        )
    if segmenter.threshold in THRESHOLDS:
        notes.append(
            f"The threshold was held at its limit of {segmenter.threshold}: the reference shows no clear nuclei, or "
            "its stain is unusual."
        )
    return notes
