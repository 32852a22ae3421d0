"""Planted copies are found, whatever was done to them, and nothing else is flagged."""

import csv
import io

import numpy as np
import pytest
import torch
from image_sets import image_set, tissue
from PIL import Image
from torch.nn.functional import interpolate

from bundle.data.marks import read_marks
from bundle.data.stain import optical_density_to_rgb, rgb_to_optical_density
from bundle.data.transforms import orient
from bundle.evaluation.copies import METRICS, measure_copies
from bundle.evaluation.nearest_pairs import COLUMNS
from bundle.metrics.copies import aligned_distances, nearest_images, oriented_distances
from bundle.selection.scores import descriptors

KINDS = ("TUM", "MUS", "LYM")
TRAINING = torch.cat([tissue(name, range(8)) for name in KINDS])
HELD_OUT = torch.cat([tissue(name, range(100, 116)) for name in KINDS])
OTHERS = torch.cat([tissue(name, range(200, 208)) for name in KINDS])
COPIED = [1, 7, 8, 13, 18, 23]
PLANTED = TRAINING[COPIED]


def jpeg(images, quality=75):
    done = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        done.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(done))


def cropped(images, border=2):
    inside = images[..., border:-border, border:-border].float()
    return interpolate(inside, size=images.shape[-2:], mode="bilinear", antialias=True).round().byte()


def noisy(images):
    """More than pixel by pixel can be borne; their averages show the tile."""
    noise = 30 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).round().byte()


def restained(images):
    return torch.from_numpy(optical_density_to_rgb(1.1 * rgb_to_optical_density(images.numpy())))


CHANGES = {
    "exact": lambda images: images,
    "turned": lambda images: torch.stack([orient(image, 2 + place) for place, image in enumerate(images)]),
    "jpeg": jpeg,
    "turned jpeg": lambda images: jpeg(orient(images, 5)),
    "shifted": lambda images: torch.roll(images, (1, -2), (2, 3)),
    "cropped": cropped,
    "cropped by 3": lambda images: cropped(images, 3),
    "noisy": noisy,
    "restained": restained,
}


def measured(folder, synthetic, training=TRAINING, held_out=HELD_OUT, **given):
    sets = [
        image_set(images, np.arange(len(images)) * len(KINDS) // len(images), KINDS, name)
        for images, name in ((synthetic, "synthetic"), (training, "training"), (held_out, "held_out"))
    ]
    result = measure_copies(*sets, [descriptors(images) for images in (synthetic, training, held_out)], folder, **given)
    with open(folder / result["table"], newline="", encoding="utf-8") as file:
        return result, list(csv.DictReader(file))


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_nothing_else(change, tmp_path):
    result, rows = measured(tmp_path, torch.cat([OTHERS, CHANGES[change](PLANTED)]))
    assert [row["flagged"] for row in rows] == ["false"] * len(OTHERS) + ["true"] * len(PLANTED)
    assert [row["nearest_file"] for row in rows[len(OTHERS) :]] == [f"training_{n}.png" for n in COPIED]
    flagged = result["overall"]["flagged"]
    assert flagged["value"] == pytest.approx(6 / 30) and flagged["floor"] == 0, "a false alarm on independent images"
    assert 0 < flagged["floor_interval"][1] < 0.15
    assert result["overall"]["identical"]["value"] == (6 if change == "exact" else 0)


def test_what_it_can_not_find(tmp_path):
    """As documented: a part of a tile, and a shift beyond its reach."""
    far = torch.roll(PLANTED, (20, 13), (2, 3))
    quarter = interpolate(PLANTED[..., :32, :32].float(), size=(64, 64), mode="bilinear").byte()
    result, _ = measured(tmp_path, torch.cat([OTHERS, far, quarter]))
    assert result["overall"]["flagged"]["value"] < 0.1


def test_the_pair_that_is_shown_is_the_one_that_the_ratio_speaks_of(tmp_path):
    """Nearest by averages is a tile whose 4 x 4 cells are turned; nearest as it looks is the tile itself, brighter."""
    tile = (OTHERS[:1].float() * 0.8 + 20).round()
    cells = tile.view(1, 3, 16, 4, 16, 4).flip(3, 5).reshape(tile.shape)
    training = torch.cat([TRAINING, (cells - 5).byte(), (tile + 6).byte()])
    _, (row,) = measured(tmp_path, tile.byte(), training=training)
    assert row["nearest_file"] == f"training_{len(training) - 1}.png" and row["flagged"] == "true"
    assert float(row["pixel_distance"]) == pytest.approx(6)


def test_twins_in_training_do_not_hide_a_copy(tmp_path):
    result, rows = measured(tmp_path, torch.cat([OTHERS, PLANTED]), training=torch.cat([TRAINING, PLANTED]))
    assert [row["flagged"] for row in rows[len(OTHERS) :]] == ["true"] * 6
    assert result["images"]["training"] == len(TRAINING)


def test_ratio_test_and_authenticity_tell_copies_from_independent_images(tmp_path):
    honest, _ = measured(tmp_path / "a", OTHERS)
    copies, _ = measured(tmp_path / "b", jpeg(TRAINING, 60))
    for name in ("nearer_to_training_features", "nearer_to_training_pixels"):
        for of in ("interval", "floor_interval"):
            low, high = honest["overall"][name][of]
            assert low <= 0.5 <= high, "those that are compared with are no control: they are nearest to themselves"
        assert copies["overall"][name]["value"] > 0.85
        assert copies["overall"][name]["interval"][0] > copies["overall"][name]["floor"]
    assert honest["overall"]["authentic"]["value"] > 0.3 and copies["overall"]["authentic"]["value"] == 0
    assert copies["overall"]["pixel_ratio"]["value"] < 0.3 < 0.8 < honest["overall"]["pixel_ratio"]["value"]
    assert copies["overall"]["feature_ratio"]["value"] < 0.3 < 0.8 < honest["overall"]["feature_ratio"]["value"]


def test_images_as_near_to_both_take_no_side(tmp_path):
    sets = [image_set(images, name=name) for images, name in ((OTHERS, "synthetic"), (TRAINING, "training"))]
    sets.append(image_set(HELD_OUT, name="held_out"))
    result = measure_copies(*sets, [torch.ones(len(one), 3) for one in sets], tmp_path)
    assert "nearer_to_training_features" not in result["overall"] and "nearer_to_training_pixels" in result["overall"]


def test_shape_of_the_result_and_files(tmp_path):
    result, rows = measured(tmp_path, torch.cat([OTHERS, PLANTED]), shown=5)
    assert set(result["overall"]) == set(METRICS) and set(result["classes"]) == set(KINDS)
    assert tuple(rows[0]) == COLUMNS and len(rows) == len(OTHERS) + len(PLANTED)
    assert rows[-1]["file"] == "synthetic_29.png" and rows[-1]["class"] == "LYM" and rows[-1]["orientation"] == "0"
    assert float(rows[-1]["pixel_distance"]) == 0 and float(rows[-1]["feature_distance"]) < 1e-2
    assert read_marks(tmp_path / result["gallery"])["SyntheticData"] == "YES"
    assert sum(found["identical"]["value"] for found in result["classes"].values()) == 6


def test_unlabelled_training_images_are_searched_but_take_no_part_in_the_ratio_test(tmp_path):
    training = image_set(TRAINING, np.zeros(len(TRAINING), int), ["unlabelled"], "training")
    sets = (image_set(PLANTED, classes=["TUM"]), training, image_set(HELD_OUT, classes=["TUM"], name="held_out"))
    result = measure_copies(*sets, [descriptors(one.images()) for one in sets], tmp_path)
    assert result["overall"]["flagged"]["value"] == 1 and "nearer_to_training_pixels" not in result["overall"]
    assert "the ratio test, so it is left out" in " ".join(result["notes"])


@pytest.mark.parametrize(
    ("synthetic", "training", "held_out", "message"),
    [
        (OTHERS[:0], TRAINING, HELD_OUT, "the synthetic set has none"),
        (OTHERS, TRAINING, HELD_OUT[:0], "the held_out set has none"),
        (OTHERS, TRAINING[[0, 0, 1, 2]], HELD_OUT, "3 different training images: 4 are needed"),
    ],
)
def test_sets_that_can_not_be_searched_are_refused(synthetic, training, held_out, message, tmp_path):
    sets = [image_set(images, name=name) for images, name in ((synthetic, "synthetic"), (training, "training"))]
    sets.append(image_set(held_out, name="held_out"))
    with pytest.raises(ValueError, match=message):
        measure_copies(*sets, [torch.rand(len(one), 4) for one in sets], tmp_path)


def test_features_must_fit():
    sets = [image_set(images) for images in (OTHERS, TRAINING, HELD_OUT)]
    good = [torch.rand(len(one), 4) for one in sets]
    with pytest.raises(ValueError, match="24 images, and features of 23"):
        measure_copies(*sets, [good[0][1:], *good[1:]], None)
    with pytest.raises(ValueError, match="not finite"):
        measure_copies(*sets, [good[0] * torch.nan, *good[1:]], None)


def test_search_is_that_of_all_pairs():
    queries, references = (descriptors(images).view(-1, 3, 16, 16) for images in (OTHERS, TRAINING))
    expected = oriented_distances(queries.double(), references.double()).sort(dim=1)
    for chunk in (5, 100):
        distances, places, ways = nearest_images(queries, references, 3, chunk)
        assert torch.equal(places, expected.indices[:, :3])
        torch.testing.assert_close(distances.double(), expected.values[:, :3], rtol=1e-4, atol=1e-5)
        turned = torch.stack([orient(references[place], int(way)) for place, way in zip(places[:, 0], ways[:, 0])])
        torch.testing.assert_close((queries - turned).flatten(1).norm(dim=1), distances[:, 0])


def test_alignment_by_hand():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    flat = torch.full_like(image, 0.5)
    candidates = torch.stack([image + 0.25, torch.roll(image, (2, -1), (2, 3)), flat], dim=1)
    found = aligned_distances(image, candidates)[0]
    assert found[0] == pytest.approx(0.25) and found[1] == pytest.approx(0, abs=1e-6)
    assert found[2] == pytest.approx(float((image - 0.5).square().mean().sqrt()), rel=0.02)
