"""Labelled patches: their parts, and the images that may not be among them."""

from __future__ import annotations

import csv
import logging
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from bundle.data.generated import write_generated_patches
from bundle.data.guards import require_no_synthetic
from bundle.data.hashes import read_hashes, write_hashes
from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset, StepDataLoader
from bundle.data.marks import ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA, save_marked_png
from bundle.data.sources import read_rgb
from bundle.data.split import PARTS, SplitRow, read_split, write_split

SIDE = 16


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """data/train with ADI (10 images), LYM (8), TUM (6), and data/test with two of each."""
    for first, (name, count) in enumerate({"ADI": 10, "LYM": 8, "TUM": 6}.items()):
        for number in range(count):
            save(tmp_path / "data" / "train" / name / f"{number}.png", 100 * first + number)
        for number in range(2):
            save(tmp_path / "data" / "test" / name / f"{number}.png", 1000 + 100 * first + number)
    return tmp_path / "data"


@pytest.fixture
def patches(data, tmp_path):
    """Makes LabelledPatches of `data`, or of other sources; the run's folder is `run`."""

    def make(dataset="train", test="test", run="run", **settings):
        dataset, test = (None if name is None else data / name for name in (dataset, test))
        split_path = tmp_path / run / "split.csv"
        return LabelledPatches(dataset, test, SIDE, tmp_path / "cache", split_path, **settings)

    return make


def refused(patches: LabelledPatches, message: str, error=ValueError) -> None:
    with pytest.raises(error, match=message):
        patches.prepare()
    assert not patches.split_path.exists()


def totals(patches: LabelledPatches) -> dict[str, int]:
    return {part: sum(counts.values()) for part, counts in patches.counts().items()}


# The parts


def test_nothing_happens_before_prepare(tmp_path):
    asked = []
    patches = LabelledPatches("absent", "absent", lambda: asked.append(1), tmp_path / "cache", tmp_path / "split.csv")
    dataset = ItemDataset(patches.part("train"))
    assert not asked and not list(tmp_path.iterdir())
    patches.patch_size = SIDE
    with pytest.raises(FileNotFoundError, match="--test_dir: there is no folder or archive 'absent'"):
        len(dataset)


def test_parts_hold_their_images_with_labels(patches, data):
    made = patches(labels_per_class=4, validation_share=0.25, pretraining_hashes=set)
    made.patch_size = lambda: SIDE
    made.prepare()
    assert made.classes == ["ADI", "LYM", "TUM"] and made.patch_size == SIDE and not made.built_in
    assert made.counts() == {
        "train": {"ADI": 3, "LYM": 3, "TUM": 3},
        "validation": {"ADI": 1, "LYM": 1, "TUM": 1},
        "unused": {"ADI": 6, "LYM": 4, "TUM": 2},
        "test": {"ADI": 2, "LYM": 2, "TUM": 2},
    }
    seen = set()
    for name in PARTS:
        part = made.part(name)
        assert len(part) == len(part.files) == len(part.labels) == len(part.sha256) and part.weighted_items() is None
        for index, (file, label, digest) in enumerate(zip(part.files, part.labels, part.sha256)):
            item = part.read(index)
            assert item["image"].dtype == torch.uint8 and item["label"] == label and type(item["label"]) is int
            assert made.classes[label] == file.split("/")[0]
            rgb = read_rgb(data / ("test" if name == "test" else "train"), file)
            np.testing.assert_array_equal(item["image"].permute(1, 2, 0), rgb)
            seen.add(digest)
    assert len(seen) == sum(totals(made).values()) == 30
    with pytest.raises(ValueError, match="part 'training' is unknown: use one of train, validation"):
        made.part("training")


def test_parts_go_through_the_loader(patches):
    made = patches(labels_per_class=4)
    loader = StepDataLoader(ItemDataset(made.part("train")), batch_size=4, steps=3, seed=0)
    batches = list(loader)
    assert len(batches) == 3 and batches[0]["image"].shape == (4, 3, SIDE, SIDE) and batches[0]["label"].shape == (4,)


def test_what_was_found_is_said_and_described(patches, data, caplog):
    shutil.rmtree(data / "test" / "LYM")
    with caplog.at_level(logging.INFO):
        made = patches(label_fraction=0.5).prepare()
    text = caplog.text
    assert " ".join(text.split("\nclass")[1].split()[:9]) == "train validation unused test ADI 4 1 5 2"
    assert " ".join(text.split("\ntotal")[1].split()[:4]) == "9 3 12 4"
    for expected in (
        "without a test image: LYM",
        "could not be checked: whether the pre-training",
        str(made.split_path),
    ):
        assert expected in text
    facts = made.describe()
    assert facts["patches"]["test"] == {"ADI": 2, "LYM": 0, "TUM": 2} and facts["built_in_patches"] is False
    assert facts["classes"] == made.classes and facts["pretraining_overlap"] is None
    assert facts["fingerprint"] == made.fingerprint


def test_the_fingerprint_is_of_what_is_learned_from(patches, data):
    first = patches(labels_per_class=4).prepare()
    assert patches(labels_per_class=4, test=None, run="no test").fingerprint == first.fingerprint
    others = [patches(labels_per_class=4, run="seed", seed=1), patches(labels_per_class=5, run="more")]
    others.append(patches(labels_per_class=4, run="stain", normalise_stain=True))
    others.append(patches(labels_per_class=4, run="size"))
    others[-1].patch_size = 8
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert len({first.part(name).fingerprint for name in PARTS}) == 4
    (data / "train" / "TUM").rename(data / "train" / "STR")
    (data / "test" / "TUM").rename(data / "test" / "STR")
    assert patches(labels_per_class=4, run="name").fingerprint != first.fingerprint


def test_a_judge_learns_from_what_nothing_else_uses(patches):
    assert not patches(labels_per_class=6).judged
    judged = patches(labels_per_class=3, run="judged")
    assert judged.judged
    training, validation = (set(judged.part(f"judge_{name}").files) for name in ("training", "validation"))
    assert training | validation == set(judged.part("unused").files) and not training & validation


def test_without_a_number_of_labels_a_share_is_left_for_the_judge(patches):
    shared = patches(judge_share=0.5)
    labelled, left = (sum(shared.counts()[part].values()) for part in ("train", "unused"))
    labelled += sum(shared.counts()["validation"].values())
    assert labelled == left and shared.judged
    assert not patches(run="all").part("judge_training").rows
    with pytest.raises(ValueError, match="--judge_share is 1"):
        patches(judge_share=1, run="none")


def test_a_part_may_be_limited_evenly_over_its_classes(patches):
    made = patches(labels_per_class=4)
    whole, few = made.part("test"), made.part("test", 3)
    assert len(few) == 3 and set(few.labels) == set(whole.labels) and set(few.files) <= set(whole.files)
    assert len(made.part("test", 1000)) == len(whole)
    assert few.fingerprint != whole.fingerprint


# Archives


def test_a_wrapper_folder_in_a_zip(patches, data):
    with zipfile.ZipFile(data / "NCT.zip", "w") as archive:
        for path in sorted((data / "train").rglob("*.png")):
            archive.write(path, f"NCT-CRC-HE-100K/{path.relative_to(data / 'train').as_posix()}")
    made = patches("NCT.zip", labels_per_class=4).prepare()
    assert made.classes == ["ADI", "LYM", "TUM"]
    assert made.part("train").files[0].startswith("NCT.zip#NCT-CRC-HE-100K/ADI/")
    folder = patches(labels_per_class=4, run="folder").prepare()
    assert folder.fingerprint == made.fingerprint, "the same pixels in the same order of names"


def test_one_npz_for_dataset_and_test(patches, data, caplog):
    images = np.stack([picture(number) for number in range(24)])
    arrays = {"train_images": images[:12], "val_images": images[12:16], "test_images": images[16:]}
    arrays |= {name.replace("images", "labels"): np.arange(len(array))[:, None] % 2 for name, array in arrays.items()}
    np.savez(data / "pathmnist.npz", **arrays)
    with caplog.at_level(logging.INFO):
        made = patches("pathmnist.npz", "pathmnist.npz", class_names="TUM,ADI").prepare()
    assert made.classes == ["TUM", "ADI"], "in the order of the numbers"
    assert totals(made) == {"train": 10, "validation": 2, "unused": 0, "test": 8}
    part = made.part("test")
    assert {file.split("/")[0] for file in part.files} == {"pathmnist.npz#test_images"}
    for index, file in enumerate(part.files):
        number = int(file.split("/")[1])
        np.testing.assert_array_equal(part.read(index)["image"].permute(1, 2, 0), images[16 + number])
        assert part.labels[index] == number % 2
    assert "than the dataset's: 12" in caplog.text and "than the test's: 16" in caplog.text
    again = patches("pathmnist.npz", "pathmnist.npz", run="again", split_file=made.split_path).prepare()
    assert again.classes == made.classes and again.fingerprint == made.fingerprint


# What may not be


def test_an_image_in_the_test_set_is_found_by_its_pixels(patches, data):
    Image.open(data / "train" / "ADI" / "3.png").save(data / "test" / "TUM" / "other name.bmp")
    message = "1 images are in two parts.*train/ADI/3.png .unused. and .*test/TUM/other name.bmp .test.*--test_dir"
    refused(patches(labels_per_class=2, seed=1), message)
    refused(patches(test="train"), "ADI/.*.png .train. and .*ADI/.*.png .test.")


def test_an_image_with_two_classes_is_refused(patches, data):
    Image.open(data / "train" / "ADI" / "3.png").save(data / "train" / "TUM" / "copy.bmp")
    refused(patches(), "'ADI/3.png' .class 'ADI'. and 'TUM/copy.bmp' .class 'TUM'. have the same pixels. Remove")


def test_copies_within_a_class_are_left_out(patches, data, caplog):
    without = patches(labels_per_class=4).prepare()
    for number in (3, 5):
        Image.open(data / "train" / "ADI" / f"{number}.png").save(data / "train" / "ADI" / f"z{number}.tif")
    with caplog.at_level(logging.INFO):
        made = patches(labels_per_class=4, run="copies").prepare()
    assert "the same pixels as another image of the class: 2" in caplog.text
    assert made.rows == without.rows


def test_images_that_the_pretraining_saw_are_refused(patches, tmp_path):
    made = patches().prepare()
    tested, learned = made.part("test"), made.part("train")
    file = write_hashes(tmp_path / "image_hashes.txt", [*tested.sha256, learned.sha256[0]])
    message = (
        f"the pre-training saw 7 of .*train/{learned.files[0]}, .*, .*, .... .*--labelled#pretraining_overlap allow"
    )
    refused(patches(run="again", pretraining_hashes=lambda: read_hashes(file)), message)
    validated = set(made.part("validation").sha256[:1])
    refused(patches(run="again", pretraining_hashes=lambda: validated), "the pre-training saw 1 of")


def test_images_that_the_pretraining_saw_may_be_allowed(patches, caplog):
    seen = set(patches().prepare().part("test").sha256)
    with caplog.at_level(logging.INFO):
        allowed = patches(run="allowed", pretraining_overlap="allow", pretraining_hashes=lambda: seen).prepare()
    assert allowed.describe()["pretraining_overlap"] == 6 and "--labelled#pretraining_overlap allows: 6" in caplog.text


@pytest.mark.parametrize(("known", "count"), [({"0" * 64}, 0), (None, None)])
def test_whether_the_pretraining_is_known_is_said(patches, known, count):
    made = patches(
        pretraining_hashes=lambda: known, pretraining_overlap="allow" if known is None else "forbid"
    ).prepare()
    assert made.describe()["pretraining_overlap"] == count
    assert ("could not be checked: whether the pre-training" in made.summary()) == (known is None)


def test_unused_images_may_have_been_seen(patches):
    unused = set(patches(labels_per_class=2).prepare().part("unused").sha256)
    made = patches(labels_per_class=2, pretraining_hashes=lambda: unused).prepare()
    assert made.describe()["pretraining_overlap"] == 0


@pytest.mark.parametrize("place", ["train", "test"])
@pytest.mark.parametrize("name", ["made.png", "renamed.jpg"])
def test_images_made_by_a_model_are_refused(patches, data, place, name):
    save_marked_png(data / place / "TUM" / "made.png", picture(7777), TRAINED_ALGORITHMIC_MEDIA)
    (data / place / "TUM" / "made.png").rename(data / place / "TUM" / name)
    refused(patches(), f"1 images are marked as synthetic: .*{place}/TUM/{name}. .*must be real: remove")


def test_every_form_of_the_mark_is_refused(tmp_path):
    real = save(tmp_path / "real.png", 0)
    fields = PngImagePlugin.PngInfo()
    fields.add_text("SyntheticData", "YES", zip=True)
    Image.fromarray(picture(1)).save(tmp_path / "compressed.png", pnginfo=fields)
    save_marked_png(tmp_path / "other.png", picture(2), ALGORITHMIC_MEDIA)  # procedural, and not the bundle's
    innocent = PngImagePlugin.PngInfo()
    innocent.add_text("Software", "scanner")
    Image.fromarray(picture(3)).save(tmp_path / "innocent.png", pnginfo=innocent)
    (tmp_path / "torn.png").write_bytes(real.read_bytes()[:20])
    harmless = [real, tmp_path / "innocent.png", tmp_path / "torn.png", tmp_path / "a.zip#x.png", real / "x.png"]
    assert require_no_synthetic(harmless) is False
    for name in ("compressed.png", "other.png"):
        with pytest.raises(ValueError, match=f"1 images are marked as synthetic: .*{name}"):
            require_no_synthetic([*harmless, tmp_path / name])


def test_procedural_patches_only_by_themselves(patches, data, tmp_path):
    write_generated_patches(
        data / "made", [0], 2, SIDE, group_by="class", classes=["ADI", "LYM", "TUM"], progress=False
    )
    assert patches("made", None, run="made").prepare().built_in
    message = "of .* images are procedural patches.*made/ADI/.*--dataset_dir"
    refused(patches("train", "made", run="mixed"), message)
    refused(patches("made", "test", run="mixed"), message)


def test_unmarked_pictures_are_not_decoded_for_their_marks(patches, monkeypatch):
    """Pillow decodes a picture to find the marks behind it, which would take longer than all else."""

    def read(path):
        raise AssertionError(f"{path} is read for marks that it can't have")

    monkeypatch.setattr("bundle.data.guards.read_marks", read)
    patches().prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test": "odd"},
            "the test set .*odd has class 'STR', and the dataset has only .'ADI', 'LYM', 'TUM'.*--test_dir",
        ),
        ({"dataset": ""}, "'test', 'train'. are parts of a dataset.*--dataset_dir .*data/train --test_dir .*data/test"),
        ({"class_names": "a,b,c"}, "--class_names a,b,c is given, and .*train names its classes.*Leave it out"),
        ({"labels_per_class": 7}, "--labels_per_class is 7, and class 'TUM' has 6 images"),
    ],
)
def test_unfit_data_are_refused(patches, data, settings, message):
    if settings.get("test") == "odd":
        save(data / "odd" / "STR" / "0.png", 5)
        save(data / "odd" / "TUM" / "0.png", 6)
    refused(patches(**settings), message)


@pytest.mark.parametrize("several", ["a,b", ["a", "b"], {"a": 1, "b": 2}])
def test_several_datasets_are_refused(several, tmp_path):
    patches = LabelledPatches(several, None, SIDE, tmp_path / "cache", tmp_path / "split.csv")
    refused(
        patches, "--dataset_dir.*one folder or archive|--dataset_dir.*One is needed", (ValueError, FileNotFoundError)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretraining_overlap": "ignore"}, "--labelled#pretraining_overlap is 'ignore'; it must be forbid or allow"),
        ({"split_file": "s.csv", "label_fraction": 0.1}, "--split_file s.csv .*--label_fraction 0.1: leave one out"),
        ({"split_file": "s.csv", "labels_per_class": 5}, "--labels_per_class 5: leave one out"),
    ],
)
def test_settings_that_contradict_are_refused_at_once(patches, settings, message):
    with pytest.raises(ValueError, match=message):
        patches(**settings)


# The split that is kept


def test_the_split_is_written_and_kept(patches, data):
    made = patches(labels_per_class=4).prepare()
    assert read_split(made.split_path) == made.rows
    before = made.split_path.read_bytes()
    again = patches(labels_per_class=4).prepare()
    assert again.rows == made.rows and made.split_path.read_bytes() == before
    message = f"{made.split_path} was drawn with other.*--split_file {made.split_path}.*--output_dir"
    for settings in (
        {"labels_per_class": 5},
        {"labels_per_class": 4, "seed": 1},
        {"labels_per_class": 4, "test": None},
    ):
        with pytest.raises(ValueError, match=message):
            patches(**settings).prepare()
    save(data / "train" / "ADI" / "new.png", 555)
    with pytest.raises(ValueError, match=message):
        patches(labels_per_class=4).prepare()
    assert made.split_path.read_bytes() == before
    kept = patches(split_file=made.split_path).prepare()  # the way out that the message names
    assert kept.rows == made.rows and made.split_path.read_bytes() == before and kept.fingerprint == made.fingerprint
    assert f"left out, not in {made.split_path}: 1" in kept.summary()


def test_the_split_does_not_depend_on_the_order_of_listing(patches, monkeypatch):
    import bundle.data.store as store

    made = patches(labels_per_class=4).prepare()
    list_source = store.list_source

    def reversed_source(root):
        listing = list_source(root)
        listing.items.reverse()
        return listing

    monkeypatch.setattr(store, "list_source", reversed_source)
    again = patches(labels_per_class=4, run="again").prepare()
    assert again.store.files[0] != made.store.files[0]
    assert again.split_path.read_bytes() == made.split_path.read_bytes() and again.fingerprint == made.fingerprint
    assert torch.equal(again.part("train").read(0)["image"], made.part("train").read(0)["image"])


def test_a_users_own_split_of_one_folder(patches, data, tmp_path):
    """Labels and parts come from the table, so that the images may lie in one folder, the test ones as well."""
    every = patches(test=None, run="hashes").prepare().rows
    rows = []
    for row in sorted(every):
        number = int(Path(row.file).stem)
        name = f"{row.label.lower()}{number}.png"
        (data / "flat").mkdir(exist_ok=True)
        shutil.copy(data / "train" / row.file, data / "flat" / name)
        part = ("train", "train", "validation", "test", "unused", "left out")[min(number, 5)]
        rows.append(SplitRow(name, row.sha256, row.label, part))
    own = write_split(tmp_path / "own.csv", [row for row in rows if row.part != "left out"])
    made = patches("flat", None, split_file=own).prepare()
    assert totals(made) == {"train": 6, "validation": 3, "unused": 3, "test": 3}
    assert made.classes == ["ADI", "LYM", "TUM"] and made.part("test").files == ["adi3.png", "lym3.png", "tum3.png"]
    assert f"left out, not in {own}: 9" in made.summary()
    assert made.describe()["split_file"] == str(own)
    assert sorted(read_split(made.split_path)) == sorted(read_split(own))


def test_a_split_without_test_rows_tests_on_the_whole_test_set(patches):
    own = patches(labels_per_class=4, test=None).prepare().split_path
    assert totals(patches(split_file=own, run="own").prepare())["test"] == 6


def test_parts_of_a_split_that_are_not_asked_for_need_no_images(patches, data):
    whole = patches(labels_per_class=4).prepare()
    shutil.rmtree(data / "test")
    for row in whole.parts["unused"]:
        (data / "train" / row.file).unlink()
    made = patches(test=None, split_file=whole.split_path, run="own", parts=("train", "validation")).prepare()
    assert made.rows == whole.parts["train"] + whole.parts["validation"] and made.classes == whole.classes
    assert made.fingerprint == whole.fingerprint and "left out" not in made.summary()
    refused(patches(test=None, split_file=whole.split_path, run="other"), "is not a readable image of")


def test_built_in_test_patches_are_made_where_they_are_asked_for(patches, tmp_path):
    own = patches(dataset=None, test=None, generated_per_class=6, labels_per_class=4).prepare().split_path
    shutil.rmtree(tmp_path / "cache")
    settings = {"dataset": None, "test": None, "generated_per_class": 6, "split_file": own}
    patches(**settings, run="own", parts=("train", "validation")).prepare()
    assert (tmp_path / "cache/generated_labelled").is_dir() and not (tmp_path / "cache/generated_test").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: (data / "train/ADI/0.png").unlink(),
            "split.csv lists 'ADI/0.png', which is not a readable image",
        ),
        (
            lambda data: save(data / "train/ADI/0.png", 99),
            "'ADI/0.png', which has other pixels in .*train.*--dataset_dir",
        ),
        (lambda data: save(data / "test/TUM/1.png", 99), "'TUM/1.png', which has other pixels in .*test.*--test_dir"),
    ],
)
def test_a_split_of_other_images_is_refused(patches, data, change, message):
    own = patches().prepare().split_path
    change(data)
    refused(patches(split_file=own, run="own"), message)


def test_a_split_with_an_image_in_two_parts_is_refused(patches, data, tmp_path):
    rows = patches(labels_per_class=4).prepare().rows
    moved = next(row for row in rows if row.part == "train")
    shutil.copy(data / "train" / moved.file, data / "train" / "ADI" / "copy.png")
    copy = SplitRow("ADI/copy.png", moved.sha256, "ADI", "validation")
    own = write_split(tmp_path / "own.csv", [*rows, copy])
    refused(patches(split_file=own, run="own"), f"{moved.file} .train. and .*ADI/copy.png .validation.*--split_file")
    own = write_split(tmp_path / "own.csv", [*rows, copy._replace(label="TUM")])
    refused(patches(split_file=own, run="own"), "have the same pixels")


# What there is without a user's data, and with it


def test_built_in_patches(tmp_path, caplog):
    from bundle.data.patches import TrainingPatches

    pretraining = TrainingPatches(None, tmp_path / "cache", SIDE, generated_per_class=6)  # slides 0 to 5
    settings = {"generated_per_class": 6, "pretraining_hashes": lambda: set(pretraining.prepare().store.sha256)}
    made = LabelledPatches(None, None, SIDE, tmp_path / "cache", tmp_path / "split.csv", **settings)
    with caplog.at_level(logging.INFO):
        made.prepare()
    assert "not tissue" in caplog.text
    assert made.built_in and made.describe()["built_in_patches"] and len(made.classes) == 9
    assert totals(made) == {"train": 45, "validation": 9, "unused": 0, "test": 18}
    assert made.describe()["pretraining_overlap"] == 0
    assert {row.file.split("slide_")[1][:2] for row in made.rows} == {"06", "07"}
    seen = LabelledPatches(
        None, None, SIDE, tmp_path / "other", tmp_path / "other.csv", generated_slide=5, **settings
    )  # fmt: skip
    refused(seen, "the pre-training saw 54 of .*generated_labelled/.*--generated_slide")


def test_real_patches(real_data, tmp_path):
    folder = real_data / "crc7"
    made = LabelledPatches(
        folder / "train", folder / "test", 32, tmp_path / "cache", tmp_path / "split.csv", labels_per_class=40
    ).prepare()
    assert made.classes == ["ADI", "BACK", "LYM", "MUC", "MUS", "NORM", "TUM"]
    assert totals(made) == {"train": 224, "validation": 56, "unused": 1724, "test": 1120}
    assert set(made.counts()["train"].values()) == {32} and set(made.counts()["test"].values()) == {160}
    with open(tmp_path / "split.csv", newline="") as stream:
        assert len(list(csv.reader(stream))) == 1 + 2004 + 1120
    assert made.part("test").read(0)["image"].shape == (3, 32, 32)


def test_a_judge_does_not_learn_from_what_the_pretraining_saw(patches):
    plain = patches(labels_per_class=3, run="plain")
    unused = plain.part("unused")
    seen = unused.sha256[0]
    made = patches(labels_per_class=3, run="seen", pretraining_hashes=lambda: {seen})
    judging = {*made.part("judge_training").sha256, *made.part("judge_validation").sha256}
    assert judging == set(unused.sha256) - {seen}


def test_a_split_from_macos_is_found_elsewhere(tmp_path):
    """Names that a Mac hands out decomposed, in folders, in the split, and for the class."""
    composed, decomposed = "Dr\u00fcse", "Dru\u0308se"
    splits = []
    for system, name in (("linux", composed), ("macos", decomposed)):
        for number in range(4):
            save(tmp_path / system / name / f"{name}{number}.png", number)
            save(tmp_path / system / "TUM" / f"{number}.png", 10 + number)
        run = tmp_path / f"run_{system}"
        made = LabelledPatches(tmp_path / system, None, SIDE, tmp_path / "cache", run / "split.csv").prepare()
        assert made.classes == [composed, "TUM"] and made.part("train").read(0)["image"].shape[1] == SIDE
        splits.append((run / "split.csv").read_text(encoding="utf-8"))
    assert splits[0] == splits[1] and composed in splits[0]
    settings = {"split_file": tmp_path / "run_macos" / "split.csv", "parts": ("train", "validation")}
    moved = LabelledPatches(
        tmp_path / "linux", None, SIDE, tmp_path / "cache", tmp_path / "x" / "split.csv", **settings
    )
    assert len(moved.prepare().rows) == 8


def test_a_folder_as_of_pcam_is_dataset_and_test_set(tmp_path):
    """Images, labels and masks in files of their own, training and test set beside each other."""
    (tmp_path / "pcam").mkdir()
    for part, first in (("train", 0), ("test", 100)):
        images = np.stack([picture(first + number) for number in range(8)])
        labels = (np.arange(8) % 2).reshape(-1, 1, 1, 1)
        for kind, array in {"x": images, "y": labels, "mask": images[..., :1]}.items():
            with h5py.File(tmp_path / "pcam" / f"split_{part}_{kind}.h5", "w") as file:
                file[kind] = array
    folder, run = tmp_path / "pcam", tmp_path / "run" / "split.csv"
    made = LabelledPatches(folder, folder, SIDE, tmp_path / "cache", run, class_names="normal,tumour").prepare()
    assert made.classes == ["normal", "tumour"] and totals(made) == {
        "train": 6,
        "validation": 2,
        "unused": 0,
        "test": 8,
    }
    assert all(row.file.startswith(f"split_{'test' if row.part == 'test' else 'train'}_x.h5#x/") for row in made.rows)
    row = made.parts["test"][0]
    np.testing.assert_array_equal(made.image(row).permute(1, 2, 0), picture(100 + int(row.file.rpartition("/")[2])))


def test_the_level_of_the_class_is_said_and_chosen(tmp_path, caplog):
    for number in range(8):
        save(tmp_path / "data" / f"patient{number % 2}" / ("TUM", "ADI")[number // 4] / f"{number}.png", number)
    sources = {"test_dir": None, "patch_size": SIDE, "cache_dir": tmp_path / "cache"}
    first = LabelledPatches(tmp_path / "data", split_path=tmp_path / "1" / "split.csv", **sources)
    with caplog.at_level(logging.INFO):
        assert first.prepare().classes == ["patient0", "patient1"]
    assert "dataset: the classes are the folders of level 1 (patient0, patient1); --class_level 2 takes" in caplog.text
    chosen = LabelledPatches(tmp_path / "data", split_path=tmp_path / "2" / "split.csv", class_level=-1, **sources)
    assert chosen.prepare().classes == ["ADI", "TUM"] and "the classes are" not in chosen.summary()
