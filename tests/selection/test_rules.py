"""Each rule of the selection by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bundle.selection.rules import Candidates, RealImages, Rules, acceptance, decide, quotas, rounded, shortfall
from bundle.selection.scores import Centroids, entropy

CLASSES = ["TUM", "ADI"]
UNIT = 768**0.5  # the distance of two even descriptors whose values differ by 1
# Each class: real images 0 and 3 apart, so that copies are nearer than a third of it, 1.
REAL = RealImages(
    ["r0.png", "r3.png", "r100.png", "r103.png"],
    torch.tensor([0, 0, 1, 1]),
    torch.tensor([0.0, 3.0, 100.0, 103.0])[:, None].expand(-1, 768),
)
LIMITS = torch.tensor([0.5, 0.6])
# class, seed, probability of it, distance to its centroid, distance to the other, value of the descriptor
BY_HAND = [
    (0, 0, 0.95, 0.30, 1.0, 20.0),  # rank 3
    (0, 1, 0.40, 0.10, 1.0, 30.0),  # other class
    (0, 2, 0.70, 0.10, 1.0, 40.0),  # entropy 0.61 > 0.5
    (0, 3, 0.95, 1.01, 1.0, 50.0),  # other centroid
    (0, 4, 0.95, 0.20, 1.0, 60.0),  # rank 2
    (0, 5, 0.95, 0.20, 1.0, 60.5),  # rank 2 too, later by its seed, and a copy of seed 4
    (0, 6, 0.95, 0.10, 1.0, 3.5),  # rank 1, a copy of the real r3.png
    (0, 7, 0.95, 0.60, 1.0, 70.0),  # rank 6
    (0, 8, 0.95, 0.70, 1.0, 80.0),  # rank 7: the far half of 8
    (0, 9, 0.95, 0.80, 1.0, 90.0),
    (0, 10, 0.95, 0.50, 1.0, 20.5),  # rank 5
    (1, 0, 0.72, 0.10, 1.0, 10.0),  # entropy 0.59 <= 0.6
    (1, 1, 0.10, 5.00, 1.0, 20.0),  # of another class, and of another centroid
]


def candidates(rows):
    labels, seeds, own, near, far, values = map(np.array, zip(*rows))

    def pair(one, other):
        return torch.from_numpy(np.where((labels == 0)[:, None], np.stack([one, other], 1), np.stack([other, one], 1)))

    return Candidates(
        files=[f"{CLASSES[label]}/{CLASSES[label]}_{seed}.png" for label, seed in zip(labels, seeds)],
        labels=torch.from_numpy(labels),
        seeds=torch.from_numpy(seeds),
        probabilities=pair(own, 1 - own).float(),
        distances=pair(near, far),
        descriptors=torch.from_numpy(values)[:, None].expand(-1, 768).float(),
    )


def decided(rows, asked=None, **rules):
    asked = {name: {50: 1, 100: 2} for name in CLASSES} if asked is None else asked
    return decide(candidates(rows), REAL, LIMITS, asked, CLASSES, Rules(**rules))


def reasons(rows, label="TUM"):
    return {row.seed: row.reason for row in rows if row.label == label}


def usable(count, label=0):
    """Candidates that pass everything, nearer the lower the seed."""
    return [(label, seed, 0.95, 0.1 + seed / 1000, 1.0, 200.0 + 2 * seed) for seed in range(count)]


@pytest.mark.parametrize("gates", ["both", "distance"])
def test_what_readers_rejected_is_not_used_whatever_the_scorer_says(gates):
    files = ["TUM/TUM_0.png", "TUM/TUM_3.png"]
    made = replace(candidates(usable(8)), excluded=files)
    rows = decide(
        made, REAL, LIMITS, {name: {100: 4} for name in CLASSES}, CLASSES, Rules(gates=gates, keep_fraction=1)
    )
    assert [row.seed for row in rows if row.reason == "excluded"] == [0, 3]
    assert [row.seed for row in rows if row.kept] == [1, 2, 4, 5]
    drawn = decide(
        candidates(usable(8)), REAL, LIMITS, {name: {100: 4} for name in CLASSES}, CLASSES, Rules(gates=gates)
    )
    assert [row.random_ratio for row in rows] == [row.random_ratio for row in drawn], "the control takes no heed of it"


def test_all_rules_by_hand():
    rows = decided(BY_HAND, keep_fraction=0.7)
    assert [(row.label, row.seed) for row in rows] == [(CLASSES[row[0]], row[1]) for row in BY_HAND]
    assert reasons(rows) == {
        0: "kept",
        1: "other class",
        2: "uncertain",
        3: "other centroid",
        4: "kept",
        5: "copy of TUM/TUM_4.png",
        6: "copy of r3.png",
        7: "beyond the quota",
        8: "far half",
        9: "far half",
        10: "copy of TUM/TUM_0.png",
    }
    assert reasons(rows, "ADI") == {0: "kept", 1: "other class"}
    assert [row.rank for row in rows] == [4, None, None, None, 2, 3, 1, 6, 7, 8, 5, 1, None]
    assert [row.ratio for row in rows] == [100, None, None, None, 50, *[None] * 6, 50, None]
    assert [row.kept for row in rows] == [row.reason == "kept" for row in rows]
    first = rows[0]
    assert (first.file, first.probability, first.distance, first.nearest) == ("TUM/TUM_0.png", 0.95, 0.3, "TUM")
    assert first.entropy == pytest.approx(0.198515, abs=1e-6)
    assert [rows[3].nearest, rows[12].nearest] == ["ADI", "TUM"]


def test_confidence_is_judged_before_distance():
    both = (0, 0, 0.40, 2.0, 1.0, 20.0)
    assert reasons(decided([both])) == {0: "other class"}
    assert reasons(decided([both], gates="distance")) == {0: "other centroid"}


def test_each_class_has_its_own_limit():
    row = (0.75, 0.1, 1.0)  # entropy 0.562
    rows = decided([(0, 0, *row, 20.0), (1, 0, *row, 20.0)])
    assert [row.reason for row in rows] == ["uncertain", "kept"]


def test_an_entropy_at_the_limit_passes():
    rows = candidates([(0, 0, 0.75, 0.1, 1.0, 20.0)])
    for step, expected in ((-2e-6, "uncertain"), (0, "kept"), (2e-6, "kept")):
        limits = entropy(rows.probabilities).repeat(2) + step
        asked = {name: {100: 1} for name in CLASSES}
        assert decide(rows, REAL, limits, asked, CLASSES)[0].reason == expected


def test_ties_of_classes_are_for_the_candidate():
    loose = torch.tensor([1.0, 1.0])
    rows = candidates([(0, 0, 0.5, 0.7, 0.7, 20.0), (1, 0, 0.5, 0.7, 0.7, 20.0)])
    found = decide(rows, REAL, loose, {name: {100: 1} for name in CLASSES}, CLASSES)
    assert [(row.reason, row.nearest) for row in found] == [("kept", "TUM"), ("kept", "ADI")]


@pytest.mark.parametrize(
    ("count", "keep_fraction", "expected"),
    [(8, 0.5, 4), (7, 0.5, 4), (1, 0.5, 1), (0, 0.5, 0), (100, 0.07, 7), (10, 0.31, 4), (6, 1.0, 6)],
)
def test_the_closer_half_is_rounded_up(count, keep_fraction, expected):
    assert 0.07 * 100 > 7
    rows = decided([*usable(count), (0, 1000, 0.1, 0.0, 1.0, 0.0)], keep_fraction=keep_fraction)
    assert [row.seed for row in rows if row.reason in ("kept", "beyond the quota")] == list(range(expected))
    assert [row.seed for row in rows if row.reason == "far half"] == list(range(expected, count))


def test_far_ones_are_ranked_and_refused_ones_are_not():
    rows = decided([*usable(4), (0, 1000, 0.1, 0.0, 1.0, 0.0)])
    assert [row.rank for row in rows] == [1, 2, 3, 4, None]


@pytest.mark.parametrize(("copy_ratio", "copies"), [(0.0, []), (0.2, [1]), (1 / 3, [1, 2]), (2.0, [1, 2, 3])])
def test_copy_ratio(copy_ratio, copies):
    """Real images are 3 apart; the candidates are 0.5, 0.9 and 1.5 from the first."""
    values = {0: 20.0, 1: 20.5, 2: 19.1, 3: 21.5}
    rows = decided(
        [(0, seed, 0.95, 0.1 + seed / 10, 1.0, value) for seed, value in values.items()],
        keep_fraction=1,
        copy_ratio=copy_ratio,
    )
    found = [row for row in rows if row.reason.startswith("copy")]
    assert [row.seed for row in found] == copies
    assert {row.reason for row in found} <= {"copy of TUM/TUM_0.png"}


def test_the_scale_of_copies_is_that_of_the_class():
    """Real images of ADI are 9 apart: what is 2 from the one before is a copy in that class alone."""
    real = replace(REAL, descriptors=REAL.descriptors + torch.tensor([0.0, 0.0, 0.0, 6.0])[:, None])
    rows = [(label, seed, 0.95, 0.1 + seed, 9.0, 20.0 + 2 * seed) for label in (0, 1) for seed in (0, 1)]
    asked = {name: {100: 2} for name in CLASSES}
    found = decide(candidates(rows), real, LIMITS, asked, CLASSES, Rules(keep_fraction=1))
    assert [row.reason for row in found] == ["kept", "kept", "kept", "copy of ADI/ADI_0.png"]


def test_real_images_of_other_classes_are_not_copied_either():
    assert reasons(decided([(0, 0, 0.95, 0.1, 1.0, 103.5)])) == {0: "copy of r103.png"}


def test_accepted_images_of_another_class_are_no_reference():
    rows = decided([(0, 0, 0.95, 0.1, 1.0, 20.0), (1, 0, 0.95, 0.1, 1.0, 20.0)])
    assert [row.reason for row in rows] == ["kept", "kept"]


def test_the_distance_alone_as_in_the_published_code():
    rows = decided(BY_HAND, asked={name: {100: 100} for name in CLASSES}, gates="distance")
    assert reasons(rows) == {seed: "other centroid" if seed == 3 else "kept" for seed in range(11)}
    assert reasons(rows, "ADI") == {0: "kept", 1: "other centroid"}


def test_centroids_with_synthetic_images_are_measured_again():
    """The real centroids are at 1 and at -1 on the circle; what is selected draws that of TUM towards itself."""
    angles = torch.tensor([0.0, 0.2, 0.4, 1.6, 3.1])

    def point(angle):
        return torch.stack([angle.cos(), angle.sin()], 1)

    real = Centroids().fit(point(torch.tensor([0.0, 3.14159])), torch.tensor([0, 1]), 2)
    features = point(angles)
    rows = replace(
        candidates([(0, seed, 0.95, 0.1, 1.0, 20.0 + 5 * seed) for seed in range(5)]),
        features=features,
        distances=real(features),
    )
    asked = {name: {100: 2} for name in CLASSES}
    rules = Rules(keep_fraction=1)
    once = decide(rows, REAL, LIMITS, asked, CLASSES, rules, real)
    assert reasons(once) == {0: "kept", 1: "kept", 2: "beyond the quota", 3: "other centroid", 4: "other centroid"}
    twice = decide(rows, REAL, LIMITS, asked, CLASSES, replace(rules, centroids="with_synthetic"), real)
    moved = point(torch.tensor([0.0, 0.0, 0.2])).mean(0)  # the real image and the two kept ones
    assert [row.distance for row in twice] == pytest.approx((features - moved).square().sum(1).tolist(), abs=1e-5)
    assert reasons(twice) == {0: "kept", 1: "kept", 2: "beyond the quota", 3: "beyond the quota", 4: "other centroid"}
    for given in ({}, {"centroids": real}):
        bare = replace(rows, features=None) if given else rows
        with pytest.raises(ValueError, match="--selector#rules#centroids with_synthetic needs the features"):
            decide(bare, REAL, LIMITS, asked, CLASSES, Rules(centroids="with_synthetic"), **given)


def test_quotas_by_hand():
    labelled = {"TUM": 40, "ADI": 5, "MUC": 3}
    assert quotas(labelled, [300, 50, 100]) == {
        "TUM": {50: 20, 100: 40, 300: 120},
        "ADI": {50: 2, 100: 5, 300: 15},  # round(2.5)
        "MUC": {50: 2, 100: 3, 300: 9},  # round(1.5)
    }
    assert quotas(labelled, [50], balanced=True) == {name: {50: 8} for name in labelled}
    assert quotas({"TUM": 100, "ADI": 100}, [55])["TUM"] == {55: 55}


@pytest.mark.parametrize("ratios", [[], [0], [-50], [50.0], [True]])
def test_ratios_are_whole_numbers(ratios):
    with pytest.raises(ValueError, match="--ratios are .* whole numbers above 0, in percent"):
        quotas({"TUM": 3}, ratios)


def test_a_class_that_falls_short_stays_short_and_its_control_is_as_small():
    asked = {"TUM": {50: 2, 100: 4, 200: 8}, "ADI": {50: 1, 100: 2, 200: 4}}
    rows = decided([*usable(6), *usable(20, 1)], asked)
    assert shortfall(rows, asked) == {"TUM": {50: 0, 100: 1, 200: 5}, "ADI": {50: 0, 100: 0, 200: 0}}
    for name, sizes in {"TUM": [2, 3, 3], "ADI": [1, 2, 4]}.items():
        for ratio, size in zip((50, 100, 200), sizes):
            selective = [row for row in rows if row.label == name and row.ratio and row.ratio <= ratio]
            control = [row for row in rows if row.label == name and row.random_ratio and row.random_ratio <= ratio]
            assert (len(selective), len(control)) == (size, size)
    assert shortfall([], asked) == asked
    assert acceptance(rows, CLASSES) == {"TUM": 0.5, "ADI": 0.5}


def test_acceptance_counts_what_all_gates_let_through():
    rows = decided(BY_HAND, keep_fraction=0.7)
    assert acceptance(rows, [*CLASSES, "MUC"]) == {"TUM": 3 / 11, "ADI": 1 / 2, "MUC": 0}
    smaller = decided(BY_HAND, {name: {50: 0} for name in CLASSES}, keep_fraction=0.7)
    assert acceptance(smaller, CLASSES) == acceptance(rows, CLASSES), "the quota decided what is usable"


def test_the_control_is_drawn_from_all_candidates():
    """Over many seeds each candidate is drawn, refused ones too, about as often as any other."""
    counts = np.zeros(11)
    for seed in range(200):
        rows = decided(BY_HAND, keep_fraction=0.7, seed=seed)
        counts += [row.random_ratio is not None for row in rows if row.label == "TUM"]
    assert counts.sum() == 400  # two a time
    assert counts.min() > 18 and counts.max() < 58  # 36.4 expected, standard deviation 5.5


def test_the_control_depends_on_seed_and_class_and_not_on_scores():
    pool = [*usable(50), *usable(50, 1)]

    def drawn(rows, seed, label):
        return [row.seed for row in decided(rows, seed=seed) if row.label == label and row.random_ratio]

    first = [drawn(pool, seed, "TUM") for seed in range(8)]
    assert len({*map(tuple, first)}) > 4
    assert first != [drawn(pool, seed, "ADI") for seed in range(8)]
    reversed_ranks = [(label, seed, 0.95, 0.9 - near, far, value) for label, seed, _, near, far, value in pool]
    assert first == [drawn(reversed_ranks, seed, "TUM") for seed in range(8)]


def test_rounding():
    values = torch.tensor([0.12345649, 1.0, 3.14159265, 31.4159265, 1234567.0, 0.0, 4e-8], dtype=torch.float64)
    assert rounded(values).tolist() == [0.123456, 1.0, 3.14159, 31.4159, 1234570.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ["a.png"]}, "there are 1 candidates and labels of 13"),
        ({"probabilities": torch.rand(13, 3)}, r"the probabilities are of \[3\] classes, expected 2"),
        ({"distances": torch.full((13, 2), torch.nan)}, "TUM/TUM_0.png: its distances are not finite"),
        ({"labels": torch.tensor([0] * 12 + [2])}, "ADI/ADI_1.png: class 2 is not one of 2"),
        ({"labels": torch.tensor([0] * 12 + [-1])}, "class -1 is not one of 2"),
        (
            {"seeds": torch.tensor([0, 0] + [*range(1, 12)])},
            "TUM/TUM_0.png and TUM/TUM_1.png have the same class and s",
        ),
    ],
)
def test_unfit_candidates_are_refused(changes, message):
    asked = {name: {50: 1} for name in CLASSES}
    with pytest.raises(ValueError, match=message):
        decide(replace(candidates(BY_HAND), **changes), REAL, LIMITS, asked, CLASSES)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"gates": "none"}, "--gates is 'none'; it must be one of both, distance"),
        ({"centroids": "fake"}, "--selector#rules#centroids is 'fake'; it must be one of real, with_synthetic"),
        ({"keep_fraction": 0}, "--keep_fraction is 0; it must be above 0"),
        ({"keep_fraction": 1.1}, "--keep_fraction is 1.1"),
        ({"copy_ratio": -1}, "--selector#rules#copy_ratio is -1; it must be 0 or more"),
        ({"copy_ratio": float("nan")}, "--selector#rules#copy_ratio is nan"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 0.5}, "--seed is 0.5"),
    ],
)
def test_unfit_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Rules(**rules)
