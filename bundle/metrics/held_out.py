"""What a classifier is worth on images that it never saw: the figures of a whole part of the data at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CalibrationErrorMetric
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

CALIBRATION_BINS = 15
DRAWS = 10_000
INTERVAL_OF = "95 % percentile bootstrap over these tiles: it covers other tiles of these slides, not new slides"


def held_out_report(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """All figures of a classifier over one part of the data.

    Means over classes are over those that occur among the labels; the others are named in "absent_classes". Then the
    macro sensitivity is the balanced accuracy, and the weighted sensitivity the accuracy (HistoDiffusion's Table 1
    gives that one as its sensitivity).

    Args:
        probabilities: [N, K], each row summing to 1.
        labels: int [N], places in `classes`.
        classes: K names.

    Returns:
        plain data: "images"; "accuracy", "balanced_accuracy", "macro_f1", "macro_sensitivity", "macro_specificity" (one
        class against the rest; None where one class alone occurs), "weighted_f1", "weighted_sensitivity",
        "weighted_specificity" (likewise); "auroc", the macro mean of one class against the rest, None with
        "auroc_missing" where a class does not occur; "ece", see :func:`calibration_error`; "cross_entropy" in nats;
        "intervals", see :func:`bootstrap_intervals`, and what they cover; "classes": {name: "precision" (None where it
        is never predicted), "sensitivity", "specificity", "f1", "support"}; "confusion": counts, a row a true class.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    predicted = probabilities.argmax(axis=1)
    numbers = list(range(len(classes)))
    confusion = confusion_matrix(labels, predicted, labels=numbers)
    support = confusion.sum(axis=1)
    occurs = support > 0
    precision, sensitivity, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=numbers, average=None, zero_division=np.nan
    )
    negatives = multilabel_confusion_matrix(labels, predicted, labels=numbers)[:, 0]
    with np.errstate(invalid="ignore"):
        specificity = negatives[:, 0] / negatives.sum(axis=1)
    absent = [name for name, there in zip(classes, occurs) if not there]
    auroc = None if absent else float(roc_auc_score(np.eye(len(classes))[labels], probabilities, average="macro"))
    figures = {
        "accuracy": confusion.trace() / len(labels),
        "balanced_accuracy": sensitivity[occurs].mean(),
        "macro_f1": f1[occurs].mean(),
        "macro_sensitivity": sensitivity[occurs].mean(),
        "macro_specificity": specificity[occurs].mean(),
        "weighted_f1": np.average(f1[occurs], weights=support[occurs]),
        "weighted_sensitivity": np.average(sensitivity[occurs], weights=support[occurs]),
        "weighted_specificity": np.average(specificity[occurs], weights=support[occurs]),
        "auroc": auroc,
        "ece": calibration_error(probabilities, labels),
        # Divided by their sums, which in single precision miss 1 by a little.
        "cross_entropy": log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=numbers),
    }
    by_class = {"precision": precision, "sensitivity": sensitivity, "specificity": specificity, "f1": f1}
    missing = {"auroc_missing": f"no image of {', '.join(absent)}"} if absent else {}
    return {
        "images": len(labels),
        **{name: _rounded(value) for name, value in figures.items()},
        **missing,
        "absent_classes": absent,
        "intervals": {**bootstrap_intervals(confusion), "of": INTERVAL_OF},
        "classes": {
            name: {**{figure: _rounded(of[place]) for figure, of in by_class.items()}, "support": int(support[place])}
            for place, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error in [0, 1] of the predicted class, 15 bins (Guo et al., ICML 2017, Eq. 3).

    MONAI's metric takes each channel for a yes-or-no question; here the only one is whether the prediction is right.

    Args:
        probabilities: [N, K].
        labels: int [N].
    """
    confidence = torch.as_tensor(probabilities.max(axis=1))
    right = torch.as_tensor(probabilities.argmax(axis=1) == labels)
    metric = CalibrationErrorMetric(num_bins=CALIBRATION_BINS)
    metric(y_pred=confidence[None, None], y=right[None, None])
    return metric.aggregate().item()


def bootstrap_intervals(confusion: np.ndarray, draws: int = DRAWS, seed: int = 0) -> dict[str, list[float]]:
    """95 % percentile intervals when the images are drawn again with replacement.

    To draw N images again is to draw the counts of the confusion matrix from the multinomial distribution with its
    shares, so no image is touched. A class that a draw leaves out does not count in that draw.

    Args:
        confusion: counts [K, K], a row a true class.
        draws: how often the images are drawn again.
        seed: of the draws.

    Returns:
        {"accuracy", "balanced_accuracy", "macro_f1": [low, high]}.
    """
    total, size = confusion.sum(), len(confusion)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(total, confusion.ravel() / total, size=draws).reshape(draws, size, size)
    hits = np.einsum("dkk->dk", drawn)
    true, predicted = drawn.sum(axis=2), drawn.sum(axis=1)
    with np.errstate(invalid="ignore"):
        sensitivity = hits / true  # not a number where a draw left the class out
        f1 = np.where(true > 0, 2 * hits / (true + predicted), np.nan)
    found = {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": np.nanmean(sensitivity, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    return {name: [_rounded(value) for value in np.percentile(of, (2.5, 97.5))] for name, of in found.items()}


def _rounded(value: float | None) -> float | None:
    """To four places; None where there is no such figure."""
    return None if value is None or np.isnan(value) else round(float(value), 4)
