"""Which tiles give labels and which are tested: draws of labels, and folds in which no slide is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from bundle.data.split import SplitRow
from bundle.downstream.proof.tiles import LABELLED, StudyTiles

TRIES = 200


@dataclass(frozen=True, eq=False)
class Split:
    """One draw of labels in one fold.

    Attributes:
        amount: how many labels a class has, see :meth:`Splits.amounts`.
        fold, draw: numbers from 0.
        train: places of the tiles that give labels, int [N].
        test: places of those that are tested, int [M].
    """

    amount: str
    fold: int
    draw: int
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)

    @property
    def name(self) -> str:
        return f"fold_{self.fold}_draw_{self.draw}"

    @property
    def folder(self) -> str:
        """The amount as a folder's name."""
        return self.amount.replace(",", "").replace(" ", "_")

    def rows(self, tiles: StudyTiles, validation_share: float = 0.2) -> list[SplitRow]:
        """Its labels as a split that configs/adapt.json takes: one of each class or more validates.

        Raises:
            ValueError: a class has one label, and an adaptation needs two.
        """
        found = []
        for number, name in enumerate(tiles.classes):
            own = self.train[tiles.labels[self.train] == number]
            if len(own) < 2:
                raise ValueError(
                    f"class {name!r} has {len(own)} label at {self.amount}, and an adaptation needs two, one to "
                    "validate with: raise --labels_per_class or --rare_labels"
                )
            held = max(1, round(validation_share * len(own)))
            for place, at in enumerate(own):
                part = "validation" if place < held else "train"
                found.append(SplitRow(tiles.tiles[at].file, tiles.tiles[at].sha256, name, part))
        return found


class Splits:
    """Plans the splits of a study.

    Args:
        labels_per_class: numbers of labels of each class, each a point of the label curve.
        draws: how often labels are drawn. Draws of one number are part of the same draw of a larger one.
        folds: of slides of the labelled set, each slide tested once; 1 tests the other sets alone.
        rare_class: a class that has few labels in a setting more; None for none.
        rare_labels: how many it then has, the others having the largest number of `labels_per_class`.
        seed: of draws and folds.

    Raises:
        ValueError: a number below its least.
    """

    def __init__(
        self,
        labels_per_class: int | Sequence[int],
        draws: int = 5,
        folds: int = 1,
        rare_class: str | None = None,
        rare_labels: int = 5,
        seed: int = 0,
    ) -> None:
        numbers = [labels_per_class] if isinstance(labels_per_class, int) else list(labels_per_class)
        given = [("labels_per_class", number) for number in numbers]
        for name, number in [*given, ("draws", draws), ("folds", folds), ("rare_labels", rare_labels)]:
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"--{name} is {number!r}; it must be an integer of at least 1")
        if not numbers:
            raise ValueError("--labels_per_class is empty: give one number or more, such as [5, 10, 20, 40]")
        self.numbers = sorted(set(numbers))
        self.draws = draws
        self.folds = folds
        self.rare_class = rare_class
        self.rare_labels = rare_labels
        self.seed = seed

    def amounts(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        """Name -> labels of each class, of every point of the curve and of the imbalanced setting.

        Raises:
            ValueError: the rare class is none of these.
        """
        found = {str(number): dict.fromkeys(classes, number) for number in self.numbers}
        if self.rare_class is not None:
            if self.rare_class not in classes:
                raise ValueError(f"--rare_class is {self.rare_class!r}; the classes are {', '.join(classes)}")
            most = self.numbers[-1]
            name = f"{self.rare_class} {self.rare_labels}, others {most}"
            found[name] = dict.fromkeys(classes, most) | {self.rare_class: self.rare_labels}
        return found

    def plan(self, tiles: StudyTiles) -> list[Split]:
        """All splits, the fewest labels first.

        Raises:
            ValueError: too few labels, nothing to test on, or folds that can't be made; says what to do.
        """
        tested_in = self.fold_of(tiles)
        others = np.flatnonzero(tiles.parts != LABELLED)
        if not len(others) and self.folds == 1:
            raise ValueError("there is nothing to test on: give --test_dir NAME=PATH, or --folds of at least 2")
        splits = []
        for amount, wanted in self.amounts(tiles.classes).items():
            for draw in range(self.draws):
                for fold in range(self.folds):
                    train = self._draw(tiles, wanted, draw, (tested_in != fold) | (self.folds == 1), fold)
                    own = np.flatnonzero((tested_in == fold) & (self.folds > 1))
                    splits.append(Split(amount, fold, draw, train, np.concatenate([own, others])))
        return splits

    def notes(self, tiles: StudyTiles) -> list[str]:
        """What folds leave untested."""
        lone = single_slides(tiles).items() if self.folds > 1 else ()
        return [
            f"slide {slide} holds the only labelled tiles of {', '.join(names)}, so it always trains and no "
            "fold tests it: label these classes on another slide"
            for slide, names in lone
        ]

    def fold_of(self, tiles: StudyTiles) -> np.ndarray:
        """The fold that tests each tile of the labelled set, int [N]; -1 for other sets, and for slides that always
        train because a class has no other.

        Raises:
            ValueError: no folds in which each class is left to train on.
        """
        found = np.full(len(tiles.tiles), -1)
        if self.folds == 1:
            return found
        own = np.flatnonzero(tiles.parts == LABELLED)
        kept = single_slides(tiles)
        free = own[~np.isin(tiles.slides[own], list(kept))]
        slides = sorted(set(tiles.slides[free]))
        if len(slides) < self.folds:
            raise ValueError(
                f"--folds is {self.folds}, and {len(slides)} slides can be tested (a class with one slide needs it to "
                f"train on): lower --folds to at most {max(len(slides), 1)}, or add slides"
            )
        for seed in range(self.seed, self.seed + TRIES):
            folder = StratifiedGroupKFold(self.folds, shuffle=True, random_state=seed)
            found[free] = -1
            for fold, (_, test) in enumerate(folder.split(free, tiles.labels[free], tiles.slides[free])):
                found[free[test]] = fold
            lacking = self._lacking(tiles, found, own)
            if lacking is None:
                return found
        raise ValueError(
            f"--folds {self.folds}: in every division tried, a fold leaves no tile of class {lacking!r} to train on, "
            "or tests no slide: lower --folds, or add slides of that class"
        )

    def _lacking(self, tiles: StudyTiles, tested_in: np.ndarray, own: np.ndarray) -> str | None:
        """A class without a tile that may give a label in one of the folds; None where all have some."""
        for fold in range(self.folds):
            left = own[(tested_in[own] != fold) & tiles.offered[own]]
            missing = set(range(len(tiles.classes))) - set(tiles.labels[left])
            if missing or not (tested_in == fold).any():
                return tiles.classes[min(missing, default=0)]
        return None

    def _draw(
        self, tiles: StudyTiles, wanted: Mapping[str, int], draw: int, usable: np.ndarray, fold: int
    ) -> np.ndarray:
        chosen: list[Any] = []
        for number, name in enumerate(tiles.classes):
            at = np.flatnonzero(tiles.offered & usable & (tiles.labels == number))
            if len(at) < wanted[name]:
                where = f" in fold {fold}" if self.folds > 1 else ""
                raise ValueError(
                    f"--labels_per_class asks for {wanted[name]} of class {name!r}, and there are {len(at)}{where}: "
                    "lower it, or add tiles"
                )
            # By class and draw alone, so that fewer labels are part of more.
            order = np.random.default_rng([self.seed, draw, number]).permutation(len(at))
            chosen += at[order[: wanted[name]]].tolist()
        return np.array(sorted(chosen))


def single_slides(tiles: StudyTiles) -> dict[str, list[str]]:
    """Slides of the labelled set that hold the only tiles of a class, with these classes."""
    own = tiles.parts == LABELLED
    found: dict[str, list[str]] = {}
    for number, name in enumerate(tiles.classes):
        slides = set(tiles.slides[own & (tiles.labels == number)])
        if len(slides) == 1:
            found.setdefault(slides.pop(), []).append(name)
    return found
