"""Entropies, centroids and distances against closed forms, scikit-learn and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from scipy.stats import entropy as scipy_entropy
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from bundle.data.transforms import orient
from bundle.selection.scores import Centroids, centroids, descriptors, entropy, entropy_limits, normalise

RANDOM = np.random.default_rng(0)
FEATURES = torch.from_numpy(RANDOM.normal(size=(30, 5)) + 3 * np.eye(5)[np.arange(30) % 3]).float()
LABELS = torch.arange(30) % 3
QUERIES = torch.from_numpy(RANDOM.normal(size=(7, 5))).float()


def test_entropy_closed_forms():
    found = entropy(torch.tensor([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.9, 0.1, 0, 0]], dtype=torch.float64))
    expected = [math.log(4), 0, math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_entropy_against_scipy_and_never_below_zero():
    probabilities = RANDOM.dirichlet(np.ones(6), 50)
    torch.testing.assert_close(
        entropy(torch.from_numpy(probabilities)), torch.from_numpy(scipy_entropy(probabilities, axis=1))
    )
    assert entropy(torch.tensor([[1.0000001, 0.0]])).item() == 0


def test_entropy_limits_by_hand():
    """Class 0 has 5 correct images, class 1 has 2 and one wrong: with 3 as the minimum class 1 takes those of both."""
    entropies = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 9.0])
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 0, 0, 0, 0, 1, 1, 0])
    found = entropy_limits(entropies, labels, predicted, 2, quantile=0.5, minimum=3)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.3], dtype=torch.float64))
    found = entropy_limits(entropies, labels, predicted, 2, quantile=0.5, minimum=2)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.55], dtype=torch.float64))
    found = entropy_limits(entropies, labels, predicted, 2, quantile=0.95)  # 20 are needed by default: both pooled
    torch.testing.assert_close(found, torch.full((2,), 0.57, dtype=torch.float64))


def test_twenty_of_a_class_are_enough_by_default():
    entropies = torch.cat([torch.full((20,), 0.1), torch.full((19,), 0.9)])
    labels = torch.cat([torch.zeros(20), torch.ones(19)]).long()
    found = entropy_limits(entropies, labels, labels, 2)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert found[1] == entropies.double().quantile(0.95)
    assert entropy_limits(entropies, labels, labels, 2, quantile=0.25)[1] == entropies.double().quantile(0.25)


def test_no_limits_without_a_correct_image():
    with pytest.raises(ValueError, match="none of 4 real images is classified correctly"):
        entropy_limits(torch.rand(4), torch.zeros(4).long(), torch.ones(4).long(), 2)


def test_a_quantile_is_a_share():
    with pytest.raises(ValueError, match="the quantile of the entropies is 95; it must lie in"):
        entropy_limits(torch.rand(4), torch.zeros(4).long(), torch.zeros(4).long(), 2, quantile=95)


def test_normalised_features():
    torch.testing.assert_close(
        normalise(torch.tensor([[3.0, 4.0], [0, 0]])), torch.tensor([[0.6, 0.8], [0, 0]]).double(), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(normalise(FEATURES), normalize(FEATURES.double()), rtol=1e-9)


def test_centroids_are_means_of_directions_and_not_normalised_again():
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0]])
    found = centroids(features, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [0, -1]]).double())


@pytest.mark.parametrize("labels", [[0, 0, 2], [0, 1, 3]])
def test_a_centroid_needs_images_of_its_class(labels):
    with pytest.raises(ValueError, match="a centroid needs images of each class"):
        centroids(torch.rand(3, 2), torch.tensor(labels), 3)


def test_squared_distance_by_hand_and_in_the_authors_form():
    fitted = Centroids().fit(torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0]]), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(fitted(torch.tensor([[0.0, 7.0]])), torch.tensor([[0.5, 4.0]]).double())
    # |f| = 1, so that |f - c|² = 1 + |c|² - 2 f.c; the published code has it divided by the number of features.
    fitted = Centroids("squared_l2").fit(FEATURES, LABELS, 3)
    means = fitted.means
    expected = 1 + means.square().sum(1) - 2 * normalise(QUERIES) @ means.T
    torch.testing.assert_close(fitted(QUERIES), expected, rtol=1e-6, atol=0)


def test_the_nearest_centroid_is_scikit_learns():
    theirs = NearestCentroid().fit(normalize(FEATURES.double()), LABELS.numpy())
    ours = Centroids().fit(FEATURES, LABELS, 3)(QUERIES)
    assert ours.argmin(1).tolist() == theirs.predict(normalize(QUERIES.double())).tolist()


def test_cosine_against_scipy():
    fitted = Centroids("cosine").fit(FEATURES, LABELS, 3)
    np.testing.assert_allclose(fitted(QUERIES), cdist(QUERIES.double(), fitted.means, "cosine"), rtol=1e-6)
    assert (fitted(fitted.means).diagonal() >= 0).all()


def test_mahalanobis_against_scikit_learn_and_scipy():
    fitted = Centroids("mahalanobis").fit(FEATURES, LABELS, 3)
    real, queries = normalize(FEATURES.double()), normalize(QUERIES.double())
    means = np.stack([real[LABELS == number].mean(0) for number in range(3)])
    shrunk = LedoitWolf(assume_centered=True).fit(real - means[LABELS])
    expected = [[mahalanobis(query, mean, shrunk.precision_) ** 2 for mean in means] for query in queries]
    np.testing.assert_allclose(fitted(QUERIES), expected, rtol=1e-6)
    assert 0 < shrunk.shrinkage_ < 1
    order = Centroids().fit(FEATURES, LABELS, 3)(QUERIES).argsort(0)
    assert not torch.equal(fitted(QUERIES).argsort(0), order), "the covariance made no difference"


def test_mahalanobis_with_more_features_than_images():
    fitted = Centroids("mahalanobis").fit(
        torch.rand(8, 40, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2, 2
    )
    assert fitted(torch.rand(3, 40)).isfinite().all()


def test_mahalanobis_refuses_features_that_do_not_vary():
    with pytest.raises(ValueError, match="covariance of 4 images in 2 classes can't be inverted.*squared_l2 or cosine"):
        Centroids("mahalanobis").fit(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), 2)


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="'euclid' is unknown: use one of squared_l2, cosine, mahalanobis"):
        Centroids("euclid")


@pytest.mark.parametrize("metric", ["squared_l2", "cosine", "mahalanobis"])
def test_extra_images_move_the_means_only(metric):
    real = Centroids(metric).fit(FEATURES, LABELS, 3)
    before = real(QUERIES)
    extra = real.with_extra(QUERIES[:2], torch.tensor([1, 1]))
    expected = torch.cat([normalise(FEATURES)[LABELS == 1], normalise(QUERIES[:2])]).mean(0)
    torch.testing.assert_close(extra.means[1], expected)
    assert torch.equal(extra.means[[0, 2]], real.means[[0, 2]])
    assert torch.equal(real(QUERIES), before)
    assert torch.equal(extra(QUERIES)[:, [0, 2]], before[:, [0, 2]])
    assert (extra(QUERIES[:2])[:, 1] < before[:2, 1]).all()
    nothing = real.with_extra(QUERIES[:0], LABELS[:0])
    assert torch.equal(nothing(QUERIES), before)


@pytest.mark.parametrize("side", [32, 64, 40])
def test_descriptors_are_means_of_areas_in_any_batch(side):
    images = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = descriptors(images)
    assert (found.shape, found.dtype) == ((5, 768), torch.float32)
    assert torch.equal(descriptors(images, chunk=2), found)
    if side % 16 == 0:
        areas = images.numpy().reshape(5, 3, 16, side // 16, 16, side // 16).mean((3, 5)) / 255
        np.testing.assert_allclose(found, areas.reshape(5, 768), atol=1e-6)
    for orientation in range(8):  # turning an image turns its descriptor
        turned = orient(found.reshape(5, 3, 16, 16), orientation).flatten(1)
        torch.testing.assert_close(descriptors(orient(images, orientation)), turned, rtol=0, atol=1e-6)


def test_descriptors_of_no_images():
    assert descriptors(torch.empty(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, 768)
