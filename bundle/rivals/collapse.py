"""Whether a generator has collapsed or failed, told while it is trained: its images beside real training images.

In a feature space that needs no network and says what it is: the colours of 16 x 16 areas. It shows when a class has
become a few pictures, and when images are unlike any real one. It does not show whether tissue is drawn well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pdist

from bundle.metrics.neighbours import overlap
from bundle.selection.scores import descriptors

SPACE = "colours of 16 x 16 areas"
NEIGHBOURS = 3
# Of our own choosing: real halves of a class stay well above both, a generator of one picture a class is at 0.
LEAST_SPREAD = 0.3
LEAST_RECALL = 0.1
LEAST_PRECISION = 0.1


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
        "space"; "precision", "recall", "coverage" (see `bundle.metrics.neighbours`, all classes together); "spread":
        {class: mean distance between its generated images over that between its real ones}, of classes with two real
        images or more; "warnings": what is wrong, in words.
    """
    generated = descriptors(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
    originals = descriptors(real)
    labels, real_labels = torch.as_tensor(labels), torch.as_tensor(real_labels)
    found = overlap(generated, originals, k=NEIGHBOURS)
    spread = {
        name: mean_distance(generated[labels == number]) / max(mean_distance(originals[real_labels == number]), 1e-6)
        for number, name in enumerate(classes)
        if (real_labels == number).sum() > 1
    }
    alike = [f"{name} ({value:.2f})" for name, value in spread.items() if value < LEAST_SPREAD]
    warnings = []
    if alike:
        warnings.append(f"images of a class hardly differ, as a share of real distances: {', '.join(alike)}")
    if found["recall"] < LEAST_RECALL:
        warnings.append(f"collapsed: {found['recall']:.0%} of the real images are within reach of generated ones")
    if found["precision"] < LEAST_PRECISION:
        warnings.append(f"failed: {found['precision']:.0%} of the generated images are within reach of real ones")
    return {
        "space": SPACE,
        **{name: round(found[name], 4) for name in ("precision", "recall", "coverage")},
        "spread": {name: round(value, 3) for name, value in spread.items()},
        "warnings": warnings,
    }


def mean_distance(features: torch.Tensor) -> float:
    """Mean Euclidean distance between two of the features [N, D], N of 2 or more."""
    return pdist(features).mean().item()
