"""A generator that has collapsed or failed is told from real images."""

import numpy as np
import pytest
import torch

from bundle.rivals.collapse import compare_with_real, mean_distance

CLASSES = ["A", "B"]
LABELS = np.repeat([0, 1], 24)


def pictures(seed, spread=60.0):
    """Two classes of patches, reddish and bluish, that differ in how their colour runs across them."""
    random = np.random.default_rng(seed)
    base = np.array([[200, 120, 160], [120, 120, 200]])[LABELS][:, None, None]
    slopes = random.uniform(-spread, spread, (len(LABELS), 2, 3))
    ramp = np.linspace(-0.5, 0.5, 32)
    colours = base + slopes[:, 0, None, None] * ramp[:, None, None] + slopes[:, 1, None, None] * ramp[None, :, None]
    return np.clip(colours, 0, 255).astype(np.uint8)


def compare(images, real=pictures(0)):
    return compare_with_real(images, LABELS, torch.from_numpy(real).permute(0, 3, 1, 2), LABELS, CLASSES)


def test_other_real_images_raise_no_warning():
    found = compare(pictures(1))
    assert found["warnings"] == [] and found["space"] == "colours of 16 x 16 areas"
    assert found["recall"] > 0.5 and found["precision"] > 0.5
    assert all(0.7 < value < 1.4 for value in found["spread"].values())


def test_one_picture_a_class_has_collapsed():
    images = pictures(1)
    found = compare(np.concatenate([images[:1].repeat(24, 0), images[24:25].repeat(24, 0)]))
    assert found["spread"] == {"A": 0.0, "B": 0.0} and found["recall"] == 0
    alike, collapsed = found["warnings"]
    assert "A (0.00), B (0.00)" in alike and collapsed.startswith("collapsed: 0% of the real images")


def test_one_class_that_has_collapsed_is_named():
    images = pictures(1)
    images[24:] = pictures(1, spread=5)[24:]
    (warning,) = [text for text in compare(images)["warnings"] if "hardly differ" in text]
    assert "B (" in warning and "A (" not in warning


def test_noise_has_failed():
    noise = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3)).astype(np.uint8)
    found = compare(noise)
    assert found["precision"] == 0 and any(text.startswith("failed: 0% of the generated") for text in found["warnings"])


def test_the_mean_distance_by_hand():
    assert mean_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)
