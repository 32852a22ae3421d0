"""Which class an image has, and what is refused instead of guessed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bundle.data.class_names import check_class_name, check_class_names, parse_class_names
from bundle.data.labels import find_labels
from bundle.data.sources import find_items, list_source
from bundle.data.split import Drawing

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
        (["w/Train/TUM/x.png", "w/test/TUM/x.png"], "Train.*test.*--dataset_dir .*/w/train --test_dir .*/w/test"),
        (["train/x.png", "val/x.png"], "'train', 'val'.*are parts"),
        (["TUM,x/x.png", "ADI/x.png"], "class name 'TUM,x'.*letter or digit.*Rename the folder.*--class_names"),
        (["_x/x.png", "ADI/x.png"], "class name '_x'"),
    ],
)
def test_what_has_no_class_is_refused_by_name(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        find_labels(tmp_path, files)


@pytest.mark.parametrize(
    "name", ["", "..", ".a", "a/b", "a\\b", "a,b", "a\n", " a", "-a", "a:b", "TUM ", "NORM.", "\u0301a"]
)
def test_unfit_class_names(name):
    with pytest.raises(ValueError, match="here: the class name .* can't be used.*not end with a space"):
        check_class_name(name, "here")


@pytest.mark.parametrize("name", ["CON", "nul", "Aux.1", "LPT9", "com¹"])
def test_class_names_that_windows_keeps(name):
    with pytest.raises(ValueError, match="here: the class name .* can't be used; Windows keeps it"):
        check_class_name(name, "here")


@pytest.mark.parametrize("names", [("TUM", "tum"), ("STRASSE", "Straße"), ("Drüse", "DRÜSE")])
def test_class_names_that_are_one_folder_elsewhere(tmp_path, names):
    with pytest.raises(ValueError, match=f"{names[0]}.*{names[1]}.*differ in capitals alone.*Rename one"):
        check_class_names(names, "here")
    with pytest.raises(ValueError, match="differ in capitals alone"):
        find_labels(tmp_path, [f"{name}/x.png" for name in names])


@pytest.mark.parametrize(
    "name", ["TUM", "0", "tumour high-grade", "a.b+c_d-e", "Drüse", "опухоль", "核", "कोशिका", "CONT"]
)
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


# Arrays with labels in a file of their own


def save_pcam(folder, part, count, numbers):
    """Images, labels and masks as PCam distributes them, small."""
    folder.mkdir(exist_ok=True)
    for kind, array in {
        "x": IMAGES[:count],
        "y": np.array(numbers, np.uint8).reshape(-1, 1, 1, 1),
        "mask": IMAGES[:count, :, :, :1],
    }.items():
        with h5py.File(folder / f"camelyonpatch_level_2_split_{part}_{kind}.h5", "w") as file:
            file[kind] = array


def test_labels_of_a_sibling_file_are_used_as_of_pcam(tmp_path):
    save_pcam(tmp_path / "pcam", "train", 4, [0, 1, 1, 0])
    save_pcam(tmp_path / "pcam", "test", 2, [1, 1])
    listing = list_source(tmp_path / "pcam")
    assert listing.ignored == {"(masks or labels)": 6, "array uint8 [4, 1, 1, 1]": 1, "array uint8 [2, 1, 1, 1]": 1}
    files = names(tmp_path / "pcam")
    labels = find_labels(tmp_path / "pcam", files)
    train, test = (f"camelyonpatch_level_2_split_{part}_x.h5#x" for part in ("train", "test"))
    assert labels.of == {f"{train}/{index}": name for index, name in enumerate("0110")}
    assert labels.numbered and labels.ignored == 2
    assert find_labels(tmp_path / "pcam", files, "test", "normal,tumour").of == {
        f"{test}/0": "tumour",
        f"{test}/1": "tumour",
    }
    alone = tmp_path / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
    assert find_labels(alone, names(alone)).classes == ["1"]


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 1, 1, 1)])
def test_labels_of_sibling_arrays(tmp_path, shape):
    np.save(tmp_path / "Images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", (np.arange(12) % 2).reshape(shape))
    assert list(find_labels(tmp_path, [f"Images.npy#{n}" for n in range(12)]).of.values()) == ["0", "1"] * 6
    np.save(tmp_path / "labels.npy", np.arange(11))
    with pytest.raises(ValueError, match="labels.npy has 11 labels for 12 images"):
        find_labels(tmp_path, ["Images.npy#0"])


def test_arrays_of_several_npz_have_labels_of_their_own(tmp_path):
    for number in range(2):
        save_npz(tmp_path / f"{number}.npz", x_train=IMAGES[:2], y_train=np.array([number, 2]))
    assert list(find_labels(tmp_path, names(tmp_path)).of.values()) == ["0", "2", "1", "2"]


def test_the_name_of_the_only_array_is_no_class(tmp_path):
    for folder, name in (("TUM", "x"), ("ADI", "data")):
        (tmp_path / folder).mkdir()
        with h5py.File(tmp_path / folder / "a.h5", "w") as file:
            file[name] = IMAGES
    assert set(find_labels(tmp_path, names(tmp_path)).of.values()) == {"TUM", "ADI"}
    beside = [f"{name}.h5#{name}/0" for name in ("x", "mask")]
    for name in ("x", "mask"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[name] = IMAGES
    with pytest.raises(ValueError, match="the class of 'x.h5#x/0' can't be told.*labels or y"):
        find_labels(tmp_path, beside)
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["TUM"], file["ADI"] = IMAGES, IMAGES
    assert find_labels(tmp_path, ["both.h5#TUM/0", "both.h5#ADI/0"]).classes == ["ADI", "TUM"]


# Names of other alphabets, and the level of the classes


def test_a_name_from_macos_and_from_linux_is_one(tmp_path):
    composed, decomposed = "Dr\u00fcse", "Dru\u0308se"
    labels = find_labels(tmp_path, [f"{composed}/x.png", f"{decomposed}/y.png", "核/z.png"])
    assert list(labels.of.values()) == [composed, composed, "核"] and labels.classes == [composed, "核"]
    assert parse_class_names(f"{decomposed},a") == parse_class_names([composed, "a"]) == [composed, "a"]


NCT = [f"{part}/{name}/{number}.tif" for part in ("NCT-100K", "CRC-7K") for name in ("ADI", "TUM") for number in "01"]


def test_the_level_of_the_class_can_be_named(tmp_path):
    assert find_labels(tmp_path, NCT).classes == ["CRC-7K", "NCT-100K"]
    assert find_labels(tmp_path, NCT, class_level=1).classes == ["CRC-7K", "NCT-100K"]
    for level in (2, -1):
        labels = find_labels(tmp_path, NCT, class_level=level)
        assert labels.of == {file: file.split("/")[1] for file in NCT} and labels.note == ""
    zipped = ["a/tiles.zip#organ/TUM/x.png", "a/tiles.zip#organ/ADI/slide/y.png"]
    assert find_labels(tmp_path, zipped, class_level=3).classes == ["ADI", "TUM"]
    assert find_labels(tmp_path, ["train/TUM/x.png", "val/ADI/x.png"], class_level=-1).classes == ["ADI", "TUM"]


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (3, "--class_level 3 asks for a folder that 'NCT-100K/ADI/0.tif' has not: it lies in 2 folders"),
        (-3, "--class_level -3 asks"),
    ],
)
def test_a_level_that_is_not_there_is_refused(tmp_path, level, message):
    with pytest.raises(ValueError, match=message):
        find_labels(tmp_path, NCT, class_level=level)


@pytest.mark.parametrize("level", [0, "2", 1.0, True])
def test_a_level_that_can_not_be_is_refused_at_once(level):
    with pytest.raises(ValueError, match=f"--class_level is {level!r}; it must be an integer from 1, or from -1 down"):
        Drawing(class_level=level)


def test_what_was_taken_for_the_class_is_said_where_another_level_may_be_meant(tmp_path):
    note = find_labels(tmp_path, NCT).note
    assert "the classes are the folders of level 1 (CRC-7K, NCT-100K)" in note
    assert "--class_level 2 takes those below (ADI, TUM), which have the same names" in note
    organs = [f"{organ}/{organ}_{kind}/x.png" for organ in ("lung", "colon") for kind in ("aca", "n")]  # LC25000
    note = find_labels(tmp_path, organs).note
    assert "(colon, lung); --class_level 2 takes those below (colon_aca, colon_n, lung_aca, ...)" in note
    assert "same names" not in note
    assert find_labels(tmp_path, ["TUM/x.png", "ADI/y.png"]).note == ""
