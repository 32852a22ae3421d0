"""Preparing a reading: equal treatment, names and order without meaning, a key that is kept apart and sealed."""

import hashlib
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from candidates import CLASSES, SIDE, candidate, fill_pool, keys
from chosen import write_chosen
from PIL import Image
from readings import preparation, prepare, write_arms

from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, save_marked_png
from bundle.data.split import fingerprint_split
from bundle.downstream.augmented import AugmentedPatches
from bundle.reading.answers import order
from bundle.reading.sealed import KEY, READING, read_key, read_sealed
from bundle.synthesis.pool import marks_of
from bundle.synthesis.stored_pool import StoredPool


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    return write_arms(tmp_path_factory.mktemp("arms"))


@pytest.fixture
def folder(arms, tmp_path):
    shutil.copytree(arms, tmp_path / "all")
    return tmp_path / "all"


def key_of(folder, name="reading"):
    return json.loads((folder / f"{name}_key" / KEY).read_text())


def test_both_arms_have_the_same_treatment_and_names_that_mean_nothing(folder):
    sealed = prepare(folder)
    key = key_of(folder)
    arms = Counter((one["arm"], one["class"]) for one in key["pictures"].values())
    assert arms == {(arm, name): 2 for arm in ("real", "synthetic") for name in CLASSES}
    assert key["pictures"].keys() == sealed.pictures.keys() and len(sealed.pictures) == 12
    tables = set()
    for name in sealed.pictures:
        path = sealed.picture(name)
        assert path.stat().st_mtime == 0
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.size, image.mode) == ("JPEG", (SIDE, SIDE), "RGB")
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            tables.add(repr((image.quantization, image.layer)))
    assert len(tables) == 1
    told = (folder / "reading" / READING).read_text()
    assert not [word for word in ("real", "synthetic", "arm", "salt") if f'"{word}"' in told]


def test_png_keeps_pixels_and_nothing_else(folder):
    sealed = prepare(folder, jpeg_quality=0)
    made = [name for name, one in key_of(folder)["pictures"].items() if one["arm"] == "synthetic"]
    one = key_of(folder)["pictures"][made[0]]
    with Image.open(sealed.picture(made[0])) as image:
        image.load()
        seed = int(one["file"].split("_")[1].removesuffix(".png"))
        assert image.info == {} and np.array_equal(np.asarray(image), candidate(one["class"], seed))


def test_the_key_is_sealed_with_a_salt_and_lies_elsewhere(folder):
    sealed = prepare(folder)
    path = folder / "reading_key" / KEY
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sealed.key_sha256
    assert path.stat().st_mode & 0o077 == 0 and len(key_of(folder)["salt"]) == 64
    other = prepare(folder, output="other")
    same = [
        {(one["arm"], one["file"]) for one in key_of(folder, at)["pictures"].values()} for at in ("reading", "other")
    ]
    assert same[0] == same[1], "the seed draws the patches"
    assert other.key_sha256 != sealed.key_sha256 and not other.pictures.keys() & sealed.pictures.keys()
    with pytest.raises(ValueError, match="is not the key that was sealed before the first answer"):
        read_key(folder / "other_key", sealed.key_sha256)


def test_seed_and_name_draw_each_readers_order(folder):
    sealed, other = prepare(folder), prepare(folder, output="other", seed=1)
    orders = {tuple(order(sealed, name)) for name in ("A", "B", "C")}
    assert len(orders) == 3 and all(sorted(one) == sorted(sealed.pictures) for one in orders)
    assert order(sealed, "A") == order(read_sealed(sealed.folder), "A")
    files = [{one["file"] for one in key_of(folder, name)["pictures"].values()} for name in ("reading", "other")]
    assert files[0] != files[1] and other.seed == 1


def test_the_same_command_finds_it_as_it_was(folder):
    prepare(folder)
    paths = sorted(path for place in ("reading", "reading_key") for path in (folder / place).rglob("*.j*"))
    before = [path.read_bytes() for path in paths if path.name != "metrics.json"]
    fill_pool(folder / "pool", keys(6))  # a pool may grow
    prepare(folder)
    assert before == [path.read_bytes() for path in paths if path.name != "metrics.json"]
    with pytest.raises(ValueError, match="reading with per_class 2, and this command has 1: name another --output_dir"):
        prepare(folder, per_class=1)


def test_one_that_was_killed_begins_anew(folder):
    prepare(folder)
    (folder / "reading" / READING).unlink()
    sealed = prepare(folder)
    assert {path.stem for path in (folder / "reading" / "patches").iterdir()} == set(sealed.pictures)


def test_a_pool_that_changed_after_preparation_is_said(folder):
    prepare(folder)
    one = next(one for one in key_of(folder)["pictures"].values() if one["arm"] == "synthetic")
    path = folder / "pool" / one["file"]
    marks = marks_of(json.loads((folder / "pool" / "pool.json").read_text())["identity"])
    seed = path.stem.split("_")[1]
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    save_marked_png(path, blank, TRAINED_ALGORITHMIC_MEDIA, {"Class": one["class"], "Seed": seed, **marks})
    with pytest.raises(
        ValueError, match=f"{one['file']} has other pixels in the pool .* since this reading was prepared"
    ):
        prepare(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{one['file']} is gone from the pool .* Answers are kept either way"):
        prepare(folder)


@pytest.mark.parametrize("change", ["other bytes", "gone"])
def test_a_picture_that_changed_is_said(folder, change):
    sealed = prepare(folder)
    path = sealed.picture(next(iter(sealed.pictures)))
    path.unlink()
    if change == "other bytes":
        path.write_bytes(b"x")
    with pytest.raises((ValueError, FileNotFoundError), match=f"{path.name} (was changed after|is missing)"):
        read_sealed(sealed.folder)


class Halved:
    """Stands for the networks of an adaptation: what it makes of an image is half as bright."""

    device, adapted_dir, fingerprint = torch.device("cpu"), "adapted", "f" * 64

    def prepare(self):
        return self

    def __call__(self, images):
        return (images - 1) / 2


def test_a_third_arm_of_reconstructions_shows_no_patch_twice(folder):
    sealed = prepare(folder, models=Halved(), jpeg_quality=0)
    found = key_of(folder)["pictures"]
    files = [one["file"] for one in found.values() if one["arm"] != "synthetic"]
    assert len(files) == len(set(files)) == 12 and len(found) == 18
    name = next(name for name, one in found.items() if one["arm"] == "third")
    assert np.asarray(Image.open(sealed.picture(name))).max() <= 128


def test_a_third_arm_of_another_generator(folder):
    fill_pool(folder / "other", keys(2, first=70))
    prepare(folder, third_pool=StoredPool(folder / "other", SIDE))
    files = {one["file"] for one in key_of(folder)["pictures"].values() if one["arm"] == "third"}
    assert len(files) == 6 and all(name.endswith(("_70.png", "_71.png")) for name in files)


def test_of_a_selection_the_kept_ones_are_read(folder):
    base = preparation(folder)
    split = fingerprint_split(base.labelled.prepare().rows)
    path = write_chosen(folder / "selection.csv", folder / "pool", CLASSES, split, quota=2, count=4)
    augmented = AugmentedPatches(base.labelled, path)
    prepare(folder, pool=None, augmented=augmented)
    files = {one["file"] for one in key_of(folder)["pictures"].values() if one["arm"] == "synthetic"}
    assert files == {f"{name}/{name}_{seed}.png" for name in CLASSES for seed in (0, 1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 5}, "the pool .* has 4 images of the class 'ADI', and --per_class 5 needs 5: lower it, or make"),
        (
            {"per_class": 5, "pool": "large"},
            "the part 'unused' of .* has .* images of the class .* name another --part",
        ),
        ({"per_class": 4, "models": Halved()}, "the part 'unused' .* and --per_class 4 needs 8"),
        ({"key_dir": "inside"}, "--key_dir .* lies in .*, which the reading is served from"),
        ({"per_class": 0}, "--per_class is 0; it must be an integer of at least 1"),
        ({"jpeg_quality": 100}, "--jpeg_quality is 100; it must be 1 to 95, or 0 for PNG"),
        ({"models": Halved(), "third_pool": 1}, "are two third arms: leave one out"),
    ],
)
def test_what_can_not_be_read_is_refused_before_anything_is_written(folder, settings, message):
    settings = dict(settings)
    if "key_dir" in settings:
        settings["key_dir"] = folder / "reading" / "key"
    if settings.get("pool") == "large":
        fill_pool(folder / "large", keys(7))
        settings["per_class"] = 7
    with pytest.raises(ValueError, match=message):
        prepare(folder, **settings)
    assert not (folder / "reading_key").exists() and not (folder / "reading" / READING).exists()


def test_one_class_only_is_said(folder):
    for name in CLASSES[1:]:
        shutil.rmtree(folder / "pool" / name)
    made = preparation(folder)
    made.labelled.prepare().classes = ["ADI"]
    with pytest.raises(ValueError, match="one class only, 'ADI', and a reading asks which class is seen"):
        made.check()


def test_answers_without_their_reading_are_not_written_over(folder):
    sealed = prepare(folder)
    (sealed.folder / "answers").mkdir()
    (sealed.folder / "answers" / "A_0.jsonl").write_text("{}\n")
    (sealed.folder / READING).unlink()
    with pytest.raises(ValueError, match="has answers, and .* is gone: put it back"):
        prepare(folder)
