"""Which fields are taken: the grid, shares, strata, sharpness; and coordinates of other programs."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image
from pyramids import blurred

from bundle.data.slides import Scale, SlideError
from bundle.slides.coordinates import coordinates_file, read_coordinates
from bundle.slides.fields import Field, FieldRule, Windows, sharpness
from bundle.slides.tissue import GREY, PEN, TISSUE

SLIDE = SimpleNamespace(size=(1024, 512), bounds=(0, 0, 1024, 512), downsamples=(1.0, 4.0), mpp=0.5)
SCALE = Scale(0, 128, 128, 0.5, 128.0)


def found(**places):
    mask = np.zeros((64, 128), np.uint8)  # 8 pixels of level 0 to one
    for kind, place in places.items():
        mask[place] = {"tissue": TISSUE, "pen": PEN, "grey": GREY}[kind]
    return mask


def test_fields_with_enough_tissue_are_taken_and_others_counted_by_reason():
    mask = found(
        tissue=(slice(0, 32), slice(0, 40)), pen=(slice(0, 4), slice(0, 8)), grey=(slice(40, 44), slice(100, 110))
    )
    fields, left_out = FieldRule(patch_size=128).choose(SLIDE, SCALE, mask, None, 0)
    assert [(field.x, field.y) for field in fields] == [(128, 0), (256, 0), (0, 128), (128, 128), (256, 128)]
    assert [field.tissue for field in fields] == [1, 0.5, 1, 1, 0.5]
    assert left_out == {"pen": 1, "glass": 25, "dust or an edge of glass": 1}
    fields, left_out = FieldRule(patch_size=128, minimum_tissue=0.6).choose(SLIDE, SCALE, mask, None, 0)
    assert len(fields) == 3 and left_out["too little tissue"] == 2
    assert len(FieldRule(patch_size=128, maximum_pen=1).choose(SLIDE, SCALE, mask, None, 0)[0]) == 6


def test_the_grid_follows_overlap_bounds_and_size():
    everywhere = np.full((64, 128), TISSUE, np.uint8)
    for overlap, count in ((0, 8 * 4), (64, 15 * 7)):
        fields, _ = FieldRule(patch_size=128, overlap=overlap).choose(SLIDE, SCALE, everywhere, None, 0)
        assert len(fields) == count and max(field.x for field in fields) == 1024 - 128
    cropped = SimpleNamespace(**{**vars(SLIDE), "bounds": (100, 50, 512, 256)})
    fields, _ = FieldRule(patch_size=128).choose(cropped, SCALE, everywhere, None, 0)
    assert len(fields) == 8 and (fields[0].x, fields[0].y) == (100, 50)
    small = SimpleNamespace(**{**vars(SLIDE), "bounds": (0, 0, 100, 100)})
    assert FieldRule(patch_size=128).choose(small, SCALE, everywhere, None, 0) == ([], {})


def test_a_field_has_the_class_of_which_it_has_most():
    everywhere = np.full((64, 128), TISSUE, np.uint8)
    classes = {"a": np.zeros((64, 128), bool), "b": np.zeros((64, 128), bool)}
    classes["a"][:16, :30], classes["b"][:16, 30:44] = True, True
    fields, left_out = FieldRule(patch_size=128).choose(SLIDE, SCALE, everywhere, classes, 0.75)
    assert [(field.x, field.label) for field in fields] == [(0, "a"), (128, "a"), (256, "b")]
    assert left_out == {"outside the regions": 29}


def test_a_maximum_is_spread_over_the_tissue_and_drawn_by_seed():
    fields = [Field(128 * column, 128 * row, 1.0, "") for row in range(16) for column in range(16)]

    def drawn(**given):
        return [group[0][:2] for group in FieldRule(maximum_patches=16, **given).strata(fields, "one")]

    blocks = {(x // 512, y // 512) for x, y in drawn()}
    assert len(drawn()) == len(blocks) == 16  # one in each of 4 x 4 blocks
    assert drawn() == drawn() != drawn(seed=1)
    assert sorted(field for group in FieldRule(maximum_patches=16).strata(fields, "one") for field in group) == sorted(
        fields
    )
    labelled = [field._replace(label="ab"[number % 2]) for number, field in enumerate(fields)]
    chosen = [group[0].label for group in FieldRule(maximum_patches=5).strata(labelled, "one")]
    assert sorted(chosen) == ["a"] * 5 + ["b"] * 5
    assert FieldRule().strata(fields, "one") == [[field] for field in fields]


def test_shares_are_those_of_the_pixels_in_the_field():
    mask = np.random.default_rng(0).random((64, 128)) < 0.3
    places = np.array([[0, 0], [512, 256], [896, 384]])
    shares = Windows(SLIDE, 128.0, mask.shape).shares(mask, places)
    assert np.allclose(shares, [mask[y // 8 :][:16, x // 8 :][:, :16].mean() for x, y in places])


def test_sharpness_falls_with_blur_and_not_with_the_stain():
    random = np.random.default_rng(0)  # structures of all sizes, as tissue has
    coarse = sum(random.integers(0, 60, (256 // side,) * 2).repeat(side, 0).repeat(side, 1) for side in (2, 8, 32, 64))
    texture = np.repeat(coarse[:, :, None], 3, axis=2).astype(np.uint8)
    values = [sharpness(Image.fromarray(blurred(texture, radius))) for radius in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[3] < FieldRule().minimum_sharpness < values[0]
    assert np.isclose(sharpness(Image.fromarray(texture // 2)), values[0], rtol=0.05)
    assert sharpness(Image.new("RGB", (64, 64))) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"mpp": 0}, {"mpp": "x"}, {"patch_size": 4}, {"patch_size": 64.5}, {"overlap": 256}, {"overlap": -1},
        {"minimum_tissue": 1.5}, {"maximum_pen": -1}, {"maximum_patches": 0}, {"maximum_patches": True},
        {"minimum_sharpness": -1},
    ],
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(given):
    with pytest.raises(ValueError, match=f"--{next(iter(given))} is "):
        FieldRule(**given)


def write_coordinates(path, places, **attributes):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=np.array(places))
        data.attrs.update(attributes)
    return path


CLAM = {"patch_size": 64, "patch_level": 1, "downsample": [4.0, 4.0], "name": "one"}
TRIDENT = {"patch_size": 64, "patch_size_level0": 128, "overlap": 0, "target_magnification": 10}


@pytest.mark.parametrize("about, scale", [(CLAM, (1, 64, 64, 2.0, 256)), (TRIDENT, (0, 128, 64, 1.0, 128))])
def test_coordinates_are_taken_as_they_are(tmp_path, about, scale):
    places = [[0, 0], [700, 200], [100, 256]]
    made = read_coordinates(write_coordinates(tmp_path / "one.h5", places, **about), SLIDE)
    assert made.places.tolist() == places and tuple(made.scale) == scale


@pytest.mark.parametrize(
    "places, about, said",
    [
        ([[900, 300]], CLAM, r"1 of 1 fields lie beyond the slide of 1024 x 512 pixels, such as \(900, 300\)"),
        ([[-1, 0]], TRIDENT, "lie beyond the slide"),
        ([[0, 0]], {}, "must be integers"),
        ([[0.5, 0]], CLAM, "must be integers"),
        ([[0, 0]], {"patch_size": 64, "patch_level": 7}, "must be integers"),
        ([[0, 0]], {"patch_size": 64, "patch_size_level0": 32}, "finer than the slide"),
    ],
)
def test_wrong_coordinates_are_named(tmp_path, places, about, said):
    with pytest.raises(SlideError, match=f"one.h5: .*{said}"):
        read_coordinates(write_coordinates(tmp_path / "one.h5", places, **about), SLIDE)


def test_files_of_coordinates_go_by_the_name_of_the_slide(tmp_path):
    with pytest.raises(SlideError, match="has 0 files for the slide 'one'"):
        coordinates_file(tmp_path, "one")
    (tmp_path / "one_patches.h5").write_bytes(b"no HDF5")
    with pytest.raises(SlideError, match="one_patches.h5: its array 'coords' can't be read"):
        read_coordinates(coordinates_file(tmp_path, "one"), SLIDE)
