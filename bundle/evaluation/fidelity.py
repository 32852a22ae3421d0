"""How like real images a synthetic set is, and how much of their variety it has, by features alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bundle.evaluation.figures import figure, share_interval
from bundle.metrics.distances import distance_blocks
from bundle.metrics.frechet import centred_interval, frechet_distance, principal_axes
from bundle.metrics.kernel import KernelSums, distance_of_sums
from bundle.metrics.neighbours import NEIGHBOURS, Nearest, Overlap, mean_interval
from bundle.metrics.vendi import vendi_score

SMALLEST_CLASS = 20
IMAGES_PER_DIMENSION = 10
MOST_DIMENSIONS = 32
DRAWS_OF_FEW_DIMENSIONS = 100  # enough for a standard deviation
SIDES = ("synthetic", "reference", "floor")
COMPARED = ("synthetic", "floor")  # each with the reference
BETTER = {"precision": "higher", "recall": "higher", "density": "floor", "coverage": "higher"}
OF_CLASSES = ("kid", "precision", "recall")
METRICS = {
    "kid": (
        "Kernel distance (KID)",
        "Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)³ (Bińkowski et al., arXiv "
        "1801.01401), over all images. 0 on average for two sets of one source at any number of images; it may fall "
        "below 0.",
    ),
    "precision": (
        f"Precision (k = {NEIGHBOURS})",
        "Share of synthetic images within a reference image's distance to its "
        f"{NEIGHBOURS}th nearest neighbour (Kynkäänniemi et al., arXiv 1904.06991): how many look real.",
    ),
    "recall": (
        f"Recall (k = {NEIGHBOURS})",
        "Share of reference images within a synthetic image's distance to its "
        f"{NEIGHBOURS}th nearest neighbour (same paper): how much of the real variety is there. Far-off synthetic "
        "images reach far and raise it.",
    ),
    "density": (
        f"Density (k = {NEIGHBOURS})",
        f"In how many reference images' neighbourhoods a synthetic image lies, over {NEIGHBOURS} (Naeem et al., arXiv "
        "2002.09797). Above that of real images: crowded where real images are dense.",
    ),
    "coverage": (
        f"Coverage (k = {NEIGHBOURS})",
        f"Share of reference images with a synthetic image nearer than their {NEIGHBOURS}th nearest neighbour (same "
        "paper).",
    ),
    "vendi": (
        "Vendi score",
        "How many different images there effectively are, by cosine similarity (Friedman & Dieng, arXiv 2210.02410). "
        "Beside it the same of as many real images.",
    ),
}
INTERVALS = (
    "Intervals are of 95 % and cover other images of the same sources, not new slides and not a new training. KID: "
    "1.96 jackknife standard errors, wide by up to √2 where sets are alike. Vendi: 1.96 standard errors by the delta "
    "method, somewhat narrow with fewer images than dimensions. Precision, recall, coverage: Wilson's of a share. Of "
    "these and of the density, neighbourhoods are taken as they are, so what they owe to chance is not in it. Those of "
    "all classes together let the mix of classes vary, although it is fixed, so they are wide. "
)
DENSITY_INTERVAL = "Density: percentiles of {draws} draws of the images with replacement. "
FRECHET_INTERVAL = (
    "Fréchet distance: Student's, around the distance itself, from the scatter of draws of all images with replacement "
    "({frechet_draws} overall, {few} of a class), wide by up to about twice where images are few for the dimensions. "
)


class _Set:
    """Features [N, D] of one set, with what its own pairs say."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features
        self.sums, near = KernelSums(features), Nearest(len(features), NEIGHBOURS)
        for block in distance_blocks(features):  # one pass for both: the products are what takes time
            self.sums.add(*block)
            near.add(*block)
        self.radii = near.squared[:, -1]


def measure_fidelity(
    synthetic: torch.Tensor,
    reference: torch.Tensor,
    floor: torch.Tensor,
    labels: Sequence[np.ndarray],
    classes: Sequence[str],
    draws: int = 1000,
    frechet_draws: int = 8,
    seed: int = 0,
    frechet_title: str = "Fréchet distance",
) -> dict[str, Any]:
    """Fréchet distance, KID, precision, recall, density, coverage and Vendi score, each beside that of real images.

    Classes have KID, precision, recall, and the Fréchet distance along as many principal axes of the whole reference
    as their images bear: one for each 10 images, 32 at most. A class of fewer than 20 images has none of these.

    Args:
        synthetic, reference, floor: fp32 [N, D], N above 5 and the same for all. `floor` is of other real images.
        labels: int [N] of synthetic, reference and floor, places in `classes`, with the same counts of each class.
        classes: K names.
        draws: of the interval of the density, and, 100 at most, of the Fréchet distances of classes; 0 for no such
            intervals, otherwise 2 or more.
        frechet_draws: of the interval of the overall Fréchet distance, each of which takes seconds at D = 2,048; 0 for
            no such interval, otherwise 2 or more.
        seed: of all draws.
        frechet_title: what the Fréchet distance is called: "FID" where the features are Inception's.

    Returns:
        a section of `evaluation.json`: "overall", "classes", "notes", "metrics", and "neighbours", the k.

    Raises:
        ValueError: features that are not finite, sets of different counts or dimensions, too few images.
    """
    sets = {side: features.float() for side, features in zip(SIDES, (synthetic, reference, floor))}
    places = dict(zip(SIDES, (np.asarray(of) for of in labels)))
    _require_comparable(sets, places, classes)
    count, dimension = synthetic.shape
    few_draws = min(draws, DRAWS_OF_FEW_DIMENSIONS)
    said = INTERVALS + (DENSITY_INTERVAL if draws else "") + (FRECHET_INTERVAL if draws or frechet_draws else "")
    notes = [said.format(draws=draws, frechet_draws=frechet_draws, few=few_draws).strip()]
    if count <= dimension:
        notes.append(
            f"{count} images of each set are too few for covariances of {dimension} features: they are singular, and "
            "the overall Fréchet distance says little beyond its floor. Go by KID, which has no such bias"
        )
    overall = {"frechet": _frechet(sets, frechet_draws, seed), **_pairs(sets, draws, seed), "vendi": _vendi(sets)}
    of_classes, missing = _of_classes(sets, places, classes, draws, few_draws, seed)
    metrics = {
        "frechet": (
            frechet_title,
            "Distance of the Gaussians with the means and covariances of the features (Heusel et al., arXiv "
            f"1706.08500), in all {dimension} dimensions. It grows as sets shrink, for its floor alike.",
        ),
        **METRICS,
        "frechet_projected": (
            f"{frechet_title}, few dimensions",
            "The same after projection onto the first principal axes of the whole reference, one for each "
            f"{IMAGES_PER_DIMENSION} images of the class and {MOST_DIMENSIONS} at most. Comparable only where the "
            "number of axes, given with each figure, is the same, and blind to all other directions.",
        ),
    }
    return {
        "overall": overall,
        "classes": of_classes,
        "notes": notes + missing,
        "metrics": {name: {"title": title, "explanation": said} for name, (title, said) in metrics.items()},
        "neighbours": NEIGHBOURS,
    }


def _of_classes(
    sets: dict[str, torch.Tensor],
    places: dict[str, np.ndarray],
    classes: Sequence[str],
    draws: int,
    few_draws: int,
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    """Figures of each class that has enough images, and a note of each that has not."""
    found, missing = {}, []
    most = min(MOST_DIMENSIONS, sets["reference"].shape[1], len(sets["reference"]) - 1)
    axes = principal_axes(sets["reference"], most).float()
    for number, name in enumerate(classes):
        chosen = {side: torch.as_tensor(places[side] == number) for side in SIDES}
        images = int(chosen["reference"].sum())
        if images < SMALLEST_CLASS:
            missing.append(
                f"{name} has {images} images in each set and no figures of its own, which take {SMALLEST_CLASS} or more"
            )
            continue
        of_class = {side: features[chosen[side]] for side, features in sets.items()}
        pairs = _pairs(of_class, draws, seed)
        bears = min(most, images // IMAGES_PER_DIMENSION)
        projected = {side: features @ axes[:, :bears] for side, features in of_class.items()}
        note = f"along the first {bears} principal axes of the whole reference"
        frechet = _frechet(projected, few_draws, seed, note)
        found[name] = {**{metric: pairs[metric] for metric in OF_CLASSES}, "frechet_projected": frechet}
    return found, missing


def _require_comparable(sets: dict[str, torch.Tensor], places: dict[str, np.ndarray], classes: Sequence[str]) -> None:
    """Raises ValueError unless the three sets have finite features, and the same counts and dimensions."""
    counts = {}
    for side, features in sets.items():
        broken = ~features.isfinite().all(dim=1)
        if broken.any():
            raise ValueError(
                f"the {side} set has features that are not finite in {int(broken.sum())} of {len(features)} images, "
                f"the first in row {int(broken.int().argmax())}: look at that image, or use another extractor"
            )
        if len(features) != len(places[side]):
            raise ValueError(f"the {side} set has {len(features)} images with features and {len(places[side])} labels")
        counts[side] = np.bincount(places[side], minlength=len(classes)).tolist()
    shapes = {side: tuple(features.shape) for side, features in sets.items()}
    if len({*shapes.values()}) > 1 or any(of != counts["reference"] for of in counts.values()):
        raise ValueError(
            f"sets of different sizes cannot be compared: {shapes}, images of each class {counts}. Cut them to the same"
        )
    if len(sets["reference"]) <= NEIGHBOURS:
        raise ValueError(
            f"{len(sets['reference'])} images of each set: the {NEIGHBOURS}th nearest neighbour takes more than "
            f"{NEIGHBOURS}. Give more real images, and synthetic ones of the same classes"
        )


def _beside(
    synthetic: tuple[float, Any], floor: tuple[float, Any], better: str = "lower", note: str = ""
) -> dict[str, Any]:
    """A figure of two pairs of value and interval."""
    return figure(synthetic[0], floor[0], synthetic[1], floor[1], better, note)


def _frechet(sets: dict[str, torch.Tensor], draws: int, seed: int, note: str = "") -> dict[str, Any]:
    both = []
    for side in COMPARED:
        value = frechet_distance(sets[side], sets["reference"])
        interval = centred_interval(value, sets[side], sets["reference"], draws, seed) if draws else None
        both.append((value, interval))
    return _beside(*both, note=note)


def _pairs(sets: dict[str, torch.Tensor], draws: int, seed: int) -> dict[str, Any]:
    """KID, precision, recall, density and coverage: all that takes distances of all pairs."""
    of = {side: _Set(features) for side, features in sets.items()}
    reference, both = of["reference"], []
    for side in COMPARED:
        sums = KernelSums(of[side].features, reference.features)
        balls = Overlap(of[side].radii, reference.radii, NEIGHBOURS)
        for block in distance_blocks(of[side].features, reference.features):
            sums.add(*block)
            balls.add(*block)
        found = {"kid": distance_of_sums(of[side].sums, reference.sums, sums)}
        for name, values in balls.images().items():
            if name == "density":  # the others are shares
                interval = mean_interval(values, draws, seed) if draws else None
            else:
                interval = share_interval(values.sum(), len(values))
            found[name] = values.mean().item(), interval
        both.append(found)
    return {name: _beside(*(found[name] for found in both), BETTER.get(name, "lower")) for name in both[0]}


def _vendi(sets: dict[str, torch.Tensor]) -> dict[str, Any]:
    both = (vendi_score(sets[side]) for side in COMPARED)
    return _beside(*both, "floor", f"the reference itself has {vendi_score(sets['reference'])[0]:.4g}")
