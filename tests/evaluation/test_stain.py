"""Stain statistics against flat pictures of known density, and their distances against shifts made by hand."""

import numpy as np
import pytest
import torch
from image_sets import image_set, tissue

from bundle.data.stain import EOSIN, HAEMATOXYLIN, optical_density_to_rgb
from bundle.evaluation.distributions import Sample, wasserstein_figure
from bundle.evaluation.stain import STATISTICS, measure_stain, stain_statistics
from bundle.metrics.frechet import frechet_distance


def painted(haematoxylin, eosin):
    """uint8 [N, 3, H, W] of densities [N, H, W]."""
    rgb = optical_density_to_rgb(haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN)
    return torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy())


def varied(count, seed, haematoxylin=0.4, eosin=0.5):
    """Images of one half empty and one half stained, the stain varying between images."""
    random = np.random.default_rng(seed)
    half = np.zeros((count, 16, 16))
    half[:, :, 8:] = 2
    levels = [base * random.uniform(0.9, 1.1, (count, 1, 1)) for base in (haematoxylin, eosin)]
    return painted(*(level * half for level in levels))


def test_statistics_of_known_densities():
    haematoxylin = np.zeros((2, 8, 8))
    haematoxylin[0, :, :4], haematoxylin[1] = 0.8, 0.3
    eosin = np.full((2, 8, 8), 0.5)
    eosin[1, :4] = 0.1
    expected = [[0.4, 0.5, 0.4, 0], [0.3, 0.3, 0, 0.2]]  # means, then deviations
    assert stain_statistics(painted(haematoxylin, eosin)) == pytest.approx(np.array(expected), abs=0.01)


def test_distance_is_the_shift():
    reference, floor = varied(60, 0), varied(60, 1)
    darker = varied(60, 2, haematoxylin=0.6)
    result = measure_stain(image_set(darker), image_set(reference, name="reference"), image_set(floor, name="floor"))
    found = result["overall"]
    assert found["haematoxylin_mean"]["value"] == pytest.approx(0.2, abs=0.02)
    assert found["haematoxylin_spread"]["value"] == pytest.approx(0.2, abs=0.02)
    assert found["eosin_mean"]["value"] < 0.03 and found["eosin_spread"]["value"] < 0.03
    assert all(found[name]["floor"] < 0.03 for name in STATISTICS)
    low, high = found["haematoxylin_mean"]["interval"]
    assert low < 0.2 < high and low > found["haematoxylin_mean"]["floor_interval"][1]
    assert found["stain_frechet"]["value"] > 10 * found["stain_frechet"]["floor"]
    statistics = [torch.from_numpy(stain_statistics(images)) for images in (darker, reference)]
    expected = frechet_distance(*(values / statistics[1].std(0).clamp(min=1e-3) for values in statistics))
    assert found["stain_frechet"]["value"] == pytest.approx(expected, rel=1e-4), "in units of the reference"
    middle = result["quantiles"]["overall"]["synthetic"]["haematoxylin_mean"][2]
    assert middle == pytest.approx(0.6, abs=0.02)


def test_classes_are_compared_with_their_own_and_few_images_are_said():
    images = torch.cat([varied(20, 0), varied(20, 1, haematoxylin=0.8), varied(1, 2)])
    labels = np.repeat([0, 1, 2], [20, 20, 1])
    swapped = image_set(images, np.where(labels < 2, 1 - labels, 2), "ABC")
    real = image_set(images, labels, "ABC", "reference")
    result = measure_stain(swapped, real, real, draws=20)
    assert result["overall"]["haematoxylin_mean"]["value"] == pytest.approx(0, abs=1e-6)
    for name in "AB":
        assert result["classes"][name]["haematoxylin_mean"]["value"] == pytest.approx(0.4, abs=0.04)
    assert "C" not in result["classes"] and "class C has fewer than 2 images" in result["notes"][-1]
    assert "20 draws" in result["notes"][0]
    assert set(result["overall"]) == set(result["metrics"])


def test_other_slides_are_farther_than_the_same():
    own, same, other = (tissue("STR", range(first, first + 12), slide) for first, slide in ((0, 0), (20, 0), (0, 3)))
    result = measure_stain(image_set(other), image_set(own, name="reference"), image_set(same, name="floor"), draws=0)
    assert "interval" not in result["overall"]["eosin_mean"]
    assert result["overall"]["stain_frechet"]["value"] > 3 * result["overall"]["stain_frechet"]["floor"]


def test_wasserstein_by_hand_and_interval_over_images():
    """All the values of an image are drawn together: one image of two decides everything."""
    reference = Sample(np.array([0.0, 0.0]), np.array([0, 1]), 2)
    synthetic = Sample(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]), 2)
    found = wasserstein_figure(synthetic, reference, reference, draws=400)
    assert found["value"] == 2 and found["floor"] == 0  # (1 + 1 + 1 + 5) / 4
    assert found["interval"] == [1, 5] and found["floor_interval"] == [0, 0]


def test_images_without_a_value_stay_out_of_the_distance_but_in_the_draws():
    sample = Sample(np.array([3.0]), np.array([4]), 5)
    zero = Sample.each(np.zeros(5))
    assert wasserstein_figure(sample, zero, zero, draws=50)["interval"] == [3, 3]
    kept = sample.take(np.array([False, True, False, False, True]))
    assert (kept.values.tolist(), kept.owners.tolist(), kept.images) == ([3.0], [1], 2)
