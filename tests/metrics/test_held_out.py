"""The figures of a whole part of the data: by hand, and against independent implementations."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import balanced_accuracy_score, f1_score

from bundle.metrics.held_out import bootstrap_intervals, calibration_error, held_out_report

CLASSES = ["ADI", "LYM", "TUM"]
CONFUSION = np.array([[4, 1, 0], [2, 2, 1], [0, 1, 3]])


def items_of(confusion, confidence=0.5):
    """Probabilities and labels that give this confusion matrix: so confident in the guess, the rest shared out."""
    labels, guesses = (
        np.array([place[side] for place in np.ndindex(confusion.shape) for _ in range(confusion[place])])
        for side in (0, 1)
    )
    size = len(confusion)
    probabilities = np.full((len(labels), size), (1 - confidence) / (size - 1))
    probabilities[np.arange(len(labels)), guesses] = confidence
    return probabilities, labels


def report(confusion, classes=CLASSES):
    return held_out_report(*items_of(np.array(confusion)), classes)


def test_figures_of_a_matrix_worked_by_hand():
    found = report(CONFUSION)
    sensitivity, specificity = [4 / 5, 2 / 5, 3 / 4], [7 / 9, 7 / 9, 9 / 10]
    precision, f1 = [4 / 6, 2 / 4, 3 / 4], [8 / 11, 4 / 9, 3 / 4]
    expected = {
        "images": 14,
        "accuracy": 9 / 14,
        "balanced_accuracy": sum(sensitivity) / 3,
        "macro_f1": sum(f1) / 3,
        "macro_sensitivity": sum(sensitivity) / 3,
        "macro_specificity": sum(specificity) / 3,
        "weighted_f1": (5 * f1[0] + 5 * f1[1] + 4 * f1[2]) / 14,
        "weighted_sensitivity": 9 / 14,
        "weighted_specificity": (10 * 7 / 9 + 4 * 9 / 10) / 14,
        # Nine right guesses at -log 1/2, five wrong ones at -log 1/4.
        "cross_entropy": (9 * math.log(2) + 5 * math.log(4)) / 14,
        # All in one bin, sure by half and right in nine of fourteen.
        "ece": 9 / 14 - 1 / 2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=6e-5)
    assert len({round(value, 3) for value in expected.values()}) == 9, "figures that could be mistaken for another"
    assert found["confusion"] == CONFUSION.tolist() and found["absent_classes"] == []
    for number, name in enumerate(CLASSES):
        of_class = {"precision": precision, "sensitivity": sensitivity, "specificity": specificity, "f1": f1}
        of_class = {figure: values[number] for figure, values in of_class.items()}
        assert found["classes"][name] == pytest.approx({**of_class, "support": (5, 5, 4)[number]}, abs=6e-5)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    """One class against the rest: how often an image of the class scores above one of another, ties by half."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    probabilities = random.dirichlet(np.ones(3), 60) * 0.6 + np.eye(3)[labels] * 0.4
    probabilities = (probabilities * 20).round() + 0.5  # coarse, so that some tie
    probabilities /= probabilities.sum(1, keepdims=True)
    areas = []
    for number in range(3):
        scores = probabilities[:, number]
        pairs = scores[labels == number][:, None] - scores[labels != number]
        areas.append((np.sign(pairs) + 1).mean() / 2)
    found = held_out_report(probabilities, labels, CLASSES)["auroc"]
    assert found == pytest.approx(np.mean(areas), abs=6e-5) and 0.5 < found < 0.999


def test_two_classes_have_one_auroc():
    labels, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.5, 0.7, 0.9])
    found = held_out_report(np.stack([1 - scores, scores], 1), labels, CLASSES[:2])
    assert found["auroc"] == pytest.approx(5 / 6, abs=6e-5)


def test_calibration_error_by_hand():
    """Three bins: sure by 0.9 and half right, by 0.6 and right, by 0.5 and wrong."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.4, 0.6, 0.0], [0.2, 0.3, 0.5]])
    found = calibration_error(probabilities, np.array([0, 0, 1, 0]))
    assert found == pytest.approx((2 * 0.4 + 0.4 + 0.5) / 4, abs=1e-6)
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert calibration_error(sure, np.array([0, 1, 2, 0])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(sure, np.array([1, 2, 0, 1])) == pytest.approx(1, abs=1e-6)


def test_classes_without_an_image_are_named_and_left_out_of_means():
    found = report([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert found["absent_classes"] == ["LYM"]
    assert found["auroc"] is None and found["auroc_missing"] == "no image of LYM"
    assert found["balanced_accuracy"] == found["macro_sensitivity"] == pytest.approx((3 / 4 + 1 / 2) / 2, abs=6e-5)
    assert found["macro_f1"] == pytest.approx((6 / 8 + 2 / 3) / 2, abs=6e-5)
    assert found["macro_specificity"] == pytest.approx((1 / 2 + 1) / 2, abs=6e-5)
    assert found["classes"]["LYM"]["sensitivity"] is None and found["classes"]["LYM"]["support"] == 0
    low, high = found["intervals"]["balanced_accuracy"]
    assert low < found["balanced_accuracy"] < high


def test_a_class_that_is_never_predicted_has_no_precision():
    found = report([[4, 0, 0], [1, 0, 1], [0, 0, 2]])["classes"]["LYM"]
    assert found["precision"] is None and found["sensitivity"] == found["f1"] == 0


def test_one_class_alone_has_no_specificity():
    found = report([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert found["macro_specificity"] is None and found["accuracy"] == found["macro_sensitivity"] == 0.75


def test_intervals_are_those_of_images_drawn_again():
    """Against scipy, which draws the images themselves."""
    confusion = np.array([[40, 6, 4], [5, 20, 5], [8, 2, 60]])
    probabilities, labels = items_of(confusion)
    guesses = probabilities.argmax(1)
    figures = {
        "accuracy": lambda true, seen: np.mean(true == seen),
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda true, seen: f1_score(true, seen, average="macro"),
    }
    found = bootstrap_intervals(confusion)
    for name, figure in figures.items():
        drawn = bootstrap(
            (labels, guesses), figure, paired=True, vectorized=False, n_resamples=500, method="percentile", rng=0
        )
        interval = drawn.confidence_interval
        assert found[name] == pytest.approx([interval.low, interval.high], abs=0.015), name
    share = 120 / 150
    assert found["accuracy"][1] - found["accuracy"][0] == pytest.approx(
        2 * 1.96 * math.sqrt(share * (1 - share) / 150), abs=0.015
    )
    assert bootstrap_intervals(confusion) == found and bootstrap_intervals(confusion, seed=1) != found
    assert "not new slides" in report(CONFUSION)["intervals"]["of"]


def test_probabilities_in_single_precision_and_in_any_order_give_the_same():
    probabilities, labels = items_of(CONFUSION, 0.7)
    order = np.random.default_rng(0).permutation(len(labels))
    single = probabilities[order].astype(np.float32) * np.float32(1.00001)
    assert held_out_report(single, labels[order], CLASSES) == held_out_report(probabilities, labels, CLASSES)
