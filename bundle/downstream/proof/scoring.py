"""From predictions to figures: what is right where, the best control, and what a row gains over it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bundle.downstream.proof.rows import CONTROLS, Row
from bundle.downstream.proof.splits import Split
from bundle.downstream.proof.tiles import StudyTiles
from bundle.metrics.slides import Interval, NestedBootstrap, by_slide, sign_test

ALL = "all"


@dataclass(frozen=True, eq=False)
class Measured:
    """One row of one backbone at one amount of labels.

    Attributes:
        right: float [draws, tiles], the share of folds in which a tile was classified right; not a number where none
            tested it.
        synthetic: mean number of synthetic images.
        runs: how many were made; planned: how many there will be.
        helped: labels that the generator of its pool saw and its controls did not, the most of any split; None where
            it isn't said which it saw.
    """

    row: Row
    right: np.ndarray = field(repr=False)
    synthetic: float
    runs: int
    planned: int
    helped: int | None = 0


class Scores:
    """Figures of the rows of one backbone at one amount of labels.

    Args:
        tiles: of the study.
        splits: of this amount.
        measured: by name of the row, those that have all their runs.
    """

    def __init__(self, tiles: StudyTiles, splits: Sequence[Split], measured: Mapping[str, Measured]) -> None:
        self.tiles = tiles
        self.measured = dict(measured)
        tested = np.zeros(len(tiles.tiles), bool)
        known = np.zeros(len(tiles.tiles), bool)  # of a slide that gave labels in the same split
        for split in splits:
            tested[split.test] = True
            known[split.test] |= np.isin(tiles.slides[split.test], np.unique(tiles.slides[split.train]))
        self.tested = np.flatnonzero(tested)
        self.new = np.flatnonzero(tested & ~known)
        self.draws = 1 + max(split.draw for split in splits)

    def places(self, part: str = ALL) -> np.ndarray:
        """Tested tiles of new slides, of one set or all."""
        return self.new if part == ALL else self.new[self.tiles.parts[self.new] == part]

    def excluded(self) -> dict[str, list[str]]:
        """Classes of each set that lost tiles because the slide gave labels, as far as there are any."""
        lost = np.setdiff1d(self.tested, self.new)
        found: dict[str, list[str]] = {}
        for part in dict.fromkeys(self.tiles.parts[lost]):
            own = self.tiles.labels[lost[self.tiles.parts[lost] == part]]
            found[part] = [self.tiles.classes[number] for number in np.unique(own)]
        return found

    @functools.lru_cache
    def bootstrap(self, part: str) -> NestedBootstrap:
        return NestedBootstrap(self.tiles.slides[self.places(part)], self.draws)

    def accuracy(self, name: str, part: str = ALL) -> Interval | None:
        """Share of tiles of new slides that are right; None where there are none."""
        places = self.places(part)
        return self.bootstrap(part).mean(self.measured[name].right[:, places]) if len(places) else None

    def value(self, name: str, places: np.ndarray) -> float | None:
        """Share of these tiles that are right, without an interval."""
        return float(np.nanmean(self.measured[name].right[:, places])) if len(places) else None

    def slide_mean(self, name: str) -> float:
        """Mean over slides, each of which counts the same."""
        found = by_slide(self.measured[name].right[:, self.new], self.tiles.slides[self.new])
        return float(np.mean(list(found.values())))

    def recall(self, name: str, label: str) -> Interval | None:
        """Share of a class's tiles of new slides that are right."""
        places = self.new[self.tiles.labels[self.new] == self.tiles.classes.index(label)]
        if not len(places):
            return None
        return NestedBootstrap(self.tiles.slides[places], self.draws).mean(self.measured[name].right[:, places])

    def balanced(self, name: str) -> float:
        """Mean over classes of the share that is right."""
        of = self.tiles.labels[self.new]
        return float(np.mean([self.value(name, self.new[of == number]) for number in np.unique(of)]))

    def gain(self, name: str, other: str, part: str = ALL) -> Interval | None:
        """Difference in accuracy to another row, on the same tiles and with the same labels."""
        places = self.places(part)
        if not len(places):
            return None
        return self.bootstrap(part).mean((self.measured[name].right - self.measured[other].right)[:, places])

    def signs(self, name: str, other: str) -> tuple[int, int, float]:
        """Of :func:`bundle.metrics.slides.sign_test`, over new slides."""
        difference = (self.measured[name].right - self.measured[other].right)[:, self.new]
        return sign_test(by_slide(difference, self.tiles.slides[self.new]))

    def best(self, kinds: Sequence[str] = CONTROLS) -> str | None:
        """The row of these kinds with the highest accuracy on all tested tiles of new slides; None without any."""
        known = [name for name, found in self.measured.items() if found.row.kind in kinds]
        return max(known, key=lambda name: self.value(name, self.new), default=None) if len(self.new) else None

    def by_slide(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A line a slide and class: its set, number of tiles, and the accuracy of each row."""
        lines = []
        keys = np.array(
            [f"{self.tiles.parts[at]}\0{self.tiles.slides[at]}\0{self.tiles.labels[at]}" for at in self.tested]
        )
        new = np.isin(self.tested, self.new)
        for key in np.unique(keys):
            part, slide, number = key.split("\0")
            own = self.tested[keys == key]
            line = {"set": part, "slide": slide, "class": self.tiles.classes[int(number)], "tiles": len(own)}
            line["slide gave labels"] = "" if new[keys == key].all() else "yes"
            lines.append(line | {name: round(self.value(name, own), 3) for name in names})
        return lines


def gather(tiles: StudyTiles, splits: Sequence[Split], predicted: Mapping[str, np.ndarray], draws: int) -> np.ndarray:
    """float [draws, tiles] of :class:`Measured`, of what each split's tested tiles were predicted to be.

    Args:
        tiles: of the study.
        splits: all of one amount.
        predicted: places in the classes, int [M] by name of the split.
        draws: how often labels are drawn.
    """
    right, times = (np.zeros((draws, len(tiles.tiles))) for _ in range(2))
    for split in splits:
        right[split.draw, split.test] += predicted[split.name] == tiles.labels[split.test]
        times[split.draw, split.test] += 1
    return np.where(times > 0, right / np.maximum(times, 1), np.nan)
