"""A generator that has collapsed or failed is told from real images."""

import math

import numpy as np
import pytest
import torch

from bundle.baselines.collapse import compare_with_real, fine_powers, layouts, mean_distance

CLASSES = ["A", "B"]
LABELS = np.repeat([0, 1], 24)


def pictures(seed, spread=60.0, texture=20.0):
    """Two classes of patches, reddish and bluish, that differ in how their colour runs across them.

    Their texture has waves of all lengths, each octave of about the same power, as tissue has.
    """
    random = np.random.default_rng(seed)
    base = np.array([[200, 120, 160], [120, 120, 200]])[LABELS][:, None, None]
    slopes = random.uniform(-spread, spread, (len(LABELS), 2, 3))
    ramp = np.linspace(-0.5, 0.5, 32)
    colours = base + slopes[:, 0, None, None] * ramp[:, None, None] + slopes[:, 1, None, None] * ramp[None, :, None]
    waves = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)) + 1 / 32
    spectrum = np.fft.fft2(random.standard_normal((len(LABELS), 32, 32))) / waves
    grey = np.fft.ifft2(spectrum).real
    return as_levels(colours + texture * (grey / grey.std())[..., None])


def as_levels(values):
    return np.clip(values, 0, 255).astype(np.uint8)


def compare(images, real=pictures(0)):
    return compare_with_real(images, LABELS, torch.from_numpy(real).permute(0, 3, 1, 2), LABELS, CLASSES)


def about(found, text):
    """The warnings with these words."""
    return [warning for warning in found["warnings"] if text in warning]


def test_other_real_images_raise_no_warning():
    found = compare(pictures(1))
    assert found["warnings"] == [] and found["space"] == "colours of 16 x 16 areas"
    assert found["recall"] > 0.5 and found["precision"] > 0.5
    for figure in ("spread", "layout", "detail", "grain"):
        assert all(0.7 < value < 1.4 for value in found[figure].values()), figure


def test_one_picture_a_class_has_collapsed():
    images = pictures(1)
    found = compare(np.concatenate([images[:1].repeat(24, 0), images[24:25].repeat(24, 0)]))
    assert found["spread"] == {"A": 0.0, "B": 0.0} and found["recall"] == 0
    alike, layout, collapsed = found["warnings"]
    assert "A (0.00), B (0.00)" in alike and "A (0.00), B (0.00)" in layout
    assert collapsed.startswith("collapsed: 0% of the real images")


def test_one_picture_a_class_in_many_tints_has_collapsed():
    """Its colours differ as much as those of real images."""
    tints = np.random.default_rng(2).uniform(-40, 40, (48, 1, 1, 3))
    found = compare(as_levels(pictures(1)[LABELS * 24] + tints))
    assert min(found["spread"].values()) > 0.3 and not about(found, "hardly differ")
    (warning,) = about(found, "one layout")
    assert "A (0." in warning and "B (0." in warning


def test_one_class_that_has_collapsed_is_named():
    images = pictures(1)
    images[24:] = pictures(1, spread=5, texture=5)[24:]
    for text in ("hardly differ", "one layout"):
        (warning,) = about(compare(images), text)
        assert "B (" in warning and "A (" not in warning


def areas(images):
    """The same colours of 16 x 16 areas, and nothing finer."""
    means = images.reshape(48, 16, 2, 16, 2, 3).mean((2, 4))
    return means.repeat(2, 1).repeat(2, 2)


@pytest.mark.parametrize("strength", [3, 10, 30])
def test_noise_of_the_right_colours_is_found_however_strong(strength):
    noise = np.random.default_rng(3).normal(0, strength, (48, 32, 32, 3))
    # Means of 4 pixels keep the colours of the areas; finer and coarser noise is taken off first.
    coarse = pictures(1).reshape(48, 8, 4, 8, 4, 3).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    found = compare(as_levels(coarse + noise))
    assert found["precision"] > 0.1 and not about(found, "hardly differ") and not about(found, "one layout")
    (warning,) = about(found, "noise of single pixels")
    assert "A (" in warning and "B (" in warning


def test_images_without_detail_are_blurred():
    found = compare(as_levels(areas(pictures(1))))
    assert found["precision"] > 0.5 and set(found["detail"].values()) != {1.0}
    (warning,) = found["warnings"]
    assert warning.startswith("images are blurred or rough") and "A (0.0" in warning and "B (0.0" in warning


def test_noise_has_failed():
    noise = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3)).astype(np.uint8)
    found = compare(noise)
    assert found["precision"] == 0 and any(text.startswith("failed: 0% of the generated") for text in found["warnings"])
    assert about(found, "blurred or rough")


def test_the_mean_distance_by_hand():
    assert mean_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)


def test_a_tint_does_not_change_a_layout():
    features = torch.rand(2, 768)
    tinted = features + torch.tensor([0.1, -0.2, 0.3]).repeat_interleave(256)
    assert torch.allclose(layouts(tinted), layouts(features), atol=1e-6)
    assert not torch.allclose(layouts(features)[0], layouts(features)[1], atol=0.1)


def test_powers_of_octaves_by_hand():
    """Pixels of 0 and 2 in a chess board are all 1 from the mean; of squares of 2 x 2 pixels, the second octave is."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    fine, coarse = ((rows + columns) % 2 * 2, (rows // 2 + columns // 2) % 2 * 2)
    images = torch.stack([fine, coarse])[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    floor, one = math.log(1 / 12), math.log(1 + 1 / 12)
    assert torch.allclose(fine_powers(images, chunk=1), torch.tensor([[one, floor], [floor, one]]), atol=1e-6)
    noise = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    assert (fine_powers(noise) @ torch.tensor([1.0, -1.0])).exp().mean().item() == pytest.approx(4, rel=0.05)
    assert fine_powers(noise[..., :63, :63]).shape == (4, 2)
