"""How far distributions of measured values lie apart, with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from bundle.evaluation.figures import figure

INTERVALS = (
    "Intervals: percentiles of {draws} draws of the images with replacement, which lie somewhat high. Those of all "
    "classes together let the mix of classes vary, although it is fixed, so they are wide."
)


@dataclass(frozen=True)
class Sample:
    """Values that were measured on the images of one set: one of each image, or any number.

    Args:
        values: float [n].
        owners: int [n], the image that each value is of, in [0, images).
        images: number of images, those without a value included.
    """

    values: np.ndarray
    owners: np.ndarray
    images: int

    @staticmethod
    def each(values: np.ndarray) -> Sample:
        """One value of each image, [N]."""
        return Sample(values, np.arange(len(values)), len(values))

    def take(self, images: np.ndarray) -> Sample:
        """The values of these images, a bool [images]."""
        kept = images[self.owners]
        return Sample(self.values[kept], (np.cumsum(images) - 1)[self.owners[kept]], int(images.sum()))

    def weighted(self) -> _Weighted:
        return _Weighted(self)


class _Weighted:
    """The different values of a sample, and how often they occur when its images are drawn again."""

    def __init__(self, sample: Sample) -> None:
        self.owners, self.images = sample.owners, sample.images
        self.support, self.places = np.unique(sample.values, return_inverse=True)
        self.weights = np.bincount(self.places, minlength=len(self.support)).astype(np.float64)

    def redraw(self, random: np.random.Generator) -> np.ndarray:
        drawn = np.bincount(random.integers(self.images, size=self.images), minlength=self.images)
        weights = np.bincount(self.places, drawn[self.owners], len(self.support))
        return weights if weights.any() else self.weights  # all draws fell on images without a value


def wasserstein_figure(
    synthetic: Sample, reference: Sample, floor: Sample, draws: int = 200, seed: int = 0, note: str = ""
) -> dict[str, Any]:
    """The 1-Wasserstein distance to the reference, in the unit of the values, as a figure with its floor.

    Intervals are 95 % percentiles over images that are drawn again with replacement, reference and set alike; an image
    brings all its values. Drawing again repeats images, which alone raises the distance, so intervals lie somewhat
    high; compare that of a figure with that of its floor.

    Args:
        synthetic, reference, floor: each with one value or more.
        draws: resamples; 0 for no intervals.
    """
    sets = [sample.weighted() for sample in (synthetic, reference, floor)]
    random = np.random.default_rng(seed)

    def distances(weights: Sequence[np.ndarray]) -> list[float]:
        (one, own), (other, against), (real, of_real) = zip((part.support for part in sets), weights)
        return [wasserstein_distance(one, other, own, against), wasserstein_distance(real, other, of_real, against)]

    value, least = distances([part.weights for part in sets])
    found = np.array([distances([part.redraw(random) for part in sets]) for _ in range(draws)])
    intervals = np.percentile(found, (2.5, 97.5), axis=0).T.tolist() if draws else [None, None]
    return figure(value, least, *intervals, note=note)


def quantiles(values: np.ndarray) -> list[float]:
    """The 5th, 25th, 50th, 75th and 95th percentile; [] of no values."""
    return np.percentile(values, (5, 25, 50, 75, 95)).round(4).tolist() if len(values) else []
