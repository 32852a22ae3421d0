"""Whether an independent classifier sees the class that an image was made for, in colour and denied colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from bundle.data.transforms import scale_patch
from bundle.data.views import VIEWS
from bundle.evaluation.figures import figure, share_interval
from bundle.evaluation.sets import ImageSet
from bundle.training.judge import Judge

SEEN_AS = {"colour": "in colour", "grey": "in grey", "normalised": "with all stains brought to one pair"}


def measure_agreement(judge: Judge, synthetic: ImageSet, reference: ImageSet, batch_size: int = 256) -> dict[str, Any]:
    """Share of the images in which the judge sees the asked class, by view, beside its accuracy on real images.

    Guided images can be made to please a classifier by their stain alone, so the views without colour count most. A
    share above the floor is no merit: it says that images are more typical of their class than real ones are.

    Args:
        judge: of the adaptation; of the same classes as the sets, or more.
        synthetic: the images, with the classes they were made for.
        reference: real images with as many of each class, which the judge did not learn from.
        batch_size: images at once.

    Returns:
        "overall" and "classes": figures "agreement_<view>", with 95 % intervals over the images; "confusion":
        {view: {"synthetic", "reference": counts [K, L], a row an asked class, a column a seen one}}; "asked" (K names),
        "seen" (L names); "judge": its weights and its own figures; "notes"; "metrics".

    Raises:
        ValueError: the judge's opinion of an image is not finite.
    """
    sets = {"synthetic": synthetic, "reference": reference}
    seen = {name: _predictions(judge, images, batch_size) for name, images in sets.items()}
    # The judge's places of the classes that are compared, which may be fewer than it knows.
    rows = [judge.classes.index(name) for name in synthetic.classes]
    overall, classes, confusion = {}, {name: {} for name in synthetic.classes}, {}
    for view in VIEWS:
        counts = {}
        for name, images in sets.items():
            asked = np.array([judge.classes.index(images.classes[label]) for label in images.labels])
            counts[name] = confusion_matrix(asked, seen[name][view], labels=range(len(judge.classes)))
        confusion[view] = {name: of[rows].tolist() for name, of in counts.items()}
        overall[f"agreement_{view}"] = _figure(counts["synthetic"], counts["reference"])
        for place, name in zip(rows, synthetic.classes):
            only = np.zeros((len(judge.classes), 1), np.int64)
            only[place] = 1
            classes[name][f"agreement_{view}"] = _figure(counts["synthetic"] * only, counts["reference"] * only)
    return {
        "overall": overall,
        "classes": classes,
        "confusion": confusion,
        "asked": synthetic.classes,
        "seen": judge.classes,
        "judge": {"weights": judge.fingerprints, "measured": judge.measured},
        "notes": [
            "Guidance can win the judge in colour by stain alone: read its opinion in grey and of normalised stain."
        ],
        "metrics": {
            f"agreement_{view}": {
                "title": f"The judge agrees, {SEEN_AS[view]}",
                "explanation": (
                    "Share of the images in which a classifier that learned from real images alone, "
                    f"{SEEN_AS[view]}, sees the class they were made for. The floor is its accuracy on real images."
                ),
            }
            for view in VIEWS
        },
    }


def _predictions(judge: Judge, images: ImageSet, batch_size: int) -> dict[str, np.ndarray]:
    """{view: int [N], the class the judge sees}."""
    batches = [judge.logits(scale_patch(batch)) for batch in images.batches(batch_size)]
    found = {}
    for view in VIEWS:
        logits = torch.cat([of[view] for of in batches])
        broken = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"judge_{view}.pt gives numbers that are not finite for {images.files[broken[0]]} of the {images.name} "
                f"and for {len(broken) - 1} more images: its weights are broken. Name another --adapted_dir, or leave "
                "agreement out of --sections"
            )
        found[view] = logits.argmax(1).numpy()
    return found


def _figure(synthetic: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Agreement from counts [K, K], a row an asked class."""
    return figure(
        synthetic.trace() / synthetic.sum(),
        reference.trace() / reference.sum(),
        *(share_interval(counts.trace(), counts.sum()) for counts in (synthetic, reference)),
        better="floor",
    )
