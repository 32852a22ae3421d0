"""From predictions to figures: means over seeds, gains paired by seed and tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bundle.runs.tables import read_csv


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


def accuracy(correct: np.ndarray) -> float:
    """Mean accuracy over runs and tiles.

    It has no interval: tiles of a slide resemble each other, so one over tiles says nothing of other slides. Slides are
    the unit of `bundle.downstream.proof`.

    Args:
        correct: [runs, tiles], 1 where right; not a number where a run didn't measure a tile.
    """
    return float(np.nansum(correct) / np.isfinite(correct).sum())


def gain(correct: np.ndarray, baseline: np.ndarray) -> float:
    """Mean difference in accuracy to a baseline, run by run with the same seeds, on the same tiles.

    Args:
        correct, baseline: [runs, tiles] each, as of :func:`accuracy`.
    """
    if correct.shape != baseline.shape:
        raise ValueError(f"runs can't be paired: {correct.shape} and {baseline.shape} of (runs, tiles)")
    return accuracy(correct - baseline)
