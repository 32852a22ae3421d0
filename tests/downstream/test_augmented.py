"""Real and selected images as one source: which, in what order and how often; and what is refused."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from chosen import IDENTITY, synthetic_picture, write_chosen, write_pool
from PIL import Image

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset, StepDataLoader
from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, save_marked_png
from bundle.data.split import fingerprint_split
from bundle.data.stain import macenko_normalise
from bundle.downstream.augmented import AugmentedPatches
from bundle.runs.sums import content_hash

SIDE = 16
CLASSES = ["ADI", "LYM", "TUM"]


def tissue(seed, side=SIDE):
    """Two stains in random amounts, so that there is something to normalise."""
    random = np.random.default_rng(seed)
    density = random.uniform(0.2, 1.5, (side, side, 2)) @ np.array([[0.65, 0.7, 0.29], [0.07, 0.99, 0.11]])
    return np.clip(np.rint(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


@pytest.fixture
def labelled(tmp_path) -> LabelledPatches:
    """Three classes with four labelled images each, of which one validates."""
    for first, name in enumerate(CLASSES):
        (tmp_path / "real" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(tissue(10 * first + number)).save(tmp_path / "real" / name / f"{number}.png")
    split = tmp_path / "run" / "split.csv"
    return LabelledPatches(tmp_path / "real", None, SIDE, tmp_path / "cache", split, validation_share=0.25).prepare()


@pytest.fixture
def pool(tmp_path) -> Path:
    return write_pool(tmp_path / "pool", CLASSES, side=SIDE)


@pytest.fixture
def selection(tmp_path, labelled, pool):
    """Makes a selection from the pool, two images a class at 50 %, four at 100 %."""

    def make(name="selection.csv", **changes):
        settings = {"classes": CLASSES, "split": fingerprint_split(labelled.rows), **changes}
        return write_chosen(tmp_path / name, settings.pop("pool", pool), **settings)

    return make


def refused(labelled, message, error=ValueError, **settings):
    with pytest.raises(error, match=message):
        AugmentedPatches(labelled, **settings).prepare()


# What is in it


def test_without_a_selection_it_is_the_training_part(labelled):
    source, part = AugmentedPatches(labelled), labelled.part("train")
    assert "labels" not in vars(source), "nothing is read before it is used"
    assert len(source) == len(part) == 9 and source.weighted_items() is None
    for index in range(9):
        assert torch.equal(source.read(index)["image"], part.read(index)["image"])
        assert source.read(index)["label"] == part.read(index)["label"]
    facts = source.describe()
    assert (facts["real_images"], facts["synthetic_images"]) == (9, 0) and "selection_file" not in facts


@pytest.mark.parametrize(
    "kind, ratio, seeds",
    [
        ("selective", 50, [0, 1]),
        ("selective", 100, [0, 1, 2, 3]),
        ("selective", None, [0, 1, 2, 3]),
        ("random", 50, [4, 5]),
        ("random", 100, [2, 3, 4, 5]),
    ],
)
def test_the_set_asked_for_follows_the_real_images(labelled, selection, kind, ratio, seeds):
    source = AugmentedPatches(labelled, selection(), ratio, kind).prepare()
    assert source.files[:9] == labelled.part("train").files and source.real == 9
    assert source.files[9:] == [f"{name}/{name}_{seed}.png" for name in CLASSES for seed in seeds]
    for index, file in enumerate(source.files[9:], start=9):
        item, name = source.read(index), file.split("/")[0]
        expected = synthetic_picture(name, int(file[:-4].rpartition("_")[2]), SIDE)
        assert item["image"].dtype == torch.uint8 and CLASSES[item["label"]] == name and type(item["label"]) is int
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0), expected)
    facts = source.describe()
    assert facts["ratio"] == (ratio or 100) and facts["selection"] == kind and facts["shortfall"] == {}
    assert facts["training"] == {name: {"real": 3, "synthetic": len(seeds)} for name in CLASSES}


def test_by_count_each_image_comes_once_a_round(labelled, selection):
    source = AugmentedPatches(labelled, selection(), 50)
    dataset = ItemDataset(source)
    indices = [index for batch in StepDataLoader(dataset, 5, 3, seed=0).batch_sampler for index, _ in batch]
    assert sorted(indices) == list(range(15)) == list(range(len(dataset)))


def test_by_probability_a_place_is_synthetic_with_that_share(labelled, selection):
    source = AugmentedPatches(labelled, selection(), 50, synthetic_share=0.25)
    batches = StepDataLoader(ItemDataset(source), 50, 40, seed=0).batch_sampler
    indices = np.array([index for batch in batches for index, _ in batch])
    # 2,000 draws: standard error 1 %.
    assert np.mean(indices >= 9) == pytest.approx(0.25, abs=0.04)
    assert set(indices.tolist()) == set(range(15))
    alone = AugmentedPatches(labelled, selection(), 50, synthetic_share=1)
    batches = StepDataLoader(ItemDataset(alone), 50, 4, seed=0).batch_sampler
    assert all(index >= 9 for batch in batches for index, _ in batch)


def test_repeated_real_images_are_the_same_images(labelled, selection):
    source = AugmentedPatches(labelled, selection(), 50, real_repeats=3)
    assert len(source) == 3 * 9 + 6 and source.real == 27
    for index in range(9):
        copies = [source.read(index + 9 * turn) for turn in range(3)]
        assert all(torch.equal(copies[0]["image"], copy["image"]) for copy in copies)
        assert len({copy["label"] for copy in copies} | {int(source.labels[index + 18])}) == 1
    assert source.describe()["training"]["ADI"] == {"real": 3, "synthetic": 2}


def test_real_and_synthetic_are_normalised_alike(labelled, tmp_path):
    """A synthetic image with a real one's pixels comes out as that one does."""
    part = labelled.part("train")
    pictures = {name: part.read(CLASSES.index(name) * 3)["image"].permute(1, 2, 0).numpy() for name in CLASSES}
    pool = write_pool(tmp_path / "pool", CLASSES, count=1, side=SIDE)
    marks = {"Generator": "test", "ModelHash": "a" * 64, "ConfigHash": content_hash(IDENTITY["settings"]), "Seed": "0"}
    for name, picture in pictures.items():
        path = pool / name / f"{name}_0.png"
        save_marked_png(path, picture, TRAINED_ALGORITHMIC_MEDIA, {**marks, "Class": name})
    split = fingerprint_split(labelled.rows)
    file = write_chosen(tmp_path / "selection.csv", pool, CLASSES, split, quota=1, count=1)
    source = AugmentedPatches(labelled, file, normalise_stain=True)
    for place, (name, picture) in enumerate(pictures.items()):
        real, synthetic = source.read(3 * place)["image"], source.read(9 + place)["image"]
        np.testing.assert_array_equal(real.permute(1, 2, 0), macenko_normalise(picture))
        assert torch.equal(real, synthetic) and not np.array_equal(real.permute(1, 2, 0), picture)
    plain = AugmentedPatches(labelled, file)
    assert plain.fingerprint != source.fingerprint
    assert AugmentedPatches(labelled).fingerprint == AugmentedPatches(labelled, real_repeats=2).fingerprint


def test_the_fingerprint_is_of_the_synthetic_images(labelled, selection):
    file = selection()
    found = {AugmentedPatches(labelled, file, ratio, kind).fingerprint for ratio in (50, 100) for kind in KINDS}
    assert len(found) == 4 and AugmentedPatches(labelled).fingerprint not in found
    assert AugmentedPatches(labelled, file).fingerprint == AugmentedPatches(labelled, file, 100).fingerprint


KINDS = ("selective", "random")


def test_a_shortfall_is_said_and_recorded(labelled, selection, caplog):
    with caplog.at_level(logging.WARNING):
        source = AugmentedPatches(labelled, selection(without=["LYM"])).prepare()
    assert "lacks 4 images of class LYM to its quota at 100 %" in caplog.text and "ADI" not in caplog.text
    facts = source.describe()
    assert facts["shortfall"] == {"LYM": 4} and facts["training"]["LYM"] == {"real": 3, "synthetic": 0}


def test_a_moved_pool_is_found_where_it_is_said_to_be(labelled, selection, pool, tmp_path):
    file = selection()
    pool.rename(tmp_path / "elsewhere")
    refused(labelled, "it has no pool.json. Name one with --pool_dir", FileNotFoundError, selection_file=file)
    assert len(AugmentedPatches(labelled, file, pool_dir=tmp_path / "elsewhere")) == 9 + 12


# What is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"selection": "best"}, "--selection is 'best'; it must be one of selective, random"),
        ({"synthetic_share": 0}, "--synthetic_share is 0; it must be above 0"),
        ({"synthetic_share": 1.5}, "--synthetic_share is 1.5"),
        ({"synthetic_share": "half"}, "--synthetic_share is 'half'"),
        ({"synthetic_share": True}, "--synthetic_share is True"),
        ({"real_repeats": 0}, "--real_repeats is 0; it must be an integer of at least 1"),
        ({"real_repeats": 2.5}, "--real_repeats is 2.5"),
        ({"synthetic_share": 0.5, "real_repeats": 2}, "--synthetic_share 0.5 .* and so does --real_repeats 2"),
        ({"normalise_stain": "false"}, "--normalise_stain is 'false'; it must be True or False"),
    ],
)
def test_settings_out_of_range_are_refused_when_it_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentedPatches(None, selection_file="selection.csv", **settings)


@pytest.mark.parametrize(
    "settings", [{"ratio": 100}, {"selection": "random"}, {"synthetic_share": 0.5}, {"pool_dir": "pool"}]
)
def test_settings_of_a_selection_need_one(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"--{name} {value} says which .* no --selection_file is given"):
        AugmentedPatches(None, **settings)


def test_a_ratio_that_was_not_selected(labelled, selection):
    refused(labelled, "--ratio is 300; .*selection.csv has sets of 50, 100 %", selection_file=selection(), ratio=300)


def test_a_selection_that_is_not_there(labelled, tmp_path):
    refused(labelled, "absent.csv", FileNotFoundError, selection_file=tmp_path / "absent.csv")


def test_a_selection_of_another_split_is_refused_with_both(labelled, selection):
    own = fingerprint_split(labelled.rows)
    message = f"selection.csv was made for the split {'b' * 64}, .* those of {own}: .*--split_file"
    refused(labelled, message, selection_file=selection(split="b" * 64))


def test_a_selection_of_other_classes_is_refused_with_both(labelled, selection, tmp_path):
    other = write_pool(tmp_path / "other", CLASSES[:2], side=SIDE)
    file = selection(pool=other, classes=CLASSES[:2])
    message = r"selection.csv is for the classes \['ADI', 'LYM'\], and the labelled set has \['ADI', 'LYM', 'TUM'\]"
    refused(labelled, message, selection_file=file)


def test_a_pool_without_a_class_is_refused_with_the_remedy(labelled, tmp_path):
    pool = write_pool(tmp_path / "few", CLASSES[:2], side=SIDE)
    file = write_chosen(tmp_path / "few.csv", pool, CLASSES, fingerprint_split(labelled.rows), absent=["TUM"])
    refused(labelled, "few had no image of class 'TUM' .*inference.json with --classes 'TUM'", selection_file=file)


def test_a_selection_of_nothing_is_refused(labelled, selection):
    refused(labelled, "has no selective image at 100 %", selection_file=selection(without=CLASSES))


def test_another_pool_than_the_selections_is_refused(labelled, selection, tmp_path):
    other = write_pool(tmp_path / "other", CLASSES, side=SIDE, identity={**IDENTITY, "model": "c" * 64})
    message = "other is another pool than the selection was made from.*--pool_dir"
    refused(labelled, message, selection_file=selection(), pool_dir=other)
    (other / "pool.json").write_text("{}")
    refused(labelled, "pool.json can't be read as the identity", selection_file=selection(), pool_dir=other)


def unmarked(path):
    Image.fromarray(synthetic_picture("ADI", 0, SIDE)).save(path)


def of_another_class(path):
    shutil.copy(path.parents[1] / "TUM" / "TUM_0.png", path)


def of_another_seed(path):
    shutil.copy(path.with_name("ADI_1.png"), path)


def of_another_model(path):
    other = write_pool(path.parents[2] / "other", ["ADI"], side=SIDE, identity={**IDENTITY, "model": "c" * 64})
    shutil.copy(other / "ADI" / "ADI_0.png", path)


def of_other_settings(path):
    other = write_pool(path.parents[2] / "other", ["ADI"], side=SIDE, identity={**IDENTITY, "settings": {"steps": 4}})
    shutil.copy(other / "ADI" / "ADI_0.png", path)


def half_a_file(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "change, message",
    [
        (unmarked, "'ModelHash': None"),
        (of_another_class, "'Class': 'TUM'.*expected .*'Class': 'ADI'"),
        (of_another_seed, "'Seed': '1'.*expected .*'Seed': '0'"),
        (of_another_model, f"'ModelHash': '{'c' * 64}'"),
        (of_other_settings, "'ConfigHash': "),
        (half_a_file, ""),
    ],
)
def test_a_file_that_is_not_the_pools_is_refused_by_name(labelled, selection, pool, change, message):
    file = selection()
    change(pool / "ADI" / "ADI_0.png")
    refused(labelled, f"ADI_0.png.*{message}", selection_file=file)


def test_a_missing_file_is_named(labelled, selection, pool):
    file = selection()
    (pool / "LYM" / "LYM_2.png").unlink()
    refused(labelled, "LYM_2.png, which .*selection.csv lists, is missing", FileNotFoundError, selection_file=file)


def test_images_of_another_size_are_refused(labelled, selection, tmp_path):
    larger = write_pool(tmp_path / "larger", CLASSES, side=24)
    message = "ADI_0.png is 24 x 24 pixels, expected 16 x 16: .*--patch_size"
    refused(labelled, message, selection_file=selection(pool=larger))
