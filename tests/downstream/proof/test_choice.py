"""Which images of a pool are learned from."""

import numpy as np
import pytest

from bundle.downstream.proof.choice import choose, k_centre, quota

REAL = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2]])
LABELS = np.array([0, 0, 1, 1])
# Of class 0: near, far, farther, and one that shows class 1.
POOL = np.array([[0.1, 1], [0, 5], [0, -9], [10, 1], [10, 1.1], [11, 1]])
ASKED = np.array([0, 0, 0, 0, 1, 1])


def chosen(selection, *wanted):
    return choose(selection, POOL, ASKED, REAL, LABELS, np.array(wanted)).tolist()


@pytest.mark.parametrize("selection, expected", [("nearest", [0, 3]), ("diverse", [2, 1])])
def test_by_distance_at_the_scale_of_the_labelled_features(selection, expected):
    assert chosen(selection, 2, 0) == expected


def test_what_shows_another_class_does_not_agree():
    assert sorted(chosen("agreeing", 9, 9)) == [0, 1, 2, 4, 5]
    assert 3 not in chosen("confident", 3, 2)


def test_random_ones_are_as_many_as_asked_and_differ_by_seed():
    features = np.zeros((200, 1))
    real = np.zeros((4, 1))
    draws = [
        choose("random", features, np.repeat([0, 1], 100), real, LABELS, np.array([5, 7]), seed) for seed in (0, 0, 1)
    ]
    assert len(draws[0]) == 12 and (draws[0][:5] < 100).all() and (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_k_centre_takes_the_farthest_first():
    line = np.array([[1.0], [4], [5], [9]])
    assert k_centre(line, np.array([[0.0]]), 3).tolist() == [3, 1, 0]


def test_a_quota_is_of_the_labels_that_train():
    assert quota(np.array([0, 0, 0, 2]), 3, 50).tolist() == [2, 0, 1]
    assert quota(np.array([0, 0, 0, 2]), 3, 300).tolist() == [9, 0, 3]
