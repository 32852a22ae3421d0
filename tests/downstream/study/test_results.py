"""Figures of a study's runs, worked by hand."""

import numpy as np
import pytest

from bundle.downstream.study.results import accuracy, gain, read_correct, stack
from bundle.runs.tables import write_csv


def test_tiles_are_paired_by_name(tmp_path):
    rows = [
        {"file": file, "part": part, "class": "A", "predicted": found}
        for part, file, found in [("test", "b", "A"), ("test", "a", "B"), ("unused", "c", "A")]
    ]
    write_csv(tmp_path / "predictions.csv", rows)
    correct = read_correct(tmp_path / "predictions.csv")
    assert correct == {"test": {"b": True, "a": False}, "unused": {"c": True}}
    assert stack([correct["test"], {"a": True, "b": False}]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="different tiles"):
        stack([correct["test"], {"a": True}])


def test_accuracy_and_gain_are_means_over_runs_and_tiles():
    baseline, better = np.array([[1, 0, 0, 1], [1, 1, 0, 0]]), np.array([[1, 1, 0, 1], [1, 1, 1, 1]])
    assert accuracy(baseline) == 0.5 and gain(better, baseline) == 0.375 and gain(baseline, baseline) == 0
    with pytest.raises(ValueError, match="can't be paired"):
        gain(baseline, baseline[:1])


def test_tiles_that_a_run_did_not_measure_do_not_count():
    apart = stack([{"a": True, "b": False}, {"b": True}], same=False)
    assert accuracy(apart) == pytest.approx(2 / 3)
