"""The format of a pool of synthetic images: what is in it, what it refuses, what survives."""

import csv
import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, read_marks
from bundle.runs.sums import content_hash
from bundle.synthesis.extension import sealed
from bundle.synthesis.pool import COLUMNS, Pool

IDENTITY = {
    "generator": "StyleGAN2",
    "model": "abc",
    "settings": {"sampler": "ddim", "steps": 50, "guidance_scale": 5.0, "eta": 1.0},
}


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def filled(folder, keys=(("TUM", 10), ("TUM", 9), ("ADI", 0)), identity=IDENTITY):
    with Pool(folder, identity) as pool:
        for name, seed in keys:
            pool.add(name, seed, image(seed))
    return pool


def rows(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    """{path: bytes} of all files that a reader of the pool would see."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_files_marks_and_manifest(tmp_path):
    filled(tmp_path / "pool")
    pool = tmp_path / "pool"
    assert set(files(pool)) == {
        "ADI/ADI_0.png", "TUM/TUM_9.png", "TUM/TUM_10.png", "manifest.csv", "pool.json"
    }  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(pool / "TUM/TUM_9.png")), image(9))
    hashes = {"ModelHash": "abc", "ConfigHash": content_hash(IDENTITY["settings"])}
    assert read_marks(pool / "TUM/TUM_9.png") == {
        "SyntheticData": "YES",
        "Software": "HistoDiffusion",
        "DigitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
        "Class": "TUM",
        "Seed": "9",
        "Generator": "StyleGAN2",
        **hashes,
    }
    found = rows(pool)
    assert tuple(found[0]) == COLUMNS
    assert [row["file"] for row in found] == ["ADI/ADI_0.png", "TUM/TUM_9.png", "TUM/TUM_10.png"]
    assert list(found[1].values()) == [
        "TUM/TUM_9.png", "TUM", "9", "StyleGAN2", "ddim", "50", "5.0", "abc", hashes["ConfigHash"]
    ]  # fmt: skip
    kept = json.loads((pool / "pool.json").read_text())
    assert kept["identity"] == IDENTITY and kept["hash"] == content_hash(IDENTITY)


def test_settings_without_a_column_leave_it_empty(tmp_path):
    filled(tmp_path, identity={"generator": "a GAN", "model": "abc", "settings": {"truncation": 0.7}})
    assert [rows(tmp_path)[0][name] for name in COLUMNS[4:7]] == ["", "", ""]


def test_nothing_happens_before_it_is_opened(tmp_path):
    Pool(tmp_path / "pool", lambda: 1 / 0)
    assert not (tmp_path / "pool").exists()


def test_order_doesn_t_matter_and_what_is_there_stays(tmp_path):
    keys = [("TUM", 10), ("TUM", 9), ("ADI", 0)]
    filled(tmp_path / "a", keys)
    filled(tmp_path / "b", keys[::-1])
    assert files(tmp_path / "a").items() == files(tmp_path / "b").items()
    before = {path: path.stat() for path in (tmp_path / "a").rglob("*.png")}
    with Pool(tmp_path / "a", dict(reversed(IDENTITY.items()))) as pool:
        assert len(pool) == 3 and pool.has("TUM", 9) and not pool.has("TUM", 11)
        pool.add("TUM", 9, image(0))  # another picture of the same name
        pool.add("TUM", 11, image(11))
        assert pool.has("TUM", 11)
        np.testing.assert_array_equal(pool.image("TUM", 9), image(9))
    assert {path: path.stat() for path in before} == before
    assert [row["seed"] for row in rows(tmp_path / "a")] == ["0", "9", "10", "11"]


def test_images_that_the_manifest_lacks_are_taken_up_from_their_marks(tmp_path):
    """As after a kill: pictures are there, the manifest is old or missing, a file was being written."""
    filled(tmp_path)
    complete = (tmp_path / "manifest.csv").read_bytes()
    (tmp_path / "TUM" / ".TUM_3.77.tmp.png").write_bytes(b"half")
    for manifest in (None, b"", complete[:90], complete.splitlines()[0]):
        (tmp_path / "manifest.csv").unlink()
        if manifest is not None:
            (tmp_path / "manifest.csv").write_bytes(manifest)
        with Pool(tmp_path, IDENTITY) as pool:
            assert len(pool) == 3
        assert (tmp_path / "manifest.csv").read_bytes() == complete
    assert not (tmp_path / "TUM" / ".TUM_3.77.tmp.png").exists()


def test_images_that_are_gone_or_half_are_made_again(tmp_path):
    filled(tmp_path)
    (tmp_path / "TUM" / "TUM_9.png").unlink()
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "TUM" / "TUM_10.png").write_bytes(b"")
    with Pool(tmp_path, IDENTITY) as pool:
        assert not pool.has("TUM", 9) and not pool.has("TUM", 10) and len(pool) == 1
        pool.add("TUM", 10, image(10))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "TUM/TUM_10.png")), image(10))


@pytest.mark.parametrize("left", [0, 40, -1])
def test_images_that_are_listed_and_broken_are_made_again(tmp_path, left, caplog):
    """As after a power failure: empty, cut short, or of the right length with a block that was never written."""
    filled(tmp_path)
    path = tmp_path / "TUM" / "TUM_9.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:left] if left >= 0 else whole[:100] + bytes(len(whole) - 100))
    with Pool(tmp_path, IDENTITY) as pool:
        assert "1 broken images of the pool are made again" in caplog.text and str(path) in caplog.text
        assert not pool.has("TUM", 9) and len(pool) == 2
        pool.add("TUM", 9, image(9))
    assert path.read_bytes() == whole and len(rows(tmp_path)) == 3


def test_an_image_is_on_the_disk_before_the_manifest_names_it(tmp_path, monkeypatch):
    synced, names = [], {}
    sync, place = os.fsync, os.replace

    def fsync(file):
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        sync(file)

    def replace(temporary, path):
        names[str(temporary)] = path.name
        place(temporary, path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    filled(tmp_path)
    order = [names[file] for file in synced if file in names]
    assert sorted(order[1:-1]) == ["ADI_0.png", "TUM_10.png", "TUM_9.png"] and order[-1] == "manifest.csv"


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model": "def"}, "model: abc there, def here"),
        ({"settings": {**IDENTITY["settings"], "steps": 20}}, "settings: steps: 50 there, 20 here"),
        ({"settings": {"guidance_scale": 5.0, "steps": 50, "sampler": "ddim"}}, "eta: 1.0 there, None here"),
        ({"generator": "a GAN"}, "generator: StyleGAN2 there, a GAN here"),
    ],
)
def test_a_pool_of_another_identity_is_refused_with_both_named(tmp_path, change, named):
    filled(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=named) as caught:
        Pool(tmp_path, {**IDENTITY, **change}).open()
    assert str(tmp_path) in str(caught.value) and "--output_dir" in str(caught.value)
    assert files(tmp_path) == before
    Pool(tmp_path, IDENTITY).open().close()  # the lock was given back


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="is not a pool: it has no pool.json, but notes.txt"):
        Pool(tmp_path, IDENTITY).open()
    (tmp_path / "pool.json").write_text("[]")
    with pytest.raises(ValueError, match="pool.json can't be read"):
        Pool(tmp_path, IDENTITY).open()


def test_an_image_of_another_pool_is_refused_by_name(tmp_path):
    filled(tmp_path / "a")
    filled(tmp_path / "b", [("TUM", 4)], {**IDENTITY, "model": "def"})
    (tmp_path / "b/TUM/TUM_4.png").rename(tmp_path / "a/TUM/TUM_4.png")
    with pytest.raises(ValueError, match="TUM_4.png does not belong to this pool.*'def'.*'abc'"):
        Pool(tmp_path / "a", IDENTITY).open()


def test_two_runs_can_t_fill_one_pool(tmp_path):
    with Pool(tmp_path, IDENTITY):
        with pytest.raises(RuntimeError, match="another run is writing to"):
            Pool(tmp_path, IDENTITY).open()
    Pool(tmp_path, IDENTITY).open().close()


def test_how_it_is_extended_is_no_part_of_what_it_is(tmp_path):
    def record(folder):
        return json.loads((folder / "pool.json").read_text()).get("extend")

    filled(tmp_path)
    plain = json.loads((tmp_path / "pool.json").read_text())
    assert "extend" not in plain
    first, second = ({"config": "inference.json", "settings": {"seed": seed}} for seed in (0, 1))
    for extend, kept in ((first, first), (second, second), (None, second), (lambda: first, first)):
        with Pool(tmp_path, IDENTITY, extend=extend) as pool:
            assert len(pool) == 3 and pool.hash == plain["hash"]
        assert record(tmp_path) == sealed(kept, plain["hash"])
    assert {**plain, "extend": sealed(first, plain["hash"])} == json.loads((tmp_path / "pool.json").read_text())


@pytest.mark.parametrize("name", ["../TUM", "a/b", "..", ".hidden", "", "a\\b", "a\0b"])
def test_a_class_name_can_t_lead_out_of_the_folder(tmp_path, name):
    with Pool(tmp_path / "pool", IDENTITY) as pool, pytest.raises(ValueError, match="can't name a folder"):
        pool.add(name, 0, image(0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool"]


def test_an_odd_but_possible_class_name(tmp_path):
    filled(tmp_path, [("Größe, (2)_7 µm", 3)])
    with Pool(tmp_path, IDENTITY) as pool:
        assert pool.has("Größe, (2)_7 µm", 3)
    assert rows(tmp_path)[0]["class"] == "Größe, (2)_7 µm"


def test_a_full_disk_is_said_and_what_was_written_is_kept(tmp_path, monkeypatch):
    save = Image.Image.save

    def full_after_two(self, path, *arguments, **options):
        if "TUM_2" in str(path) or "TUM_3" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full_after_two)
    with pytest.raises(OSError, match="the disk is full: .*TUM_[23].png.*give the same command again") as caught:
        filled(tmp_path, [("TUM", seed) for seed in range(4)])
    assert caught.value.errno == errno.ENOSPC
    assert [row["seed"] for row in rows(tmp_path)] == ["0", "1"]
    assert {path.name for path in (tmp_path / "TUM").iterdir()} == {"TUM_0.png", "TUM_1.png"}
    monkeypatch.undo()
    filled(tmp_path, [("TUM", seed) for seed in range(4)])
    assert len(rows(tmp_path)) == 4


def test_a_pool_that_can_t_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2**30, free=3 * 2**20))
    pool = Pool(tmp_path / "pool", IDENTITY)
    pool.require_space(512, 64)  # 6 MiB of pixels, of which PNG leaves half or more
    needs = (
        "pool could not be written, it needs 7.5 MiB and 3.0 MiB are free in .*: free 4.5 MiB, lower --num_images, or"
    )
    with pytest.raises(OSError, match=needs):
        pool.require_space(1280, 64)
    assert not (tmp_path / "pool").exists()


def test_images_that_wait_for_the_disk_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.synthesis.pool.WAITING_IMAGES", 2)
    with Pool(tmp_path, IDENTITY, threads=1) as pool:
        for seed in range(20):
            pool.add("TUM", seed, image(seed))
            assert len(pool._pending) <= 3
    assert len(rows(tmp_path)) == 20
