"""From predictions to a table: means over seeds, intervals over tiles, gains paired by seed and tile."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DRAWS = 2000
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


def read_correct(path: str | Path, part: str) -> dict[str, bool]:
    """File -> whether it was classified right, of one part of a `predictions.csv`."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["file"]: row["class"] == row["predicted"] for row in csv.DictReader(file) if row["part"] == part}


def stack(runs: Sequence[dict[str, bool]]) -> np.ndarray:
    """float [runs, tiles] of the tiles in a fixed order.

    Raises:
        ValueError: runs measured on different tiles.
    """
    files = sorted(runs[0])
    for run in runs[1:]:
        if sorted(run) != files:
            raise ValueError("runs of one study were measured on different tiles: the test set has changed since")
    return np.array([[run[file] for file in files] for run in runs], float)


def accuracy(correct: np.ndarray, seed: int = 0) -> Interval:
    """Mean accuracy over runs and tiles, with a percentile bootstrap interval over tiles.

    The interval says how far the figure would move with other tiles of the same slides. It doesn't know of other
    slides, whose variation is larger, nor of other seeds; tiles of one slide resemble each other, so it is too narrow.

    Args:
        correct: [runs, tiles], 1 where right.
    """
    return _bootstrap(correct.mean(0), seed)


def gain(correct: np.ndarray, baseline: np.ndarray, seed: int = 0) -> Interval:
    """Mean difference in accuracy to a baseline, run by run with the same seeds, on the same tiles.

    Args:
        correct, baseline: [runs, tiles] each.
    """
    if correct.shape != baseline.shape:
        raise ValueError(f"runs can't be paired: {correct.shape} and {baseline.shape} of (runs, tiles)")
    return _bootstrap((correct - baseline).mean(0), seed)


def _bootstrap(values: np.ndarray, seed: int) -> Interval:
    random = np.random.default_rng(seed)
    counts = random.multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS)
    means = counts @ values / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))
