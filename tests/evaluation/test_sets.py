"""Which images are compared: as many of each class on all sides, none twice, and nothing left out in silence."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from candidates import CLASSES, SIDE, fill_pool, keys
from compared import image_set, write_real

from bundle.data.labelled import LabelledPatches
from bundle.data.store import PatchStore
from bundle.downstream.augmented import AugmentedPatches
from bundle.evaluation.comparison import Comparison, wanted_parts
from bundle.evaluation.sets import (
    UNLABELLED,
    cut_equal,
    equal_pictures,
    halves,
    join,
    part_set,
    pool_set,
    selection_set,
    store_set,
    without,
)
from bundle.selection.table import SelectionRow, write_selection
from bundle.synthesis.stored_pool import StoredPool


def cut(synthetic=(9, 8, 7), reference=(5, 6, 7), floor=(6, 4, 9), seed=0):
    sets = [image_set("synthetic", synthetic), image_set("reference", reference, 100), image_set("floor", floor, 200)]
    return sets, cut_equal(*sets, seed)


def test_all_sets_have_as_many_of_each_class():
    sets, equal = cut()
    assert equal.compared == {"ADI": 5, "STR": 4, "TUM": 7} and not equal.notes
    for whole, some, places in zip(sets, equal[:3], equal.places):
        assert some.counts() == equal.compared
        assert len({*places.tolist()}) == len(places) == 16
        assert torch.equal(some.images(), whole.images(places))
        assert [whole.classes[whole.labels[place]] for place in places] == [
            some.classes[label] for label in some.labels
        ]


def test_what_is_drawn_depends_on_the_seed_alone():
    assert all((one == other).all() for one, other in zip(cut()[1].places, cut()[1].places))
    assert any((one != other).any() for one, other in zip(cut()[1].places, cut(seed=1)[1].places))


def test_a_class_that_a_real_set_lacks_is_left_out_with_a_note():
    _, equal = cut(reference=(5, 0, 7), floor=(6, 4, 1))
    assert equal.compared == {"ADI": 5} and equal.synthetic.classes == ["ADI"]
    assert all((one.labels == 0).all() and one.files[0].startswith(one.name) for one in equal[:3])
    assert "class STR is left out" in equal.notes[0] and "the reference has 0 images" in equal.notes[0]
    assert "class TUM is left out" in equal.notes[1] and "the floor has 1 images" in equal.notes[1]
    assert "--floor" in equal.notes[1]


def test_a_class_keeps_its_images_where_another_is_left_out():
    sets, equal = cut(reference=(0, 6, 7))
    assert equal.synthetic.classes == ["STR", "TUM"]
    for whole, some in zip(sets, equal[:3]):
        assert [whole.classes[whole.labels[whole.files.index(file)]] for file in some.files] == [
            some.classes[label] for label in some.labels
        ]


def test_sets_without_a_common_class_are_refused():
    with pytest.raises(ValueError, match="no class can be compared: class ADI .* the reference has 0"):
        cut(reference=(0, 0, 0))


def test_real_sets_that_share_a_picture_are_refused():
    reference, floor = image_set("reference", (4, 4, 4)), image_set("floor", (4, 4, 4), first=11)
    with pytest.raises(
        ValueError, match="1 images are in both the reference and the floor.*'reference/11.png' and 'floor/0"
    ):
        cut_equal(image_set("synthetic", (4, 4, 4), 100), reference, floor, 0)


def test_a_synthetic_image_that_is_a_real_one_is_found():
    synthetic, real = image_set("synthetic", (2, 2, 2)), image_set("reference", (3, 3, 3), first=4)
    assert equal_pictures(synthetic, [image_set("training", (1, 1, 1), 50), real]) == [
        ("synthetic/4.png", "reference", "reference/0.png"),
        ("synthetic/5.png", "reference", "reference/1.png"),
    ]
    assert equal_pictures(synthetic, [image_set("reference", (3, 3, 3), first=6)]) == []


def test_halves_share_nothing_and_are_of_equal_size():
    whole = image_set("reference", (7, 4, 2))
    whole = join("reference", [whole, whole])  # as a published test set has copies
    one, other = halves(whole, seed=0)
    assert one.counts() == other.counts() == {"ADI": 3, "STR": 2, "TUM": 1}
    assert not {*one.digests} & {*other.digests} and len({*one.digests}) == 6
    assert (one.name, other.name) == ("reference", "floor")
    assert [of.origin["half"] for of in (one, other)] == ["one", "the other"] and "half" not in whole.origin
    assert halves(whole, seed=1)[0].digests != one.digests


def test_sets_are_joined_and_thinned():
    one, other = image_set("training", (2, 1), classes=["a", "b"]), image_set("x", (2,), 10, classes=[UNLABELLED])
    both = join("training", [one, other])
    assert both.counts() == {"a": 2, "b": 1, UNLABELLED: 2} and both.files == one.files + other.files
    assert torch.equal(both.images(), torch.cat([one.images(), other.images()]))
    assert both.origin == {"of": [one.origin, other.origin]} and join("x", [one]).origin == one.origin
    assert without(both, {one.digests[1]}).files == [both.files[place] for place in (0, 2, 3, 4)]
    assert without(both, set()) is both


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write_real(tmp_path_factory.mktemp("real"), unused=4, test=5)


@pytest.fixture
def labelled(real, tmp_path):
    def make(**settings):
        paths = {"cache_dir": tmp_path / "cache", "split_path": tmp_path / "split.csv"}
        return LabelledPatches(**{**real, **paths, "patch_size": SIDE, **settings})

    return make


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return fill_pool(tmp_path_factory.mktemp("made") / "pool", keys(4))


def test_a_part_of_the_labelled_images_is_a_set(labelled):
    patches = labelled()
    found = part_set("reference", patches, "test")
    assert found.counts() == dict.fromkeys(CLASSES, 5) and found.origin["part"] == "test"
    part = patches.part("test")
    assert found.files == part.files and torch.equal(found.read(4), part.read(4)["image"])


def test_a_pool_is_a_set_of_images_that_say_so(pool, tmp_path):
    found = pool_set(StoredPool(pool, SIDE), CLASSES)
    assert found.files[:2] == ["ADI/ADI_0.png", "ADI/ADI_1.png"] and found.counts() == dict.fromkeys(CLASSES, 4)
    assert np.array_equal(found.read(5).permute(1, 2, 0), StoredPool(pool, SIDE).read("STR", 1))
    assert found.origin["generator"] == "test" and found.origin["pool"] == str(pool)
    broken = tmp_path / "pool"
    shutil.copytree(pool, broken)
    shutil.copy(broken / "ADI/ADI_1.png", broken / "TUM/TUM_1.png")
    with pytest.raises(ValueError, match="TUM_1.png does not belong to this pool"):
        pool_set(StoredPool(broken, SIDE), CLASSES).images()
    (broken / "TUM/TUM_1.png").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="TUM/TUM_1.png: .*Remove it, and judge the pool without it"):
        pool_set(StoredPool(broken, SIDE), CLASSES).images()
    for image in [*broken.glob("STR/*.png")][1:]:
        image.unlink()
    with pytest.raises(ValueError, match="has 1 image of the class 'STR'.*--classes STR"):
        pool_set(StoredPool(broken, SIDE), CLASSES)
    shutil.rmtree(broken / "STR")
    with pytest.raises(ValueError, match="has no image of the class 'STR'.*--classes STR"):
        pool_set(StoredPool(broken, SIDE), CLASSES)
    with pytest.raises(ValueError, match="the class 'TUM' is not one of the labelled images"):
        pool_set(StoredPool(broken, SIDE), ["ADI", "STR"])


def write_rows(path, pool, labelled, ratios):
    """A selection of the given smallest (selective, random) ratios by class and seed, "" for none."""
    from bundle.data.split import fingerprint_split

    rows = []
    for name in CLASSES:
        for seed, (ratio, random_ratio) in enumerate(ratios):
            kept = ratio is not None
            facts = (name, seed, 0.9, 0.1, 1.0, name, seed + 1, kept, "kept" if kept else "beyond the quota")
            rows.append(SelectionRow(f"{name}/{name}_{seed}.png", *facts, ratio, random_ratio))
    quotas = {name: {25: 2, 50: 3} for name in CLASSES}
    facts = {
        "pool": pool,
        "pool_hash": StoredPool(pool, SIDE).prepare().hash,
        "split": fingerprint_split(labelled.rows),
    }
    facts |= {"classes": list(CLASSES), "ratios": [25, 50], "labelled": dict.fromkeys(CLASSES, 8), "quotas": quotas}
    facts |= {"shortfall": {name: {25: 0, 50: 0} for name in CLASSES}, "settings": {}}
    return write_selection(path, rows, facts)


def test_a_selection_is_a_set(labelled, pool, tmp_path):
    patches = labelled().prepare()
    file = write_rows(tmp_path / "selection.csv", pool, patches, [(25, None), (25, 25), (50, 25), (None, 50)])

    def seeds(**settings):
        found = selection_set(AugmentedPatches(patches, file, **settings))
        assert found.counts() == dict.fromkeys(CLASSES, len(found) // 3)
        return [int(name[8:-4]) for name in found.files if name.startswith("TUM")]

    assert seeds() == [0, 1, 2] and seeds(ratio=25) == [0, 1]
    assert seeds(selection="random", ratio=25) == [1, 2] and seeds(selection="random") == [1, 2, 3]
    found = selection_set(AugmentedPatches(patches, file, 25))
    assert found.origin["ratio"] == 25 and found.origin["selection"] == "selective"
    assert np.array_equal(found.read(0).permute(1, 2, 0), StoredPool(pool, SIDE).read("ADI", 0))
    write_rows(file, pool, patches, [(25, 25), (None, None), (None, None), (None, None)])
    with pytest.raises(
        ValueError, match="has 1 selective images of the class 'ADI' at 50 %.*--classes ADI.*--pool_dir"
    ):
        selection_set(AugmentedPatches(patches, file))


def test_unlabelled_patches_are_taken_evenly(real, tmp_path):
    store = PatchStore(real["dataset_dir"], SIDE, tmp_path)
    whole, few = store_set("training", store, 1000), store_set("training", store, 4)
    assert len(whole) == 36 and few.files == [whole.files[place] for place in (0, 12, 23, 35)]
    assert torch.equal(few.read(1), whole.read(12)) and few.counts() == {UNLABELLED: 4}
    assert (few.origin["found"], few.origin["used"]) == (36, 4)


# The roles of an evaluation.


@pytest.fixture
def comparison(labelled, pool):
    def make(labels=None, **settings):
        patches = labelled(**(labels or {}))
        return Comparison(patches, StoredPool(pool, SIDE), AugmentedPatches(patches), **settings).prepare()

    return make


def test_the_roles_are_those_asked_for(comparison):
    made = comparison()
    assert made.equal.compared == dict.fromkeys(CLASSES, 4)
    assert [len(one) for one in (made.synthetic, made.reference, made.floor, made.training, made.held_out)] == [
        12, 15, 12, 18, 12
    ]  # fmt: skip
    assert made.reference.origin["part"] == "test" and made.floor.origin["part"] == "unused"
    facts = made.describe()
    assert facts["training"]["images"] == dict.fromkeys(CLASSES, 6) and facts["training"]["part"] == "train"
    assert facts["synthetic"]["fingerprint"] == made.synthetic.fingerprint
    assert made.marks == {"Generator": "test", "ModelHash": "a" * 64}
    notes = " ".join(made.notes)
    assert "--pretraining_dir" in notes and "--floor halves shows the reference against itself" in notes
    assert "the floor's images are among those that the judge learned from" in notes
    swapped = comparison(reference="unused", floor="test", held_out="test")
    assert swapped.reference.digests == made.floor.digests and swapped.floor.digests == made.reference.digests
    assert swapped.held_out.digests == made.reference.digests


def test_without_other_real_images_the_reference_is_halved(comparison, real, tmp_path):
    asked = comparison(floor="halves")
    split = tmp_path / "without.csv"
    lines = Path(real["split_file"]).read_text().splitlines(keepends=True)
    split.write_text("".join(line for line in lines if ",unused" not in line))
    forced = comparison({"split_file": split, "split_path": tmp_path / "other.csv"})
    for made in (asked, forced):
        assert made.reference.counts() == made.floor.counts() == made.equal.compared == dict.fromkeys(CLASSES, 2)
        assert not {*made.reference.digests} & {*made.floor.digests}
    assert forced.reference.digests == asked.reference.digests
    assert len(asked.held_out) == 12 and forced.held_out.digests == forced.reference.digests
    said = " ".join(forced.notes)
    assert "the reference is cut into two halves" in said and "the copy report holds the reference" in said
    assert "cut into two halves" not in " ".join(asked.notes) and "--floor halves" not in said


def test_patches_of_the_pretraining_are_searched_for_copies(comparison, real, tmp_path):
    """Those of the whole dataset: then nothing of it is held out."""
    store = PatchStore(real["dataset_dir"], SIDE, tmp_path / "more")
    made = comparison(pretraining=store, held_out="test")
    assert made.training.counts() == {**dict.fromkeys(CLASSES, 6), UNLABELLED: 36} and len(made.held_out) == 15
    made = comparison(pretraining=store)
    assert len(made.held_out) == 0 and "12 held-out images are left out" in " ".join(made.notes)
    few = comparison(pretraining=store, held_out="test", maximum_training=5)
    assert few.training.counts()[UNLABELLED] == 5
    assert any("5 of 36 patches of the pre-training: raise --maximum_training" in note for note in few.notes)


def test_bad_roles_are_refused(comparison, tmp_path):
    no_test = {"test_dir": None, "parts": ["train", "unused"], "split_path": tmp_path / "no_test.csv"}
    for settings, message in (
        ({"reference": "train5"}, "--reference is 'train5'; it must be one of train, validation, unused, test"),
        ({"floor": "none"}, "--floor is 'none'; it must be one of .*halves"),
        ({"reference": "halves"}, "--reference is 'halves'"),
        ({"held_out": "train"}, "--held_out is 'train'"),
        ({"floor": "test"}, "15 images are in both the reference and the floor.*--floor"),
        ({"labels": no_test}, "there are no images in the part 'test'.*--test_dir"),
    ):
        with pytest.raises(ValueError, match=message):
            comparison(**settings)


def test_only_the_parts_that_are_needed_are_looked_up():
    assert wanted_parts("test", "unused", "unused") == ["train", "validation", "test", "unused"]
    assert wanted_parts("judge_validation", "halves", "test") == ["train", "validation", "unused", "test"]
