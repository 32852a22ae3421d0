"""Draws of labels and folds of slides."""

import numpy as np
import pytest
from studied import tiles_of

from bundle.downstream.proof.splits import Splits, single_slides
from bundle.downstream.proof.tiles import LABELLED

FOUR = [(LABELLED, label, slide, 3) for label in ("A", "B") for slide in ("s1", "s2", "s3", "s4")]
LONE = [*FOUR, (LABELLED, "C", "s1", 4)]  # C is on one slide


def test_each_slide_is_tested_once_and_on_one_side():
    tiles = tiles_of(*FOUR)
    splits = Splits([2], draws=2, folds=2).plan(tiles)
    assert len(splits) == 4
    for draw in range(2):
        own = [split for split in splits if split.draw == draw]
        assert sorted(np.concatenate([split.test for split in own])) == list(range(len(tiles.tiles)))
        for split in own:
            assert not set(tiles.slides[split.train]) & set(tiles.slides[split.test])
            assert np.bincount(tiles.labels[split.train]).tolist() == [2, 2]


def test_a_slide_that_a_class_has_alone_is_never_tested():
    tiles = tiles_of(*LONE)
    assert single_slides(tiles) == {"s1": ["C"]} and Splits([2]).notes(tiles) == []
    assert "slide s1 holds the only labelled tiles of C" in Splits([2], folds=3).notes(tiles)[0]
    splits = Splits([2], draws=1, folds=3).plan(tiles)
    assert not any("s1" in tiles.slides[split.test] for split in splits)
    assert all(np.bincount(tiles.labels[split.train]).tolist() == [2, 2, 2] for split in splits)


def test_fewer_labels_are_part_of_more_and_draws_differ():
    tiles = tiles_of(*FOUR, ("other", "A", "t", 2))
    splits = {(split.amount, split.draw): split for split in Splits([2, 5], draws=2).plan(tiles)}
    for draw in range(2):
        assert set(splits["2", draw].train) < set(splits["5", draw].train)
        assert tiles.slides[splits["2", draw].test].tolist() == ["t", "t"]
    assert set(splits["5", 0].train) != set(splits["5", 1].train)


def test_a_rare_class_has_few_labels_where_the_others_have_most():
    tiles = tiles_of(*FOUR, ("other", "A", "t", 2))
    found = Splits([2, 5], draws=1, rare_class="B", rare_labels=1).plan(tiles)[-1]
    assert found.folder == "B_1_others_5" and np.bincount(tiles.labels[found.train]).tolist() == [5, 1]


def test_labels_are_of_tiles_that_are_offered():
    tiles = tiles_of(*FOUR, ("other", "A", "t", 2))
    tiles.offered = tiles.offered & (tiles.slides == "s2")
    found = Splits([3], draws=1).plan(tiles)[0]
    assert set(tiles.slides[found.train]) == {"s2"}


def test_labels_are_written_for_an_adaptation():
    tiles = tiles_of(*FOUR, ("other", "A", "t", 2))
    two, one = (Splits([number], draws=1).plan(tiles)[0] for number in (2, 1))
    assert sorted((row.label, row.part) for row in two.rows(tiles)) == [
        (label, part) for label in "AB" for part in ("train", "validation")
    ]
    with pytest.raises(ValueError, match="has 1 label at 1, and an adaptation needs two"):
        one.rows(tiles)


@pytest.mark.parametrize(
    "given, groups, message",
    [
        (
            {"labels_per_class": [13], "folds": 1},
            [*FOUR, ("x", "A", "t", 1)],
            "asks for 13 of class 'A', and there are 12",
        ),
        ({"labels_per_class": [2], "folds": 4}, LONE, "--folds is 4, and 3 slides can be tested"),
        ({"labels_per_class": [2]}, FOUR, "there is nothing to test on"),
        ({"labels_per_class": [0]}, FOUR, "--labels_per_class is 0"),
        ({"labels_per_class": []}, FOUR, "--labels_per_class is empty"),
        ({"labels_per_class": [2], "draws": 0}, FOUR, "--draws is 0"),
        ({"labels_per_class": [2], "folds": 2, "rare_class": "X"}, FOUR, "--rare_class is 'X'; the classes are A, B"),
    ],
)
def test_what_can_not_be_split_is_refused(given, groups, message):
    with pytest.raises(ValueError, match=message):
        Splits(**given).plan(tiles_of(*groups))


def test_folds_that_leave_a_class_without_labels_are_refused():
    """B is on two slides, and only one of them gives labels."""
    tiles = tiles_of(
        (LABELLED, "A", "s1", 3), (LABELLED, "A", "s2", 3), (LABELLED, "B", "s1", 3), (LABELLED, "B", "s2", 3)
    )
    tiles.offered = tiles.offered & ~((tiles.slides == "s2") & (tiles.labels == 1))
    with pytest.raises(ValueError, match="leaves no tile of class 'B' to train on"):
        Splits([2], folds=2).plan(tiles)
