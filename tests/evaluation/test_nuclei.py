"""Nuclei that were drawn are found, counted and measured; pictures without any have none."""

import numpy as np
import pytest
import torch
from image_sets import image_set

from bundle.data.canvas import FIELD_OF_VIEW
from bundle.data.marks import read_marks
from bundle.data.stain import EOSIN, HAEMATOXYLIN, optical_density_to_rgb, rgb_to_optical_density, vary_stains
from bundle.evaluation.nuclei import PICTURE, THRESHOLDS, NucleusSegmenter, measure_nuclei

APART = [(24.0 + 26 * row, 24.0 + 26 * column) for row in range(4) for column in range(4)]  # um


def drawn(centres, radius=5.0, size=64, haematoxylin=1.4, eosin=0.4):
    """uint8 [1, 3, size, size], 128 um wide: discs of haematoxylin on eosin, averaged from a tenth of a micrometre."""
    fine = size * -(-512 // size)
    centre = (np.arange(fine) + 0.5) * FIELD_OF_VIEW / fine
    nuclei = np.zeros((fine, fine))
    for y, x in centres:
        nuclei[(centre[:, None] - y) ** 2 + (centre - x) ** 2 < radius**2] = haematoxylin
    nuclei = nuclei.reshape(size, fine // size, size, fine // size).mean((1, 3))
    rgb = optical_density_to_rgb(nuclei[..., None] * HAEMATOXYLIN + eosin * EOSIN)
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]


def found(images, pitch=2.0, threshold=0.7):
    counts, areas = NucleusSegmenter(threshold, pitch).measure(image_set(images))
    return counts.tolist(), areas


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("radius", [4.0, 6.0])
def test_count_and_area_of_discs(size, radius):
    counts, areas = found(drawn(APART, radius, size), FIELD_OF_VIEW / size)
    assert counts == [16] and len(areas.values) == 16
    assert np.median(areas.values) == pytest.approx(np.pi * radius**2, rel=0.2)


def test_touching_discs_are_parted():
    pairs = [(y, x + side) for y in (30, 64, 98) for x in (30, 64, 98) for side in (-4.5, 4.5)]
    counts, areas = found(drawn(pairs, 5.0))
    assert counts == [18]
    assert np.median(areas.values) == pytest.approx(np.pi * 25, rel=0.25)


def test_images_without_nuclei_have_none():
    eosin = drawn([], eosin=1.2)
    glass = torch.full((1, 3, 64, 64), 240, dtype=torch.uint8)
    noise = (glass + torch.randint(-4, 5, glass.shape, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    counts, areas = found(torch.cat([eosin, glass, noise]), threshold=THRESHOLDS[0])
    assert counts == [0, 0, 0] and not len(areas.values)


def test_specks_and_lumps_are_no_nuclei():
    assert found(torch.cat([drawn(APART, 1.2), drawn([(64.0, 64.0)], 13.0)]))[0] == [0, 0]
    specks, nuclei = (drawn(APART, radius, 256, haematoxylin=1.0) for radius in (1.5, 3.0))  # both are dark enough
    assert found(specks, 0.5, 0.4)[0] == [0] and found(nuclei, 0.5, 0.4)[0] == [16]


def test_dark_surroundings_do_not_swallow_nuclei():
    density = rgb_to_optical_density(drawn(APART)[0].permute(1, 2, 0).numpy()) + 0.9 * HAEMATOXYLIN
    image = torch.from_numpy(optical_density_to_rgb(density).transpose(2, 0, 1).copy())[None]
    assert found(image, threshold=0.7)[0] == [16]


def test_stain_within_reason_does_not_change_the_count():
    image = drawn(APART, 5.0)[0].permute(1, 2, 0).numpy()
    for factors in ([0.85, 1.2], [1.15, 0.8]):
        other = torch.from_numpy(vary_stains(image, np.array(factors), np.zeros(2)).transpose(2, 0, 1).copy())
        assert found(other[None])[0] == [16]


def test_a_nucleus_at_the_edge_counts_and_its_area_does_not():
    counts, areas = found(torch.cat([drawn([(1.0, 60.0), (60.0, 127.0), (60.0, 60.0)]), drawn([(60.0, 60.0)])]))
    assert counts == [3, 1]
    assert areas.owners.tolist() == [0, 1] and areas.images == 2


def test_images_of_one_batch_and_of_many_are_the_same():
    images = torch.cat([drawn(APART[:count]) for count in (3, 0, 16, 7, 5)])
    one, other = (NucleusSegmenter(0.7, 2.0).measure(image_set(images), size) for size in (2, 64))
    assert one[0].tolist() == other[0].tolist() == [3, 0, 16, 7, 5]
    assert np.array_equal(one[1].values, other[1].values) and np.array_equal(one[1].owners, other[1].owners)


def sets():
    few, many = (torch.cat([drawn(APART[shift : shift + n], 5.0) for shift in range(4)]) for n in (4, 12))
    larger = torch.cat([drawn(APART[shift : shift + 12], 7.0) for shift in range(4)])
    labels = np.repeat([0, 1], 4)
    real = image_set(torch.cat([few, many]), labels, name="reference")
    return image_set(torch.cat([many, larger]), labels), real, real.take(range(8), "floor")


def test_distances_and_picture(tmp_path):
    result = measure_nuclei(*sets(), microns_per_pixel=2.0, folder=tmp_path, draws=20)
    assert result["classes"]["A"]["nuclei_count"]["value"] == 8 and result["classes"]["A"]["nuclei_count"]["floor"] == 0
    assert "nuclei_area" not in result["classes"]["A"] and "16 whole nuclei; 20 are needed" in " ".join(result["notes"])
    assert result["classes"]["B"]["nuclei_count"]["value"] == 0
    assert result["classes"]["B"]["nuclei_area"]["value"] == pytest.approx(np.pi * (49 - 25), rel=0.25)
    assert result["quantiles"]["A"]["synthetic"]["count"][2] == 12
    assert THRESHOLDS[0] < result["segmenter"]["threshold"] < 1.4
    assert read_marks(tmp_path / result["picture"])["SyntheticData"] == "YES" and result["picture"] == PICTURE


def test_unknown_resolution_gives_areas_in_pixels():
    known, unknown = (measure_nuclei(*sets(), microns_per_pixel=pitch, draws=0) for pitch in (2.0, None))
    ratio = known["classes"]["B"]["nuclei_area"]["value"] / unknown["classes"]["B"]["nuclei_area"]["value"]
    assert ratio == pytest.approx(4) and unknown["segmenter"]["unit_of_area"] == "pixels"
    assert "No --microns_per_pixel was given" in " ".join(unknown["notes"])


def test_a_reference_without_nuclei_says_so():
    blank = image_set(torch.full((4, 3, 64, 64), 240, dtype=torch.uint8))
    result = measure_nuclei(blank, blank, blank, 2.0, draws=0)
    assert result["overall"]["nuclei_count"]["value"] == 0 and "nuclei_area" not in result["overall"]
    assert any("held at its limit" in note for note in result["notes"])
    faint = image_set(drawn(APART, haematoxylin=0.2))
    result = measure_nuclei(faint, faint, faint, 2.0, draws=0)
    assert result["segmenter"]["threshold"] == THRESHOLDS[0] and result["quantiles"]["A"]["synthetic"]["count"][2] == 0
    assert any("held at its limit" in note for note in result["notes"])


@pytest.mark.parametrize("pitch", [0, -1.0, float("nan"), float("inf")])
def test_bad_resolutions_are_refused(pitch):
    with pytest.raises(ValueError, match="--microns_per_pixel is"):
        measure_nuclei(*sets(), microns_per_pixel=pitch)
