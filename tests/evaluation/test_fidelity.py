"""The section of an evaluation that features make, against each metric by itself."""

import json

import numpy as np
import pytest
import torch

from bundle.evaluation.fidelity import measure_fidelity
from bundle.metrics.frechet import frechet_distance, principal_axes
from bundle.metrics.kernel import kernel_distance
from bundle.metrics.neighbours import overlap
from bundle.metrics.vendi import vendi_score

CLASSES = ["ADI", "LYM", "TUM"]
COUNTS = (60, 45, 8)  # the last is too few for figures of its own
LABELS = np.repeat([0, 1, 2], COUNTS)
OVERALL = ["frechet", "kid", "precision", "recall", "density", "coverage", "vendi"]
SHARES = ["precision", "recall", "density", "coverage"]


def features(seed, dimensions=12, shift=0.0, labels=LABELS):
    """Features with a place for each class."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(labels), dimensions, generator=generator) * torch.arange(1, dimensions + 1) ** -0.5
    return drawn + 2 * torch.eye(dimensions)[labels] + shift


SYNTHETIC, REFERENCE, FLOOR = features(1, shift=0.4), features(2), features(3)


def measure(synthetic=SYNTHETIC, reference=REFERENCE, floor=FLOOR, labels=(LABELS,) * 3, **settings):
    settings = {"draws": 50, "frechet_draws": 4, "frechet_title": "Fréchet distance in test features", **settings}
    return measure_fidelity(synthetic, reference, floor, labels, CLASSES, **settings)


@pytest.fixture(scope="module")
def found():
    return measure()


def test_overall_figures_are_those_of_each_metric_alone(found):
    overall = found["overall"]
    assert list(overall) == OVERALL
    for name, of in (("value", SYNTHETIC), ("floor", FLOOR)):
        expected = {
            "frechet": frechet_distance(of, REFERENCE),
            "kid": kernel_distance(of, REFERENCE)[0],
            "vendi": vendi_score(of)[0],
            **overlap(of, REFERENCE, k=5),
        }
        assert {metric: overall[metric][name] for metric in OVERALL} == pytest.approx(expected, rel=1e-5)
    assert found["neighbours"] == 5 and all("k = 5" in found["metrics"][name]["title"] for name in SHARES)
    assert found["metrics"]["frechet"]["title"] == "Fréchet distance in test features"
    assert "all 12 dimensions" in found["metrics"]["frechet"]["explanation"]
    assert f"{vendi_score(REFERENCE)[0]:.4g}" in overall["vendi"]["note"]


def test_every_figure_has_its_interval_and_says_which_way_is_better(found):
    directions = {"precision": "higher", "recall": "higher", "coverage": "higher", "density": "floor", "vendi": "floor"}
    for figures in (found["overall"], *found["classes"].values()):
        for name, of in figures.items():
            assert of["interval"][0] <= of["value"] <= of["interval"][1], name
            assert of["floor_interval"][0] <= of["floor"] <= of["floor_interval"][1], name
            assert of["better"] == directions.get(name, "lower"), name
            assert set(found["metrics"][name]) == {"title", "explanation"}
    assert found["overall"]["kid"]["interval"][0] > found["overall"]["kid"]["floor_interval"][1]
    json.dumps(found, allow_nan=False)


def test_classes_have_what_their_count_can_bear(found):
    """6 and 4 axes for 60 and 45 images; of 8 images nothing, and it is said."""
    assert list(found["classes"]) == ["ADI", "LYM"]
    for name, number, dimensions in (("ADI", 0, 6), ("LYM", 1, 4)):
        figures = found["classes"][name]
        assert list(figures) == ["kid", "precision", "recall", "frechet_projected"]
        made, real = SYNTHETIC[LABELS == number], REFERENCE[LABELS == number]
        assert figures["kid"]["value"] == pytest.approx(kernel_distance(made, real)[0], rel=1e-4)
        assert figures["recall"]["value"] == pytest.approx(overlap(made, real)["recall"])
        axes = principal_axes(REFERENCE, dimensions)
        expected = frechet_distance(made.double() @ axes, real.double() @ axes)
        assert figures["frechet_projected"]["value"] == pytest.approx(expected, rel=1e-4)
        assert f"first {dimensions} principal axes" in figures["frechet_projected"]["note"]
    assert any("TUM has 8 images" in note and "20 or more" in note for note in found["notes"])


def test_the_same_seed_gives_the_same_and_the_order_of_images_does_not_matter(found):
    assert measure() == found
    other = measure(seed=1)
    assert other["overall"]["frechet"]["interval"] != found["overall"]["frechet"]["interval"]
    order = np.random.default_rng(0).permutation(len(LABELS))
    turned = measure(synthetic=SYNTHETIC[order], labels=(LABELS[order], LABELS, LABELS))
    for group in ("overall", "classes"):
        values = [{name: of for name, of in result[group].items()} for result in (turned, found)]
        flat = [_values(of) for of in values]
        assert flat[0] == pytest.approx(flat[1], rel=1e-4)


def _values(tree, place=""):
    """{place: "value"} of all figures in a tree."""
    if "value" in tree:
        return {place: tree["value"]}
    return {key: value for name, of in tree.items() for key, value in _values(of, f"{place}/{name}").items()}


def test_without_draws_only_intervals_that_take_none():
    found = measure(draws=0, frechet_draws=0)
    for figures in (found["overall"], *found["classes"].values()):
        for name, of in figures.items():
            expected = name in ("kid", "vendi", "precision", "recall", "coverage")
            assert ("interval" in of) == ("floor_interval" in of) == expected, name
    assert "with replacement" not in found["notes"][0] and "jackknife" in found["notes"][0]


def test_a_share_of_none_is_not_certainly_none():
    """Far from all real images: 0 of 113, whose interval by Wilson ends at 1.96² / (113 + 1.96²)."""
    precision = measure(synthetic=SYNTHETIC + 1000)["overall"]["precision"]
    assert precision["value"] == 0 and precision["interval"] == pytest.approx([0, 3.8415 / 116.8415], rel=1e-4)


def test_fewer_images_than_dimensions_is_said():
    wide = [features(seed, 200) for seed in (1, 2, 3)]
    found = measure(*wide)
    assert any("113 images" in note and "200 features" in note and "KID" in note for note in found["notes"])
    assert not any("singular" in note for note in measure()["notes"])


def test_few_images_have_overall_figures_alone():
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    few = [features(seed, labels=labels) for seed in (1, 2, 3)]
    found = measure(*few, labels=(labels,) * 3)
    assert list(found["overall"]) == OVERALL and found["classes"] == {}
    assert sum("has 3 images" in note for note in found["notes"]) == 2


def test_an_empty_class_is_named():
    labels = np.zeros(40, int)
    found = measure(*(features(seed, labels=labels) for seed in (1, 2, 3)), labels=(labels,) * 3)
    assert list(found["classes"]) == ["ADI"]
    assert sum("has 0 images" in note for note in found["notes"]) == 2


@pytest.mark.parametrize("side", ["synthetic", "reference", "floor"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_features_that_are_not_finite(side, broken):
    sets = {"synthetic": SYNTHETIC, "reference": REFERENCE, "floor": FLOOR}
    sets[side] = sets[side].clone()
    sets[side][[70, 31], 3] = broken
    with pytest.raises(ValueError, match=f"the {side} set has features .* 2 of 113 images, the first in row 31"):
        measure(**sets)


def test_sets_that_cannot_be_compared():
    with pytest.raises(ValueError, match=r"different sizes.*\[59, 45, 8\].*Cut them"):
        measure(synthetic=SYNTHETIC[1:], labels=(LABELS[1:], LABELS, LABELS))
    with pytest.raises(ValueError, match="different sizes"):
        measure(labels=(LABELS, LABELS, np.roll(np.repeat([0, 1, 2], (61, 44, 8)), 1)))
    with pytest.raises(ValueError, match="different sizes"):
        measure(floor=FLOOR[:, :-1])
    with pytest.raises(ValueError, match="112 images with features and 113 labels"):
        measure(synthetic=SYNTHETIC[1:])
    with pytest.raises(ValueError, match="5 images of each set: the 5th nearest neighbour"):
        measure(*(of[:5] for of in (SYNTHETIC, REFERENCE, FLOOR)), labels=(LABELS[:5],) * 3)
