"""Which images of a pool a row learns from, chosen by features of the backbone itself."""

from __future__ import annotations

import zlib

import numpy as np

from bundle.downstream.proof.frozen import fit_head


def quota(labels: np.ndarray, classes: int, ratio: int) -> np.ndarray:
    """Synthetic images of each class, int [classes]: `ratio` percent of the labelled tiles that train, rounded up."""
    return -(-np.bincount(labels, minlength=classes) * ratio // 100)


def choose(
    selection: str,
    candidates: np.ndarray,
    asked: np.ndarray,
    real: np.ndarray,
    labels: np.ndarray,
    wanted: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Places of the images chosen; fewer than wanted of a class where it has, or keeps, fewer.

    Args:
        selection: see :class:`bundle.downstream.proof.rows.Row`.
        candidates: features of a pool's images, [N, D].
        asked: the class that each was made for, int [N].
        real: features of the labelled tiles that train, [M, D].
        labels: their classes, int [M].
        wanted: number of each class, int [classes].
        seed: of what is drawn.

    Returns:
        int [K], by class.
    """
    # All at one scale, as the head sees them.
    mean, spread = real.mean(axis=0), real.std(axis=0) + 1e-6
    candidates, real = (candidates - mean) / spread, (real - mean) / spread
    sure = None
    if selection in ("confident", "agreeing"):
        head = fit_head(real, labels, None)
        column = {label: place for place, label in enumerate(head.classes_)}
        sure = head.predict_proba(candidates)
        agrees = head.predict(candidates) == asked
        sure = sure[np.arange(len(asked)), [column[label] for label in asked]]
    chosen = []
    for number, count in enumerate(wanted):
        own = np.flatnonzero(asked == number)
        random = np.random.default_rng([seed, number, zlib.crc32(selection.encode())])
        same = real[labels == number]
        if selection == "diverse":
            order = own[k_centre(candidates[own], same, min(count, len(own)))] if len(own) else own
        elif selection == "nearest":
            order = own[np.argsort(((candidates[own] - same.mean(axis=0)) ** 2).sum(axis=1), kind="stable")]
        elif selection == "confident":
            order = own[np.argsort(-sure[own], kind="stable")]
        else:
            order = random.permutation(own[agrees[own]] if selection == "agreeing" else own)
        chosen.append(order[:count])
    return np.concatenate(chosen).astype(int)


def k_centre(candidates: np.ndarray, covered: np.ndarray, count: int) -> np.ndarray:
    """Greedily the candidate that is farthest from all that is covered already (Gonzalez 1985; Sener & Savarese,
    arXiv 1708.00489); int [count].

    Args:
        candidates: [N, D].
        covered: [M, D], what is there before the first is chosen; at least one.
        count: at most N.
    """
    nearest = np.full(len(candidates), np.inf)
    for point in covered:
        nearest = np.minimum(nearest, ((candidates - point) ** 2).sum(axis=1))
    chosen = []
    for _ in range(count):
        place = int(nearest.argmax())
        chosen.append(place)
        nearest = np.minimum(nearest, ((candidates - candidates[place]) ** 2).sum(axis=1))
        nearest[place] = -1
    return np.array(chosen, int)
