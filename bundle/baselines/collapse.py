"""Whether a generator has collapsed or failed, told while it is trained: its images beside real training images.

By figures that need no network and say what they are: the colours of 16 x 16 areas show when a class has become a few
pictures, in whatever tints, and when images are unlike any real one; the power of the finest detail shows when they are
blurred, or noise of the right colours. Neither shows whether tissue is drawn well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, pdist

from bundle.metrics.neighbours import overlap
from bundle.selection.scores import descriptors

SPACE = "colours of 16 x 16 areas"
NEIGHBOURS = 3
# Of our own choosing. Real halves of a class stay well within all of them; a generator of one picture a class is at 0,
# that picture in many tints below 0.3 of the real layouts, and white noise has 2.6 to 4.3 times the real grain.
LEAST_SPREAD = 0.3
LEAST_RECALL = 0.1
LEAST_PRECISION = 0.1
DETAIL = (0.2, 5.0)
MOST_GRAIN = 2.0
ROUNDING = 1 / 12  # power of the error of rounding to whole levels


def compare_with_real(
    images: np.ndarray, labels: Sequence[int], real: torch.Tensor, real_labels: Sequence[int], classes: Sequence[str]
) -> dict[str, Any]:
    """How generated images spread, beside real ones.

    Args:
        images: generated, uint8 [N, S, S, 3], two or more of each class.
        labels: [N], places in `classes`.
        real: uint8 [M, 3, S, S], likewise; real_labels: [M].
        classes: names.

    Returns:
        "space"; "precision", "recall", "coverage" (see `bundle.metrics.neighbours`, all classes together). Of classes
        with two real images or more, each {class: generated over real}: "spread", mean distance between its images;
        "layout", the same when each image's mean colour is taken off; "detail", power of the finest octave (see
        :func:`fine_powers`); "grain", that over the power of the next octave, 1 as for real images, more for noise of
        single pixels. "warnings": what is wrong, in words.
    """
    generated_images = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    generated, originals = descriptors(generated_images), descriptors(real)
    fine, real_fine = fine_powers(generated_images), fine_powers(real)
    labels, real_labels = torch.as_tensor(labels), torch.as_tensor(real_labels)
    found = overlap(generated, originals, k=NEIGHBOURS)
    ratios: dict[str, dict[str, float]] = {"spread": {}, "layout": {}, "detail": {}, "grain": {}}
    for number, name in enumerate(classes):
        mine, theirs = labels == number, real_labels == number
        if theirs.sum() < 2:
            continue
        one, other = generated[mine], originals[theirs]
        ratios["spread"][name] = mean_distance(one) / max(mean_distance(other), 1e-6)
        ratios["layout"][name] = mean_distance(layouts(one)) / max(mean_distance(layouts(other)), 1e-6)
        finest, next_finest = (fine[mine].mean(0) - real_fine[theirs].mean(0)).exp().tolist()
        ratios["detail"][name] = finest
        ratios["grain"][name] = finest / next_finest
    return {
        "space": SPACE,
        **{name: round(found[name], 4) for name in ("precision", "recall", "coverage")},
        **{name: {label: round(value, 3) for label, value in values.items()} for name, values in ratios.items()},
        "warnings": warnings_of(found, ratios),
    }


def warnings_of(found: dict[str, float], ratios: dict[str, dict[str, float]]) -> list[str]:
    """What of the figures of :func:`compare_with_real` is out of bounds, in words."""
    bounds = (
        ("spread", LEAST_SPREAD, np.inf, "images of a class hardly differ, as a share of real distances"),
        ("layout", LEAST_SPREAD, np.inf, "images of a class have one layout, as a share of real distances"),
        ("detail", *DETAIL, "images are blurred or rough, as a multiple of the real power of the finest detail"),
        ("grain", 0, MOST_GRAIN, "images are noise of single pixels, as a multiple of real grain"),
    )
    warnings = []
    for figure, least, most, text in bounds:
        wrong = [f"{name} ({value:.2f})" for name, value in ratios[figure].items() if not least <= value <= most]
        if wrong:
            warnings.append(f"{text}: {', '.join(wrong)}")
    if found["recall"] < LEAST_RECALL:
        warnings.append(f"collapsed: {found['recall']:.0%} of the real images are within reach of generated ones")
    if found["precision"] < LEAST_PRECISION:
        warnings.append(f"failed: {found['precision']:.0%} of the generated images are within reach of real ones")
    return warnings


def mean_distance(features: torch.Tensor) -> float:
    """Mean Euclidean distance between two of the features [N, D], N of 2 or more."""
    return pdist(features).mean().item()


def layouts(features: torch.Tensor) -> torch.Tensor:
    """Descriptors [N, 768] without the mean of each colour channel over the areas."""
    channels = features.unflatten(1, (3, -1))
    return (channels - channels.mean(2, keepdim=True)).flatten(1)


def fine_powers(images: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """Power of the two finest octaves of each image, natural logarithms of squared levels, fp32 [N, 2].

    The finest is the mean square of pixels about the means of 2 x 2, the next that of these about the means of 4 x 4.
    Of independent noise the finest has four times the power of the next.

    Args:
        images: uint8 [N, 3, S, S], S of 4 or more.
        chunk: images at once.
    """
    powers = []
    for batch in images.split(chunk):
        finer = batch.float()
        for _ in range(2):
            coarser = avg_pool2d(finer, 2)
            side = 2 * coarser.shape[-1]
            powers.append((finer[..., :side, :side] - interpolate(coarser, scale_factor=2)).square().mean((1, 2, 3)))
            finer = coarser
    finest, following = torch.cat(powers[::2]), torch.cat(powers[1::2])
    return (torch.stack([finest, following], dim=1) + ROUNDING).log()
