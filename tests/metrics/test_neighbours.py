"""Neighbours by blocks against all pairs at once, the figures against plain loops and another library."""

import numpy as np
import pytest
import torch
from correlated import correlated
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import prc_features_to_metric

from bundle.metrics.distances import distance_blocks
from bundle.metrics.neighbours import authentic, mean_interval, nearest, overlap

LEFT, RIGHT = correlated(60, 8, 1, 0.3, torch.float64), correlated(45, 8, 2, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 7, 45, 100])
def test_blocks_are_the_distances_of_all_pairs(size):
    for right in (RIGHT, None):
        other = LEFT if right is None else right
        expected = cdist(LEFT, other) ** 2
        if right is None:
            np.fill_diagonal(expected, np.inf)
        found, seen = np.full(expected.shape, np.nan), np.zeros(expected.shape, int)
        for rows, columns, squared in distance_blocks(LEFT, right, size):
            assert squared.shape[0] <= size and squared.shape[1] <= size
            found[rows, columns] = squared
            seen[rows, columns] += 1
        assert (seen == 1).all()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_features_far_from_zero_keep_their_distances():
    left, right = LEFT.float() + 3000, RIGHT.float() + 3000
    expected = cdist(left.numpy(), right.numpy())
    found = torch.cat([squared for _, _, squared in distance_blocks(left, right, 1000)]).sqrt()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("size", [2, 9, 1000])
def test_nearest_are_those_of_a_sorted_row(size):
    for right in (RIGHT, None):
        all_pairs = cdist(LEFT, LEFT if right is None else right)
        if right is None:
            np.fill_diagonal(all_pairs, np.inf)
        distances, places = nearest(LEFT, right, k=4, size=size)
        np.testing.assert_array_equal(places, np.argsort(all_pairs, 1)[:, :4])
        np.testing.assert_allclose(distances, np.sort(all_pairs, 1)[:, :4], rtol=1e-9)


def by_loops(synthetic, reference, k):
    """The definitions of both papers, one image at a time."""

    def radius(images, place):
        return sorted(np.linalg.norm(images[place] - images[other]) for other in range(len(images)) if other != place)[
            k - 1
        ]

    real = [radius(reference, place) for place in range(len(reference))]
    made = [radius(synthetic, place) for place in range(len(synthetic))]
    balls = [sum(np.linalg.norm(x - y) <= r for y, r in zip(reference, real)) for x in synthetic]
    return {
        "precision": np.mean([count > 0 for count in balls]),
        "recall": np.mean([any(np.linalg.norm(x - y) <= r for x, r in zip(synthetic, made)) for y in reference]),
        "density": sum(balls) / (k * len(synthetic)),
        "coverage": np.mean([min(np.linalg.norm(x - y) for x in synthetic) <= r for y, r in zip(reference, real)]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_overlap_against_loops_and_torch_fidelity(k):
    expected = by_loops(LEFT.numpy(), RIGHT.numpy(), k)
    assert len({round(value, 6) for value in expected.values()} - {0, 1}) >= 3, "figures that could be mistaken"
    for size in (6, 1000):
        assert overlap(LEFT, RIGHT, k, size) == pytest.approx(expected)
    found = prc_features_to_metric(LEFT, RIGHT, prc_neighborhood=k, save_cpu_ram=False, verbose=False)
    assert (expected["precision"], expected["recall"]) == pytest.approx((found["precision"], found["recall"]))


def test_the_same_images_and_sets_far_apart():
    same = overlap(LEFT, LEFT)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and same["density"] > 1
    assert set(overlap(LEFT, RIGHT + 1000).values()) == {0.0}


def test_one_place_repeated_is_precise_but_covers_little():
    found = overlap(RIGHT[:1] + 0.001 * LEFT[:, :8], RIGHT)
    assert found["precision"] == 1 and found["coverage"] < 0.5 and found["recall"] < 0.1


def test_authentic_by_hand():
    """Training images at 0, 1 and 10: 0.4 and 10.5 lie nearer to one than it has a neighbour, 2.5 and -1.5 don't.

    2 is as far from 1 as 0 is, and only what is farther is authentic.
    """
    training = torch.tensor([[0.0], [1.0], [10.0]])
    synthetic = torch.tensor([[0.4], [10.5], [2.5], [-1.5], [0.0], [100.0], [2.0]])
    for size in (1, 2, 100):
        assert authentic(synthetic, training, size).tolist() == [False, False, True, True, False, True, False]


def test_planted_copies_are_not_authentic():
    copies, others = RIGHT[:20] + 1e-4, correlated(200, 8, 3, dtype=torch.float64)
    found = authentic(torch.cat([copies, others]), RIGHT)
    assert not found[:20].any() and found[20:].double().mean() > 0.4


def test_interval_of_a_mean():
    """Of a share its normal approximation; of repeated numbers none."""
    values = (torch.arange(1000) < 300).double()
    low, high = mean_interval(values, 4000)
    assert (low, high) == pytest.approx(
        (0.3 - 1.96 * 0.21**0.5 / 1000**0.5, 0.3 + 1.96 * 0.21**0.5 / 1000**0.5), abs=2e-3
    )
    assert (
        mean_interval(values, 100, seed=1) == mean_interval(values, 100, seed=1) != mean_interval(values, 100, seed=2)
    )
    assert mean_interval(torch.full((50,), 1.6, dtype=torch.float64), 10) == pytest.approx((1.6, 1.6))


def test_too_few_neighbours():
    with pytest.raises(ValueError, match="4 other images: 5 nearest ones of each need at least 5"):
        overlap(LEFT[:5], RIGHT)
    with pytest.raises(ValueError, match="0 other images"):
        authentic(LEFT, RIGHT[:1])
