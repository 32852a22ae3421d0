"""How strongly and how unevenly images are stained with haematoxylin and eosin, beside real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bundle.data.stain import STAINS, rgb_to_optical_density
from bundle.evaluation.distributions import INTERVALS, Sample, quantiles, wasserstein_figure
from bundle.evaluation.figures import figure
from bundle.evaluation.sets import ImageSet
from bundle.metrics.frechet import bootstrap_interval, frechet_distance

_DISTANCE = (
    "1-Wasserstein distance between the distributions over images, in units of optical density: by how much, on "
    "average, an image would have to change"
)
STATISTICS = {
    "haematoxylin_mean": ("Haematoxylin, mean", "mean density of haematoxylin"),
    "eosin_mean": ("Eosin, mean", "mean density of eosin"),
    "haematoxylin_spread": ("Haematoxylin, spread", "standard deviation of the haematoxylin within an image"),
    "eosin_spread": ("Eosin, spread", "standard deviation of the eosin within an image"),
}
METRICS = {
    name: {"title": title, "explanation": f"Of each image the {what}. {_DISTANCE}."}
    for name, (title, what) in STATISTICS.items()
} | {
    "stain_frechet": {
        "title": "Stain, Fréchet distance",
        "explanation": "The four stain figures of an image together: the Fréchet distance of their distributions, each "
        "in units of its standard deviation over the reference of all classes.",
    }
}
FEWEST = 2


def stain_statistics(images: torch.Tensor) -> np.ndarray:
    """Means and standard deviations of the two stains of each image, float32 [N, 4], in the order of `STATISTICS`.

    Optical density (natural logarithm) is unmixed by the vectors of Ruifrok & Johnston, see `bundle.data.stain`. An
    unmixed density may be slightly negative where the hue is not between the two stains.

    Args:
        images: uint8 RGB [N, 3, H, W].
    """
    density = rgb_to_optical_density(images.permute(0, 2, 3, 1).numpy())
    amounts = density @ np.linalg.inv(STAINS)[:, :2].astype(np.float32)
    return np.concatenate([amounts.mean((1, 2)), amounts.std((1, 2))], axis=1)


def measure_stain(
    synthetic: ImageSet, reference: ImageSet, floor: ImageSet, draws: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Distances of the stain statistics to those of the reference, over all and within each class.

    Args:
        synthetic, reference, floor: of the same classes, and of as many images.
        draws, seed: of the bootstrap over images.

    Returns:
        a section of `evaluation.json`; its "quantiles", {"overall" or class: {set: {statistic: percentiles 5, 25, 50,
        75 and 95 in optical density}}}, are for people.

    Raises:
        ValueError: fewer than two images in a set.
    """
    sets = (synthetic, reference, floor)
    found = [np.concatenate([stain_statistics(batch) for batch in one.batches(256)]) for one in sets]
    unit = torch.from_numpy(found[1].std(0, ddof=1)).clamp(min=1e-3)
    notes = [INTERVALS.format(draws=draws)] if draws else []
    section: dict[str, Any] = {"overall": {}, "classes": {}, "notes": notes, "metrics": METRICS, "quantiles": {}}
    for place, name in enumerate(["overall", *synthetic.classes]):
        chosen = [values if place == 0 else values[one.labels == place - 1] for one, values in zip(sets, found)]
        if place and min(map(len, chosen)) < FEWEST:
            section["notes"].append(f"class {name} has fewer than {FEWEST} images in one of the sets and is left out")
            continue
        figures = {
            metric: wasserstein_figure(*(Sample.each(values[:, column]) for values in chosen), draws, seed)
            for column, metric in enumerate(STATISTICS)
        }
        figures["stain_frechet"] = _frechet([torch.from_numpy(values) / unit for values in chosen], draws, seed)
        (section["classes"] if place else section)[name] = figures
        section["quantiles"][name] = {
            one.name: dict(zip(STATISTICS, map(quantiles, values.T))) for one, values in zip(sets, chosen)
        }
    return section


def _frechet(statistics: list[torch.Tensor], draws: int, seed: int) -> dict[str, Any]:
    synthetic, reference, floor = statistics
    pairs = [(synthetic, reference), (floor, reference)]
    intervals = [bootstrap_interval(*pair, draws, seed) if draws else None for pair in pairs]
    # Rounding can make the distance of equal sets slightly negative.
    return figure(*(max(0.0, frechet_distance(*pair)) for pair in pairs), *intervals)
