"""What is right where, the best control, and what is left out of the headline."""

import numpy as np
import pytest
from studied import tiles_of

from bundle.downstream.proof.rows import Row
from bundle.downstream.proof.scoring import Measured, Scores, gather
from bundle.downstream.proof.splits import Splits
from bundle.downstream.proof.tiles import LABELLED

TILES = tiles_of(
    (LABELLED, "A", "s1", 3),
    (LABELLED, "B", "s2", 3),
    ("more", "A", "s1", 2),
    ("more", "A", "t1", 2),
    ("more", "B", "t2", 4),
)
SPLITS = Splits([2], draws=2).plan(TILES)
TESTED = SPLITS[0].test


def measured(row, *predicted):
    """Predictions of each draw, for the tested tiles: two of s1, two of t1, four of t2."""
    right = gather(TILES, SPLITS, {split.name: np.array(own) for split, own in zip(SPLITS, predicted)}, 2)
    return Measured(row, right, 0.0, 2, 2)


REAL = measured(Row("real", "real"), [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0])
WORSE = measured(Row("stain", "stain"), [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0])
POOL = measured(Row("mine", "mine", "synthetic", pool="mine"), [1, 1, 0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0])
SCORES = Scores(TILES, SPLITS, {"real": REAL, "stain": WORSE, "mine": POOL})


def test_tiles_of_slides_that_gave_labels_are_in_no_headline():
    assert TILES.slides[SCORES.new].tolist() == ["t1"] * 2 + ["t2"] * 4
    assert SCORES.excluded() == {"more": ["A"]}
    # Of six tiles right: 3 of the first draw, 4 of the second; with s1's, always right, 5 and 6 of eight.
    assert SCORES.accuracy("real").value == pytest.approx(3.5 / 6)
    assert SCORES.value("real", SCORES.tested) == pytest.approx(5.5 / 8)


def test_a_gain_is_over_the_best_control_and_signs_are_of_slides():
    assert SCORES.best() == "real" and SCORES.best(["synthetic"]) == "mine"
    assert SCORES.gain("mine", "real").value == pytest.approx((5.5 - 3.5) / 6 + 0, abs=1e-6)
    assert SCORES.signs("mine", "real") == (2, 0, 0.5)
    assert SCORES.signs("stain", "real")[:2] == (0, 2)


def test_each_slide_and_each_class_may_count_the_same():
    assert SCORES.slide_mean("real") == pytest.approx((0.75 + 0.5) / 2) == SCORES.balanced("real")
    assert SCORES.recall("mine", "A").value == 1 and SCORES.recall("mine", "A").low is None
    lines = SCORES.by_slide(["real", "mine"])
    assert [(line["slide"], line["tiles"], line["slide gave labels"], line["real"]) for line in lines] == [
        ("s1", 2, "yes", 1.0),
        ("t1", 2, "", 0.75),
        ("t2", 4, "", 0.5),
    ]


def test_a_tile_that_every_fold_tests_counts_by_the_share_of_folds():
    tiles = tiles_of(*[(LABELLED, label, slide, 1) for label in "AB" for slide in ("s1", "s2")], ("x", "A", "t", 1))
    splits = Splits([1], draws=1, folds=2).plan(tiles)
    predicted = {split.name: np.zeros(len(split.test), int) for split in splits}
    predicted[splits[0].name][-1] = 1
    assert gather(tiles, splits, predicted, 1)[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.5]
