"""Which class an image has, and what is refused instead of guessed."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.data.class_names import check_class_name, check_class_names, parse_class_names
from bundle.data.labels import find_labels
from bundle.data.sources import find_items

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


def names(source) -> list[str]:
    return [file for file, _, _ in find_items(source)]


def save_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def pathmnist(path, **changes):
    """6 training, 2 validation and 4 test images of the classes 0, 1, 2."""
    arrays = {
        "train_images": IMAGES[:6], "train_labels": np.array([[0], [1], [2], [0], [1], [2]], np.uint8),
        "val_images": IMAGES[6:8], "val_labels": np.array([[0], [1]], np.uint8),
        "test_images": IMAGES[8:], "test_labels": np.array([[2], [2], [0], [0]], np.uint8),
    }  # fmt: skip
    return save_npz(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})


# Folders and file names


@pytest.mark.parametrize(
    "prefix", ["", "wrapper/", "a/b/", "tiles.zip#", "tiles.zip#NCT-CRC-HE-100K/", "deep/tiles.zip#./NCT/"]
)
def test_the_first_folder_that_files_do_not_share_is_the_class(tmp_path, prefix):
    files = [f"{prefix}TUM/slide 1/x.png", f"{prefix}TUM/y.png", f"{prefix}ADI/z.png"]
    labels = find_labels(tmp_path, files)
    assert labels.of == dict(zip(files, ("TUM", "TUM", "ADI")))
    assert labels.classes == ["ADI", "TUM"] and not labels.numbered and labels.ignored == 0


def test_a_folder_of_one_expected_class_is_that_class(tmp_path):
    files = ["wrapper/TUM/x.png", "wrapper/TUM/y.png"]
    assert find_labels(tmp_path, files, "test", known=("ADI", "TUM")).classes == ["TUM"]


def test_archives_beside_each_other_are_no_classes(tmp_path):
    files = ["first.zip#TUM/x.png", "second.zip#ADI/y.png", "TUM/z.png", "ADI/stack.npz#images/3"]
    assert list(find_labels(tmp_path, files).of.values()) == ["TUM", "ADI", "TUM", "ADI"]


@pytest.mark.parametrize("prefix", ["", "CRC-VAL-HE-7K/", "CRC-VAL-HE-7K.zip#CRC-VAL-HE-7K/"])
def test_names_as_in_nct_crc_he(tmp_path, prefix):
    files = [f"{prefix}{name}" for name in ("TUM-AAAHGIGK.tif", "TUM-TCGA-AALK.tif", "ADI-TCGA#1.tif")]
    assert list(find_labels(tmp_path, files).of.values()) == ["TUM", "TUM", "ADI"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["TUM/x.png", "ADI/y.png", "overview.png"], "1 of 3 images lie beside.*'overview.png'.*Move"),
        (["TUM-A.png", "x.png"], "the class of 'x.png' can't be told.*folder.*TUM-AAAHGIGK.tif"),
        (["-A.png", "TUM-A.png"], "the class of '-A.png'"),
        (["one.npz#images/0", "two.npz#images/0"], "the class of 'one.npz#images/0' can't be told"),
        (["w/Train/TUM/x.png", "w/test/TUM/x.png"], "Train.*test.*--dataset_dir .*/w/train --test_dir .*/w/test"),
        (["train/x.png", "val/x.png"], "'train', 'val'.*are parts"),
        (["a.npz#train_images/0", "b.npz#test_images/1"], "train_images.*are parts of a dataset.*give one"),
        (["TUM,x/x.png", "ADI/x.png"], "class name 'TUM,x'.*letter or digit.*Rename the folder.*--class_names"),
        (["_x/x.png", "ADI/x.png"], "class name '_x'"),
    ],
)
def test_what_has_no_class_is_refused_by_name(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        find_labels(tmp_path, files)


@pytest.mark.parametrize("name", ["", "..", ".a", "a/b", "a\\b", "a,b", "a\n", " a", "-a", "ä", "a:b"])
def test_unfit_class_names(name):
    with pytest.raises(ValueError, match="can't be used"):
        check_class_name(name, "here")


@pytest.mark.parametrize("name", ["TUM", "0", "tumour high-grade", "a.b+c_d-e"])
def test_fit_class_names(name):
    check_class_name(name, "here")


# Arrays


@pytest.mark.parametrize("alone_in_a_folder", [False, True])
def test_npz_roles(tmp_path, alone_in_a_folder):
    path = pathmnist(tmp_path / "data" / "pathmnist.npz")
    source = path.parent if alone_in_a_folder else path
    labels = find_labels(source, names(source))
    assert labels.of == {f"pathmnist.npz#train_images/{index}": str(index % 3) for index in range(6)}
    assert labels.classes == ["0", "1", "2"] and labels.ignored == 6 and labels.numbered
    test = find_labels(source, names(source), "test")
    assert list(test.of.items())[0] == ("pathmnist.npz#test_images/0", "2")
    assert test.classes == ["0", "2"] and test.ignored == 8


@pytest.mark.parametrize("role", ["dataset", "test"])
def test_plain_npz_serves_both_roles(tmp_path, role):
    path = save_npz(tmp_path / "x.npz", images=IMAGES, labels=np.arange(12) % 2)
    labels = find_labels(path, names(path), role)
    assert len(labels.of) == 12 and labels.of["x.npz#images/3"] == "1" and labels.ignored == 0


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    path = save_npz(tmp_path / "x.npz", images=IMAGES, labels=np.arange(12))
    assert find_labels(path, names(path)).classes == [str(number) for number in range(12)]


@pytest.mark.parametrize("given", [["TUM", "ADI", "LYM"], "TUM, ADI,LYM"])
def test_names_of_numbers(tmp_path, given):
    path = pathmnist(tmp_path / "x.npz")
    labels = find_labels(path, names(path), class_names=given)
    assert labels.classes == ["TUM", "ADI", "LYM"] and labels.of["x.npz#train_images/1"] == "ADI"
    assert find_labels(path, names(path), "test", given).classes == ["TUM", "LYM"]
    own = pathmnist(tmp_path / "own.npz", class_names=np.array(["TUM", "ADI", "LYM"]))
    assert find_labels(own, names(own)).classes == ["TUM", "ADI", "LYM"]
    assert find_labels(own, names(own), class_names=given).classes == ["TUM", "ADI", "LYM"]


def test_class_names_from_a_command_line():
    assert parse_class_names(None) is None
    assert parse_class_names("TUM") == ["TUM"] and parse_class_names(7) == ["7"]
    assert parse_class_names([1, "b"]) == ["1", "b"]


@pytest.mark.parametrize(
    ("changes", "class_names", "message"),
    [
        ({"train_labels": None}, None, "x.npz: there is no array 'train_labels'.*Add it"),
        ({"train_labels": np.zeros(5, int)}, None, "'train_labels' has 5 labels for 6 images"),
        ({"train_labels": np.zeros((6, 2), int)}, None, r"int64 \[6, 2\]; integers \[6\] or \[6, 1\]"),
        ({"train_labels": np.zeros(6)}, None, "float64.*integers"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, None, "label -1 is out of range"),
        ({"train_labels": np.array([None] * 6)}, None, "'train_labels' can't be read.*plain numbers"),
        ({}, "a,b", "label 2 is out of range, 2 class names allow 0 to 1.*--class_names"),
        ({}, "a,b,c,d", "4 class names are given and 3 classes found.*'d'.*--class_names"),
        ({}, "a,b,a", "two classes have the name 'a'"),
        ({}, "a,b,c/d", "class name 'c/d' can't be used"),
        ({"class_names": np.array(["a", "b"])}, None, "label 2 is out of range"),
        ({"class_names": np.array(["a", "b", "c"])}, "a,c,b", "--class_names says .*Leave out"),
        ({"class_names": np.array([b"a", b"b", b"c"])}, None, "'class_names' is .*save it as text"),
        ({"train_images": None, "train_labels": None}, None, "no array 'train_images' or 'images'.*--dataset_dir"),
    ],
)
def test_unfit_arrays_are_refused(tmp_path, changes, class_names, message):
    path = pathmnist(tmp_path / "x.npz", **changes)
    with pytest.raises(ValueError, match=message):
        find_labels(path, names(path), class_names=class_names)


def test_one_class_alone_is_not_taken_for_several(tmp_path):
    """slide1-001.png looks like the NCT-CRC-HE naming of a class slide1, but for its small letters."""
    with pytest.raises(ValueError, match="the class of .*slide1-001.png.* can't be told"):
        find_labels(tmp_path, ["TUM/slide1-001.png", "TUM/slide2-001.png"])
