"""From predictions to figures: means over seeds, intervals over tiles, gains paired by seed and tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.runs.tables import read_csv

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def points(self) -> str:
        """In percentage points, with the sign."""
        return f"{100 * self.value:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def read_correct(path: str | Path) -> dict[str, dict[str, bool]]:
    """Part -> file -> whether it was classified right, of a `predictions.csv`."""
    found: dict[str, dict[str, bool]] = {}
    for row in read_csv(path):
        found.setdefault(row["part"], {})[row["file"]] = row["class"] == row["predicted"]
    return found


def stack(runs: Sequence[Mapping[str, bool]], same: bool = True) -> np.ndarray:
    """float [runs, tiles], 1 where right, with the tiles in a fixed order.

    Args:
        runs: file -> whether it was classified right.
        same: whether all runs must have measured the same tiles; otherwise those that one lacks are not a number.

    Raises:
        ValueError: runs measured on different tiles.
    """
    if same and any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError("runs of one study were measured on different tiles: the test set has changed since")
    files = sorted(set().union(*runs))
    return np.array([[run.get(file, np.nan) for file in files] for run in runs], float)


def accuracy(correct: np.ndarray, seed: int = 0) -> Interval:
    """Mean accuracy over runs and tiles, with a percentile bootstrap interval over tiles.

    The interval says how far the figure would move with other tiles of the same slides. It doesn't know of other
    slides, whose variation is larger, nor of other seeds; tiles of one slide resemble each other, so it is too narrow.

    Args:
        correct: [runs, tiles], 1 where right; not a number where a run didn't measure a tile.
    """
    return _bootstrap(correct, seed)


def gain(correct: np.ndarray, baseline: np.ndarray, seed: int = 0) -> Interval:
    """Mean difference in accuracy to a baseline, run by run with the same seeds, on the same tiles.

    Args:
        correct, baseline: [runs, tiles] each, as of :func:`accuracy`.
    """
    if correct.shape != baseline.shape:
        raise ValueError(f"runs can't be paired: {correct.shape} and {baseline.shape} of (runs, tiles)")
    return _bootstrap(correct - baseline, seed)


def _bootstrap(values: np.ndarray, seed: int) -> Interval:
    """Of the mean of [runs, tiles], when the tiles are drawn again with replacement, each with all its runs."""
    totals = np.stack([np.nansum(values, axis=0), np.isfinite(values).sum(axis=0)])
    # Tiles of the same total are interchangeable: how often each kind is drawn is all that matters.
    kinds, tiles = np.unique(totals, axis=1, return_counts=True)
    counts = np.random.default_rng(seed).multinomial(tiles.sum(), tiles / tiles.sum(), size=DRAWS)
    sums, numbers = kinds @ counts.T
    low, high = np.quantile(sums / numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(totals[0].sum() / totals[1].sum()), float(low), float(high))
