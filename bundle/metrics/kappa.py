"""Agreement between more than two readers."""

from __future__ import annotations

import numpy as np


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Fleiss' kappa, Eq. 7 of "Measuring nominal scale agreement among many raters" (Psychol Bull 76:378, 1971).

    Args:
        counts: [N, K], how many readers put each of N subjects into each of K categories; two or more readers, and as
            many for each subject.

    Returns:
        at most 1, 0 as by chance; None where all readers put all subjects into one category, as chance does then too.

    Raises:
        ValueError: no subject, fewer than two readers, or not as many for each subject.
    """
    counts = np.asarray(counts, np.float64)
    if not len(counts) or len(set(counts.sum(1))) != 1 or counts[0].sum() < 2:
        raise ValueError(f"counts of shape {list(counts.shape)}: each subject needs as many readers, two or more")
    readers = counts[0].sum()
    observed = ((np.square(counts).sum(1) - readers) / (readers * (readers - 1))).mean()
    chance = np.square(counts.sum(0) / counts.sum()).sum()
    return None if chance == 1 else float((observed - chance) / (1 - chance))
