"""Whether synthetic images are copies of what their model was trained on, beside real images that cannot be.

Every figure stands beside the same of real images that nothing was trained on, which are no copies, so a figure like
theirs speaks of no copying.

**The search.** Of each image, the four training images are taken whose 16 x 16 averages (`bundle.selection.scores`) are
nearest in any of eight orientations. The image is then compared with these four at up to 64 x 64 pixels, each moved by
up to 1/32 of its side or cropped by up to 1/16 (`bundle.metrics.copies.aligned_distances`).

**The rule.** An image is flagged where the nearest training image is nearer than a third of the distance to the second
nearest (`COPY_RATIO`, Yoon et al. 2023), in the averages or as aligned. So each image brings its own scale, that of
its tissue. It finds exact copies, turned and mirrored ones, JPEG, noise, slightly other stain, and small shifts and
crops. It does not find: tiles shifted or cropped by more, mixtures of tiles, a tile of which training has a
near twin in other pixels (the second nearest is then as near), and changed copies of empty glass, which resembles all
glass. For these look at the gallery, and at the ratio test in features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from bundle.data.transforms import orient
from bundle.evaluation.figures import figure, share_interval
from bundle.evaluation.nearest_pairs import save_gallery, write_table
from bundle.evaluation.sets import ImageSet
from bundle.metrics.copies import COPY_RATIO, aligned_distances, nearest_images
from bundle.metrics.neighbours import authentic, nearest
from bundle.selection.scores import DESCRIPTOR_SHAPE, descriptors

CANDIDATES = 4
ALIGNED_SIDE = 64
GALLERY, TABLE = "copies.png", "nearest.csv"
METRICS = {
    "flagged": {
        "title": "Flagged as copies",
        "explanation": f"Share of images whose nearest training image is nearer than {COPY_RATIO:.2f} of the distance "
        "to the second nearest, over eight orientations, small shifts and crops. Of real images that were never "
        "trained on: how often the rule is wrong.",
    },
    "identical": {
        "title": "Pixel-identical to a training image",
        "explanation": "Number of images whose pixels are all those of a training image, not turned.",
    },
    "pixel_ratio": {
        "title": "Median ratio of distances in pixels",
        "explanation": "Distance to the nearest training image over that to the second nearest: near 1 where nothing "
        "is copied, near 0 for a copy (Yoon et al. 2023).",
    },
    "feature_ratio": {
        "title": "Median ratio of distances in features",
        "explanation": "The same in features, of images as they are, not turned.",
    },
    "nearer_to_training_features": {
        "title": "Nearer to training than to held-out images, in features",
        "explanation": "Share of images that are nearer to a training image than to a held-out one, of equally many of "
        "each class, ties left out (Platzer & Reutterer, arXiv 2104.00635; the test of Meehan et al., arXiv "
        "2004.05675, is kin). One half where training images are resembled no more than others; real images show what "
        "chance and other slides do to it.",
    },
    "nearer_to_training_pixels": {
        "title": "Nearer to training than to held-out images, in pixels",
        "explanation": "The same by 16 x 16 averages, over eight orientations.",
    },
    "authentic": {
        "title": "Authentic",
        "explanation": "Share of images that are farther from their nearest training image than that one is from the "
        "nearest other training image, in features (Alaa et al., arXiv 2102.08921). Fewer than of real images: too "
        "near to training.",
    },
}


def measure_copies(
    synthetic: ImageSet,
    training: ImageSet,
    held_out: ImageSet,
    features: Sequence[torch.Tensor],
    folder: Path,
    shown: int = 24,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Searches training images for copies, writes nearest.csv and the gallery copies.png, which shows real tiles.

    Args:
        synthetic: images that may be copies.
        training: what could be copied. Of images with the same pixels one is searched. Classes by name; images of other
            classes are searched too, but take no part in the ratio test.
        held_out: real images that are neither trained on nor in `training`.
        features: float32 [N, D] of each of the three sets, in this order.
        folder: where both files are written.
        shown: pairs in the gallery: those that are flagged, then the smallest ratios of each class in turn.
        draws, seed: of bootstrap intervals of medians, and of what the ratio test draws.

    Returns:
        a section of `evaluation.json`. Besides the shape of all: "images" searched with and in, "rule", and "gallery"
        and "table", the names of the files. Intervals of shares are Wilson's, those of medians percentiles over images.

    Raises:
        ValueError: fewer than `CANDIDATES` different training images, no synthetic or held-out image, or features of
            another number of images.
    """
    sets = (synthetic, training, held_out)
    _check(sets, features)
    # A second file with the same pixels would be as near as the first, and no copy would stand out.
    unique = np.sort(np.unique(training.digests, return_index=True)[1])
    if len(unique) < CANDIDATES:
        raise ValueError(
            f"{len(unique)} different training images: {CANDIDATES} are needed to tell copies by. Name more"
        )
    known = set(training.digests)
    training = training.take(unique)
    features = [features[0], features[1][torch.from_numpy(unique)], features[2]]
    averages = [_averages(one) for one in (synthetic, training, held_out)]
    found = [_search(sets[n], training, averages[n], averages[1], features[n], features[1]) for n in (0, 2)]
    for rows, one in zip(found, (synthetic, held_out)):
        rows["identical"] = np.array([digest in known for digest in one.digests])
    section: dict[str, Any] = {
        "overall": {},
        "classes": {},
        "notes": [],
        "metrics": METRICS,
        "images": {"synthetic": len(synthetic), "training": len(training), "held_out": len(held_out)},
        "rule": {"ratio": COPY_RATIO, "candidates": CANDIDATES, "side": min(ALIGNED_SIDE, synthetic.read(0).shape[-1])},
        "gallery": GALLERY,
        "table": TABLE,
    }
    controls = _ratio_test((synthetic, training, held_out), features, averages, found, section["notes"], seed)
    for place, name in enumerate(["overall", *synthetic.classes]):
        rows = []
        for values, one in zip(found, (synthetic, held_out)):
            kept = np.full(len(one), place == 0)
            if place and name in one.classes:
                kept = one.labels == one.classes.index(name)
            rows.append({key: value[kept] for key, value in values.items()})
        if len(rows[0]["flagged"]):
            (section["classes"] if place else section)[name] = _figures(*rows, draws, seed)
    if not controls:
        section["notes"].append(
            "no class has training and held-out images enough for the ratio test, so it is left out"
        )
    write_table(Path(folder) / TABLE, synthetic, training, found[0])
    save_gallery(Path(folder) / GALLERY, synthetic, training, found[0], shown)
    return section


def _check(sets: Sequence[ImageSet], features: Sequence[torch.Tensor]) -> None:
    for one, values in zip(sets, features):
        if not len(one):
            raise ValueError(f"the copy report needs images of each set, and the {one.name} set has none")
        if len(one) != len(values):
            raise ValueError(f"the {one.name} set has {len(one)} images, and features of {len(values)} were given")
        if not torch.isfinite(values).all():
            raise ValueError(f"features of the {one.name} set are not finite: the extractor is broken")


def _averages(images: ImageSet) -> torch.Tensor:
    return torch.cat([descriptors(batch) for batch in images.batches(256)]).view(-1, *DESCRIPTOR_SHAPE)


def _search(
    images: ImageSet,
    training: ImageSet,
    averages: torch.Tensor,
    training_averages: torch.Tensor,
    features: torch.Tensor,
    training_features: torch.Tensor,
) -> dict[str, np.ndarray]:
    """What is said of each image, by the columns of the table; places in the training set instead of its files."""
    distances, places, ways = nearest_images(averages, training_averages, CANDIDATES)
    coarse = _ratios(distances)
    aligned, block = [], 32
    for start in range(0, len(images), block):
        rows = slice(start, start + block)
        candidates = _at_most(training.images(places[rows].flatten()))
        turned = torch.stack([orient(image, int(way)) for image, way in zip(candidates, ways[rows].flatten())])
        own = _at_most(images.images(range(len(images))[rows]))
        aligned.append(aligned_distances(own, turned.view(len(own), CANDIDATES, *own.shape[1:])))
    distances, order = torch.cat(aligned).sort(dim=1, stable=True)
    fine = _ratios(distances)
    # The candidate that is shown is the one that the smaller ratio speaks of.
    chosen = torch.where(fine <= coarse, order[:, 0], 0)[:, None]
    by_feature, near = nearest(features, training_features, k=2)
    ratio = torch.minimum(coarse, fine)
    found = {
        "nearest_file": places.gather(1, chosen)[:, 0],
        "pixel_distance": torch.cat(aligned).gather(1, chosen)[:, 0],
        "pixel_ratio": ratio,
        "orientation": ways.gather(1, chosen)[:, 0],
        "flagged": ratio < COPY_RATIO,
        "nearest_file_in_features": near[:, 0],
        "feature_distance": by_feature[:, 0],
        "feature_ratio": _ratios(by_feature),
        "authentic": authentic(features, training_features),
    }
    return {name: values.numpy() for name, values in found.items()}


def _at_most(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [0, 255], averaged to `ALIGNED_SIDE` where larger."""
    side = min(ALIGNED_SIDE, images.shape[-1])
    return adaptive_avg_pool2d(images.float(), side)


def _ratios(distances: torch.Tensor) -> torch.Tensor:
    """Nearest over second nearest, [N] of ascending [N, k]; 0 where both are 0."""
    return distances[:, 0] / distances[:, 1].clamp(min=1e-9)


def _ratio_test(
    sets: Sequence[ImageSet],
    features: Sequence[torch.Tensor],
    averages: Sequence[torch.Tensor],
    found: Sequence[dict[str, np.ndarray]],
    notes: list[str],
    seed: int,
) -> bool:
    """Adds to `found` whether each image is nearer to training (1) than to as many held-out images (0); else NaN.

    Of each class, half of the held-out images are those compared with. The other half are the real control.
    """
    synthetic, training, held_out = sets
    random = np.random.default_rng(seed)
    own, others, controls, left_out = [], [], [], []
    for name in synthetic.classes:
        places = [
            random.permutation(np.flatnonzero(one.labels == one.classes.index(name))) if name in one.classes else []
            for one in (training, held_out)
        ]
        half = len(places[1]) // 2
        count = min(len(places[0]), half)
        if not count:
            left_out.append(name)
            continue
        own += [*places[0][:count]]
        others += [*places[1][:count]]
        controls += [*places[1][half:]]
    if left_out and own:
        notes.append(
            f"images of class {', '.join(left_out)} take no part in the ratio test: it has no training image, or fewer "
            "than two held-out ones"
        )
    compared = [np.isin(synthetic.labels, [synthetic.classes.index(name) for name in left_out], invert=True)]
    compared.append(np.isin(np.arange(len(held_out)), controls))
    for rows, number, kept in zip(found, (0, 2), compared):
        for metric, values in (("features", features), ("pixels", averages)):
            rows[f"nearer_to_training_{metric}"] = answers = np.full(len(kept), np.nan)
            if own and kept.any():
                distances = [
                    _nearest_distance(values[number][torch.from_numpy(kept)], values[side][places])
                    for side, places in ((1, own), (2, others))
                ]
                answers[kept] = np.where(
                    distances[0] == distances[1], np.nan, (distances[0] < distances[1]).astype(np.float64)
                )
    if own:
        notes.append(
            f"The ratio test compares with {len(own)} training and as many held-out images, of equally many of each "
            f"class; its real control are {len(controls)} other held-out images. Its intervals are over images, not "
            "over which ones they were compared with, so read a figure beside its control."
        )
    return bool(own)


def _nearest_distance(values: torch.Tensor, references: torch.Tensor) -> np.ndarray:
    if values.ndim == 2:
        return nearest(values, references)[0][:, 0].numpy()
    return nearest_images(values, references, 1)[0][:, 0].numpy()


def _figures(
    synthetic: dict[str, np.ndarray], real: dict[str, np.ndarray], draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    figures = {
        "identical": figure(synthetic["identical"].sum(), real["identical"].sum() if len(real["identical"]) else None)
    }
    for name in ("flagged", "authentic", "nearer_to_training_features", "nearer_to_training_pixels"):
        values, floor = (_share(rows[name]) for rows in (synthetic, real))
        if values is not None:
            better = "lower" if name == "flagged" else "floor"
            figures[name] = figure(values[0], floor and floor[0], values[1], floor and floor[1], better)
    for name in ("pixel_ratio", "feature_ratio"):
        values, floor = (_median(rows[name], draws, seed) for rows in (synthetic, real))
        figures[name] = figure(values[0], floor and floor[0], values[1], floor and floor[1], "floor")
    return {name: figures[name] for name in METRICS if name in figures}


def _share(values: np.ndarray) -> tuple[float, list[float]] | None:
    """Share of ones among those that are known, and its interval."""
    known = values[~np.isnan(values.astype(np.float64))]
    if not len(known):
        return None
    return float(known.mean()), share_interval(known.sum(), len(known))


def _median(values: np.ndarray, draws: int, seed: int) -> tuple[float, list[float] | None] | None:
    if not len(values):
        return None
    random = np.random.default_rng(seed)
    again = [np.median(random.choice(values, len(values))) for _ in range(draws)]
    return float(np.median(values)), np.percentile(again, (2.5, 97.5)).tolist() if draws else None
