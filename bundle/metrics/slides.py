"""Figures whose unit is the slide: accuracies, differences and their intervals, and a sign test.

Tiles of a slide resemble each other, so an interval over tiles says nothing of other slides. Here labels are drawn
again, then slides, then tiles within each, as in a bootstrap of nested data (Davison & Hinkley, Bootstrap Methods and
their Application, 1997, 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval; None where one slide alone, and so no interval, was there."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")

    def points(self) -> str:
        """In percentage points, with the sign."""
        bounds = "" if self.low is None else f" ({100 * self.low:+.1f} to {100 * self.high:+.1f})"
        return f"{100 * self.value:+.1f}{bounds}"

    @property
    def above_zero(self) -> bool:
        return self.low is not None and self.low > 0


class NestedBootstrap:
    """Draws runs, then slides, then tiles within each, once for all figures of the same tiles.

    Args:
        slides: name of each tile's slide, [tiles].
        runs: number of runs, each a draw of labels or a seed.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(self, slides: np.ndarray, runs: int, draws: int = DRAWS, seed: int = 0) -> None:
        names, of = np.unique(slides, return_inverse=True)
        random = np.random.default_rng(seed)
        self.slides = slides
        self.several = len(names) > 1
        self.runs = random.multinomial(runs, np.full(runs, 1 / runs), size=draws).astype(np.float32)
        chosen = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self.tiles = np.zeros((draws, len(of)), np.float32)  # how often each tile is drawn
        for number in range(len(names)):
            own = np.flatnonzero(of == number)
            # As many tiles of a slide as it has, as often as the slide was drawn.
            self.tiles[:, own] = random.multinomial(chosen[:, number] * len(own), np.full(len(own), 1 / len(own)))

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over tiles of the mean over runs, with its percentile interval.

        Args:
            values: [runs, tiles], such as 1 where a tile is right, or the difference of two rows; not a number where a
                run did not test a tile.

        Raises:
            ValueError: a tile without a run, or no tile.
        """
        values = np.asarray(values, np.float32)
        measured = np.isfinite(values)
        if not values.size or not measured.any(axis=0).all():
            raise ValueError("every tile needs a run that tested it")
        filled = np.where(measured, values, 0)
        average = filled.sum(axis=0) / measured.sum(axis=0)
        if not self.several:
            return Interval(float(average.mean()), None, None)
        weights = self.runs @ measured.astype(np.float32)
        # A tile that none of the runs drawn tested keeps its mean.
        means = np.where(weights > 0, (self.runs @ filled) / np.maximum(weights, 1), average)
        found = (self.tiles * means).sum(axis=1) / self.tiles.sum(axis=1)
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(average.mean()), float(low), float(high))


def by_slide(values: np.ndarray, slides: np.ndarray) -> dict[str, float]:
    """Mean over the runs and tiles of each slide, of values as for :meth:`NestedBootstrap.mean`."""
    at_tile = np.nanmean(np.atleast_2d(np.asarray(values, float)), axis=0)
    return {str(name): float(at_tile[slides == name].mean()) for name in np.unique(slides)}


def sign_test(differences: dict[str, float]) -> tuple[int, int, float]:
    """Whether one row is better than another on more slides than chance would have it, two-sided.

    Args:
        differences: by slide; slides without a difference don't count.

    Returns:
        slides on which it is better, slides on which it is worse, and the probability of as lopsided a count under the
        hypothesis that both are as likely; 1 where no slide differs.
    """
    better = sum(value > 0 for value in differences.values())
    worse = sum(value < 0 for value in differences.values())
    return better, worse, float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
