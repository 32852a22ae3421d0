"""Files as people have them, of generated patches: each is read as what it is, or refused by name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from bundle.data.generated import CLASSES, generate_patch
from bundle.data.labelled import LabelledPatches
from bundle.data.looks import LOOKS, look_of
from bundle.data.patches import TrainingPatches
from bundle.data.sources import UnreadableImage, list_source, read_rgb
from bundle.data.store import PatchStore

SIDE = 32
TILES = [generate_patch(CLASSES[number % 9], 0, number, SIDE) for number in range(8)]


def prepare(root, tmp_path, **settings) -> PatchStore:
    return PatchStore(root, SIDE, tmp_path / "cache", **settings).prepare()


def assert_tiles(store, tiles, atol=0):
    """Whether the store holds these tiles, in this order."""
    assert len(store) == len(tiles)
    for index, tile in enumerate(tiles):
        np.testing.assert_allclose(store.image(index).permute(1, 2, 0), tile, atol=atol, rtol=0)


# R, G and B as three grey pages

IMAGEJ = "ImageJ=1.53t\nimages=3\n{}=3\nmode=composite\n"
OME = (
    '<?xml version="1.0"?><OME><Image><Pixels ID="Pixels:0" SizeC="{}" SizeT="1" SizeX="32" SizeZ="{}"/></Image></OME>'
)


def save_pages(path, pages, description=""):
    """Pages of one TIFF, with this description of the first."""
    first, *rest = (Image.fromarray(page) for page in pages)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if description:
        tags[270] = description
    first.save(path, save_all=True, append_images=rest, tiffinfo=tags)


@pytest.mark.parametrize(
    "description", ['{"axes": "CYX", "shape": [3, 32, 32]}', IMAGEJ.format("channels"), OME.format(3, 1)]
)
def test_rgb_as_three_grey_pages_is_joined(tmp_path, description):
    save_pages(tmp_path / "a.tif", TILES[0].transpose(2, 0, 1), description)
    np.testing.assert_array_equal(read_rgb(tmp_path, "a.tif"), TILES[0])
    save_pages(tmp_path / "b.tif", TILES[0].transpose(2, 0, 1).astype(np.uint16) * 257, description)
    np.testing.assert_array_equal(read_rgb(tmp_path, "b.tif"), TILES[0])


@pytest.mark.parametrize(
    "pages, description",
    [
        (3, ""),
        (3, IMAGEJ.format("slices")),
        (3, OME.format(1, 3)),
        (3, '{"axes": "ZYX", "shape": [3, 32, 32]}'),
        (2, '{"axes": "CYX", "shape": [2, 32, 32]}'),
    ],
)
def test_grey_pages_of_which_nothing_says_what_they_are_are_refused(tmp_path, pages, description):
    save_pages(tmp_path / "a.tif", TILES[0].transpose(2, 0, 1)[:pages], description)
    with pytest.raises(UnreadableImage, match=rf"a.tif: it has {pages} grey pages of one size.*save it as one page"):
        read_rgb(tmp_path, "a.tif")


def test_an_overview_behind_a_grey_page_is_left_alone(tmp_path):
    grey = TILES[0][:, :, 0]
    save_pages(tmp_path / "a.tif", [grey, grey[::2, ::2].copy()])
    np.testing.assert_array_equal(read_rgb(tmp_path, "a.tif")[:, :, 1], grey)


# The range of floats


def unit(tile, peak):
    """A tile in [0, 1] with one value that a resize took to `peak`."""
    values = tile.astype(np.float32) / 255
    values[0, 0] = peak
    return values


def test_floats_that_a_resize_took_above_1_are_clipped_and_said(tmp_path):
    (tmp_path / "a").mkdir()
    for number, tile in enumerate(TILES):
        np.save(tmp_path / "a" / f"{number}.npy", unit(tile, 1.004 if number % 2 else 0.9)[None])
    store = prepare(tmp_path / "a", tmp_path)
    expected = [np.copy(tile) for tile in TILES]
    for number, tile in enumerate(expected):
        tile[0, 0] = 255 if number % 2 else 230
    assert_tiles(store, expected)
    assert "floats in [0, 1] that went above 1, clipped: 4" in store.summary()
    assert store.groups == [""] * 8  # one tile a file says nothing of its slide


@pytest.mark.parametrize("cache_gigabytes", [16.0, 0])
def test_a_dark_tile_among_floats_up_to_255_stays_dark(tmp_path, cache_gigabytes):
    dark = np.full((SIDE, SIDE, 3), 1.2, np.float32)
    tiles = [*(tile.astype(np.float32) for tile in TILES[:3]), dark]
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "stack.npy", np.stack(tiles))
    for number, tile in enumerate(tiles):
        np.save(tmp_path / "a" / f"tile{number}.npy", tile[None])
    for _ in range(2):
        store = prepare(tmp_path / "a", tmp_path, cache_gigabytes=cache_gigabytes)
        assert_tiles(store, [*TILES[:3], dark.astype(np.uint8)] * 2)
    assert "clipped" not in store.summary()


def test_each_array_has_a_range_of_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "a.npz", small=np.stack(TILES[:2]) / 255.0, wide=np.stack(TILES[2:8]).astype(np.float64))
    assert_tiles(prepare(tmp_path / "a", tmp_path), TILES)


def test_a_value_far_above_1_in_a_set_up_to_1_is_refused_by_name(tmp_path):
    stack = np.stack([unit(tile, 0.5) for tile in TILES])
    stack[5, 0, 0, 0] = 40
    np.save(tmp_path / "stack.npy", stack)
    store = prepare(tmp_path / "stack.npy", tmp_path, maximum_rejected_share=0.2)
    assert [(file, "and [0, 1] in most others" in reason) for _, file, reason in store.rejected] == [
        ("stack.npy#5", True)
    ]
    again = prepare(tmp_path / "stack.npy", tmp_path, maximum_rejected_share=0.2)
    assert again.rejected == store.rejected and again.sha256 == store.sha256
    with pytest.raises(ValueError, match="at least 1 of 8 files"):
        prepare(tmp_path / "stack.npy", tmp_path)


# Channels first, and one tile a file


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("first", [True, False])
def test_one_tile_a_file(tmp_path, suffix, first):
    (tmp_path / "a").mkdir()
    for number, tile in enumerate(TILES[:3]):
        path, array = tmp_path / "a" / f"{number}{suffix}", tile.transpose(2, 0, 1) if first else tile
        if suffix == ".h5":
            with h5py.File(path, "w") as file:
                file["tile"] = array
        else:
            np.savez(path, tile=array) if suffix == ".npz" else np.save(path, array)
    assert_tiles(prepare(tmp_path / "a", tmp_path), TILES[:3])
    with pytest.raises(UnreadableImage, match="there is no image 1 among 1"):
        read_rgb(tmp_path / "a", "0.npy#1" if suffix == ".npy" else f"0{suffix}#tile/1")


def test_stacks_with_channels_first(tmp_path):
    np.save(tmp_path / "rgb.npy", np.stack(TILES).transpose(0, 3, 1, 2))
    assert_tiles(prepare(tmp_path / "rgb.npy", tmp_path), TILES)
    np.save(tmp_path / "grey.npy", np.stack(TILES)[:, None, :, :, 0])
    np.testing.assert_array_equal(read_rgb(tmp_path, "grey.npy#3")[:, :, 2], TILES[3][:, :, 0])


def test_a_tile_with_its_mask_in_one_file(tmp_path):
    np.savez(tmp_path / "tile_and_mask.npz", x=TILES[0].transpose(2, 0, 1), mask=TILES[0][None, :, :, 0])
    listing = list_source(tmp_path)
    assert [file for file, _, _ in listing.items] == ["tile_and_mask.npz#x/0"]
    assert listing.ignored == {"(masks or labels)": 1}
    np.testing.assert_array_equal(read_rgb(tmp_path, "tile_and_mask.npz#x/0"), TILES[0])


def test_three_grey_images_beside_stacks_stay_three(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["TUM"], file["ADI"] = np.stack(TILES)[:, :, :, 0], np.stack(TILES[:3])[:, :, :, 0]
    assert len(list_source(tmp_path).items) == 8 + 3


# What systems leave, and masks


def test_what_systems_leave_is_left_out_and_counted(tmp_path):
    for name in (
        "TUM/1.png",
        "TUM/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "TUM/#recycle/2.png",
        "$RECYCLE.BIN/3.png",
        "__MACOSX/TUM/1.png",
        ".thumbnails/1.png",
        "TUM/Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(TILES[0]).save(tmp_path / name, format="PNG")
    listing = list_source(tmp_path)
    assert [file for file, _, _ in listing.items] == ["TUM/1.png"]
    assert listing.ignored == {"(made by a system)": 5, "(hidden)": 1}


@pytest.mark.parametrize("channels", [1, 6])
def test_masks_beside_images_are_left_out_and_counted(tmp_path, channels):
    for fold in ("fold1", "fold2"):
        (tmp_path / fold).mkdir()
        np.save(tmp_path / fold / "images.npy", np.stack(TILES))
        np.save(tmp_path / fold / "masks.npy", np.zeros((8, SIDE, SIDE, channels)))
    with h5py.File(tmp_path / "train_mask.h5", "w") as file:
        file["data"] = np.zeros((5, SIDE, SIDE, 1), np.uint8)
    listing = list_source(tmp_path)
    assert len(listing.items) == 16 and all("images.npy" in file for file, _, _ in listing.items)
    assert listing.ignored == {"(masks or labels)": 21}


def test_a_folder_of_masks_beside_one_of_images_is_left_out_and_counted(tmp_path):
    for folder in ("slide/images", "slide/Masks/deep", "masks"):  # the last has no images beside it
        save_tiles(tmp_path / folder, TILES[:2])
    listing = list_source(tmp_path)
    assert {file.split("/slide/")[0] for file, _, _ in listing.items} == {"slide/images", "masks"}
    assert listing.ignored == {"(masks or labels)": 2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mask", True), ("fold1_masks", True), ("image_7_mask", True), ("train_mask_2", True), ("groundtruth", True),
        ("images", False), ("x", False), ("tile_x512_y1024", False), ("tile_7_label_2", False), ("unmasked", False),
    ],
)  # fmt: skip
def test_what_is_named_as_masks(tmp_path, name, expected):
    np.save(tmp_path / f"{name}.npy", np.stack(TILES[:2]))
    np.save(tmp_path / "tile.npy", TILES[2])
    assert dict(list_source(tmp_path).ignored) == ({"(masks or labels)": 2} if expected else {})


# Patches that are no tissue


def test_looks():
    noise = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)
    grey = np.repeat(noise[:, :, :1], 3, axis=2)
    pink = np.full_like(noise, (230, 120, 180)) + noise % 5
    looks = [noise, noise // 16, 255 - noise // 16, pink, grey, *TILES[1:]]
    assert [LOOKS[look_of(rgb)] for rgb in looks] == [
        "tissue", "nearly black", "nearly white", "of one colour", "grey", *["tissue"] * 7,
    ]  # fmt: skip


def save_tiles(folder, tiles):
    for number, tile in enumerate(tiles):
        (folder / "slide").mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(folder / "slide" / f"{number}.png")
    return folder


def test_blank_patches_are_counted_and_shown(tmp_path):
    folder = save_tiles(tmp_path / "a", [*TILES[1:], *(np.full_like(TILES[0], level) for level in (0, 250, 120))])
    store = prepare(folder, tmp_path, blank_picture=tmp_path / "run" / "blank.png")
    expected = "hardly tissue: 1 nearly black, 1 nearly white, 1 of one colour, shown in "
    assert expected + str(tmp_path / "run" / "blank.png") in store.summary()
    with Image.open(tmp_path / "run" / "blank.png") as image:
        assert image.size == (8 * (SIDE + 2) * 4 - 8, SIDE * 4)
    assert "hardly tissue: none" in prepare(save_tiles(tmp_path / "b", TILES[1:]), tmp_path).summary()


def test_a_set_of_blank_patches_is_refused_by_its_true_cause(tmp_path):
    folder = save_tiles(tmp_path / "a", [np.full_like(TILES[0], 10)] * 20)
    patches = TrainingPatches(folder, tmp_path / "cache", SIDE)
    message = (
        r"20 of 20 patches are hardly tissue \(20 nearly black\), such as .*a/slide/0.png, more than "
        r"maximum_blank_share = 0.75; .*blank_patches.png shows 16 of them.*--maximum_blank_share"
    )
    with pytest.raises(ValueError, match=message):
        patches.prepare()
    assert (tmp_path / "cache" / "blank_patches.png").is_file()
    with pytest.raises(ValueError, match="held out, pixel for pixel: the 20 patches show 1 pictures"):
        TrainingPatches(folder, tmp_path / "cache", SIDE, maximum_blank_share=1).prepare()


def test_of_real_tiles_background_alone_is_hardly_tissue(real_data):
    for folder in sorted((real_data / "crc7" / "train").iterdir()):
        looks = [look_of(read_rgb(folder, path.name)) for path in sorted(folder.iterdir())[:10]]
        assert np.count_nonzero(looks) == (10 if folder.name == "BACK" else 0), folder


def test_the_run_folder_shows_blank_labelled_patches(tmp_path):
    for name in ("TUM", "ADI"):
        save_tiles(tmp_path / "data" / name, TILES[1:5] if name == "TUM" else [*TILES[5:], TILES[1] * 0])
    settings = {"test_dir": None, "patch_size": SIDE, "cache_dir": tmp_path / "cache"}
    LabelledPatches(tmp_path / "data", split_path=tmp_path / "run" / "split.csv", **settings).prepare()
    assert (tmp_path / "run" / "pictures" / "blank_patches.png").is_file()
