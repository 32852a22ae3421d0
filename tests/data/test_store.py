from __future__ import annotations

import csv
import errno
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import bundle.data.store as store_module
from bundle.data.sources import read_image, read_rgb
from bundle.data.stain import macenko_normalise
from bundle.data.store import PatchStore

SIDE = 16


def write_patches(folder: Path, names: list[str], seed: int = 0, side: int = SIDE) -> dict[str, np.ndarray]:
    """PNG noise under `folder`; name -> uint8 [side, side, 3]."""
    random = np.random.default_rng(seed)
    images = {}
    for name in names:
        images[name] = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[name]).save(folder / name)
    return images


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The files decoded by any store from here on."""
    names: list[str] = []

    def read(root, file, *unit):
        names.append(file)
        return read_image(root, file, *unit)

    monkeypatch.setattr(store_module, "read_image", read)
    return names


@pytest.fixture
def tiles(tmp_path) -> Path:
    write_patches(tmp_path / "tiles", [f"slide{n % 3}/{n:02d}.png" for n in range(12)])
    return tmp_path / "tiles"


def prepare(root: object, cache: Path, size: int = SIDE, **settings) -> PatchStore:
    return PatchStore(root, size, cache, **settings).prepare()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a prepared store holds


def test_nothing_happens_before_it_is_used(tmp_path):
    store = PatchStore(tmp_path / "absent", SIDE, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    for use in (lambda: len(store), lambda: store.image(0), store.summary):
        with pytest.raises(FileNotFoundError, match="there is no folder or archive"):
            use()


def test_every_patch_with_its_facts(tmp_path):
    images = write_patches(tmp_path / "a", ["s1/x.png", "s1/deep/y.png", "s2/z.png", "top.png"])
    np.save(tmp_path / "a/stack.npy", np.stack(list(images.values()))[:2])
    store = prepare(tmp_path / "a", tmp_path / "cache")
    assert store.files == ["s1/deep/y.png", "s1/x.png", "s2/z.png", "stack.npy#0", "stack.npy#1", "top.png"]
    assert store.groups == ["s1", "s1", "s2", "stack.npy", "stack.npy", ""]
    assert len(store) == 6 and store.sources == [str(tmp_path / "a")] and store.source_of.tolist() == [0] * 6
    assert store.sizes.tolist() == [[SIDE, SIDE]] * 6
    for index, file in enumerate(store.files):
        image = store.image(index)
        assert image.dtype == torch.uint8 and image.shape == (3, SIDE, SIDE)
        np.testing.assert_array_equal(image.permute(1, 2, 0), read_rgb(tmp_path / "a", file))
    assert store.sha256[1] == store.sha256[3] and store.sha256[0] == store.sha256[4]  # the same pixels, however kept
    assert len(set(store.sha256)) == 4
    assert "duplicates (the same pixels as another patch): 2" in store.summary()


def test_an_image_handed_out_is_the_callers_own(tiles, tmp_path):
    store = prepare(tiles, tmp_path / "cache")
    store.image(0).zero_()
    assert store.image(0).any()


def test_the_hash_knows_the_shape(tmp_path):
    flat = np.zeros((32, 8, 3), np.uint8)
    for name, rgb in (("a.png", flat), ("b.png", flat.reshape(8, 32, 3))):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / "a" / name)
    store = prepare(tmp_path / "a", tmp_path / "cache", maximum_blank_share=1)
    assert store.sha256[0] != store.sha256[1]
    assert store.sizes.tolist() == [[32, 8], [8, 32]]


def test_sources_and_weights(tmp_path):
    write_patches(tmp_path / "a", ["1.png", "2.png", "3.png"])
    write_patches(tmp_path / "b", ["1.png"], seed=1)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    counted = prepare([b, a], tmp_path / "cache")
    assert counted.sources == [b, a] and counted.source_of.tolist() == [0, 1, 1, 1] and not counted.weighted
    assert counted.weights.tolist() == [0.25, 0.75]
    given = prepare({a: 1, b: 4}, tmp_path / "cache")
    assert given.weights.tolist() == [0.2, 0.8] and given.weighted
    np.testing.assert_array_equal(given.image(3), counted.image(0))
    assert given.fingerprint == counted.fingerprint


def test_the_fingerprint_is_of_pixels_and_settings(tiles, tmp_path):
    fingerprint = prepare(tiles, tmp_path / "cache").fingerprint
    tiles.rename(tmp_path / "moved")
    (tmp_path / "moved/slide0/00.png").rename(tmp_path / "moved/other.png")
    assert prepare(tmp_path / "moved", tmp_path / "cache").fingerprint == fingerprint
    others = {
        prepare(tmp_path / "moved", tmp_path / "cache", size=8).fingerprint,
        prepare(tmp_path / "moved", tmp_path / "cache", normalise_stain=True).fingerprint,
    }
    write_patches(tmp_path / "moved", ["new.png"], seed=9)
    others.add(prepare(tmp_path / "moved", tmp_path / "cache").fingerprint)
    assert len(others | {fingerprint}) == 4


def test_the_summary_tells_what_was_found(tmp_path):
    write_patches(tmp_path / "a", [f"s{n % 2}/{n}.png" for n in range(5)])
    write_patches(tmp_path / "a", ["s1/large.png"], side=40)
    write_patches(tmp_path / "a", ["s1/small.png"], side=10)
    (tmp_path / "a/torn.png").write_bytes(b"torn")
    (tmp_path / "a/labels.csv").touch()
    text = prepare(tmp_path / "a", tmp_path / "cache", maximum_rejected_share=0.2).summary()
    for expected in (
        "7 patches from 1 source(s), 2 group(s)",
        f"{tmp_path / 'a'}: 7 patches, weight 1.000, 2 group(s), ignored 1 .csv",
        "16 x 16 in 5 of 7; heights 10 to 40, widths 10 to 40; resized to 16 x 16",
        "smaller than the patch size, and so enlarged: 1",
        f"rejected: 1 of 8 (12.50%), listed in {tmp_path / 'cache/rejected.csv'}",
    ):
        assert expected in text


def test_what_cannot_be_examined_is_listed_and_ends_nothing(tmp_path):
    write_patches(tmp_path / "a", ["x.png"])
    (tmp_path / "a/loop").symlink_to(tmp_path / "a/loop")
    store = prepare(tmp_path / "a", tmp_path / "cache", maximum_rejected_share=0)
    assert len(store) == 1 and not store.rejected
    assert "ignored 1 that cannot be examined, the first loop: OSError: Too many levels" in store.summary()
    with open(store.rejected_file, newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == ["loop"]


def test_stain_normalisation_is_done_at_full_size(tmp_path):
    random = np.random.default_rng(0)
    density = random.uniform(0.3, 1, (32, 32, 2)) @ np.array([[0.6, 0.65, 0.35], [0.3, 0.75, 0.45]])
    rgb = (256 * np.exp(-density) - 1).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(rgb).save(tmp_path / "a/x.png")
    plain = prepare(tmp_path / "a", tmp_path / "cache", size=32)
    normalised = prepare(tmp_path / "a", tmp_path / "cache", size=32, normalise_stain=True)
    np.testing.assert_array_equal(plain.image(0).permute(1, 2, 0), rgb)
    np.testing.assert_array_equal(normalised.image(0).permute(1, 2, 0), macenko_normalise(rgb))
    assert not torch.equal(plain.image(0), normalised.image(0))
    assert plain.sha256 == normalised.sha256  # of the pixels as they were found


# Starting again


def test_a_second_start_decodes_and_writes_nothing(tiles, tmp_path, decoded):
    first = prepare(tiles, tmp_path / "cache")
    assert sorted(decoded) == first.files
    decoded.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.np[yz]")}
    second = prepare(tiles, tmp_path / "cache")
    assert decoded == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.np[yz]")} == before
    assert (second.files, second.sha256, second.fingerprint) == (first.files, first.sha256, first.fingerprint)
    for index in range(len(first)):
        assert torch.equal(first.image(index), second.image(index))
    assert first.prepare() is first and decoded == []


def test_only_what_changed_is_decoded(tiles, tmp_path, decoded):
    prepare(tiles, tmp_path / "cache")
    decoded.clear()
    new = write_patches(tiles, ["slide0/00.png", "slide9/new.png"], seed=5)
    (tiles / "slide1/01.png").unlink()
    store = prepare(tiles, tmp_path / "cache")
    assert sorted(decoded) == ["slide0/00.png", "slide9/new.png"]
    assert len(store) == 12 and "slide1/01.png" not in store.files
    for index, file in enumerate(store.files):
        np.testing.assert_array_equal(store.image(index).permute(1, 2, 0), read_rgb(tiles, file))
    assert (store.image(store.files.index("slide0/00.png")).permute(1, 2, 0).numpy() == new["slide0/00.png"]).all()
    decoded.clear()
    prepare(tiles, tmp_path / "cache")
    assert decoded == []


def test_another_setting_or_source_never_meets_a_stale_cache(tiles, tmp_path, decoded):
    write_patches(tmp_path / "other", ["slide0/00.png"], seed=8)
    for settings in ({}, {"size": 8}, {"normalise_stain": True}):
        decoded.clear()
        store = prepare(tiles, tmp_path / "cache", **settings)
        assert len(decoded) == 12 and store.image(0).shape[1] == settings.get("size", SIDE)
    store = prepare(tmp_path / "other", tmp_path / "cache")
    np.testing.assert_array_equal(store.image(0).permute(1, 2, 0), read_rgb(tmp_path / "other", "slide0/00.png"))
    decoded.clear()
    both = prepare([tiles, tmp_path / "other"], tmp_path / "cache")  # each source has been seen
    assert len(both) == 13 and decoded == []


@pytest.mark.parametrize("cache_gigabytes", [16.0, 0])
def test_an_interrupted_start_goes_on_where_it_was(tiles, tmp_path, monkeypatch, decoded, cache_gigabytes):
    monkeypatch.setattr(store_module, "CHUNK_PATCHES", 4)
    read = store_module.read_image

    def interrupted(root, file, *unit):
        if len(decoded) >= 9:  # in the third chunk
            raise KeyboardInterrupt
        return read(root, file, *unit)

    monkeypatch.setattr(store_module, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tiles, tmp_path / "cache", workers=1, cache_gigabytes=cache_gigabytes)
    decoded.clear()
    monkeypatch.setattr(store_module, "read_image", read)
    store = prepare(tiles, tmp_path / "cache", workers=1, cache_gigabytes=cache_gigabytes)
    assert decoded == store.files[8:]
    for index, file in enumerate(store.files):
        np.testing.assert_array_equal(store.image(index).permute(1, 2, 0), read_rgb(tiles, file))
    assert not list((tmp_path / "cache").rglob("part-*")) and not list((tmp_path / "cache").rglob("*.tmp"))


def test_damage_to_the_cache_is_mended(tiles, tmp_path, decoded):
    store = prepare(tiles, tmp_path / "cache")
    expected = [store.image(index) for index in range(12)]
    for pattern in ("pixels-*.u8", "index.npz"):
        for remove in (True, False):
            decoded.clear()
            (path,) = (tmp_path / "cache").rglob(pattern)
            path.unlink() if remove else path.write_bytes(path.read_bytes()[:50])
            again = prepare(tiles, tmp_path / "cache")
            assert sorted(decoded) == store.files
            assert all(torch.equal(again.image(index), expected[index]) for index in range(12))


def test_what_is_no_longer_needed_is_removed(tiles, tmp_path):
    running = prepare(tiles, tmp_path / "cache")
    expected = read_rgb(tiles, running.files[0])
    write_patches(tiles, [str(path.relative_to(tiles)) for path in tiles.rglob("*.png")], seed=4)
    prepare(tiles, tmp_path / "cache")
    np.testing.assert_array_equal(running.image(0).permute(1, 2, 0), expected)  # another run goes on undisturbed
    assert len(list((tmp_path / "cache").rglob("pixels-*.u8"))) == 1


def test_names_beyond_ascii_and_utf8_are_kept(tmp_path):
    write_patches(tmp_path / "a", ["Präparat 1/zelle#µ.png"])
    undecodable = os.fsencode(tmp_path / "a") + b"/\xff.png"
    os.link(tmp_path / "a/Präparat 1/zelle#µ.png", undecodable)
    for _ in range(2):
        store = prepare(tmp_path / "a", tmp_path / "cache")
        assert store.files == ["Präparat 1/zelle#µ.png", os.fsdecode(b"\xff.png")]
        assert torch.equal(store.image(0), store.image(1))


# The size of the cache


def test_pixels_that_do_not_fit_are_decoded_at_each_use(tiles, tmp_path, decoded):
    kept = prepare(tiles, tmp_path / "cache", size=8)
    needed = 12 * 3 * 8 * 8
    assert "MB kept in" in kept.summary()
    store = prepare(tiles, tmp_path / "small", size=8, cache_gigabytes=(needed - 1) / 1e9)
    assert not list((tmp_path / "small").rglob("pixels-*"))
    assert "12 patches are decoded at each use" in store.summary()
    decoded.clear()
    assert all(torch.equal(store.image(index), kept.image(index)) for index in range(12))
    assert decoded == store.files
    decoded.clear()
    prepare(tiles, tmp_path / "small", size=8, cache_gigabytes=(needed - 1) / 1e9)
    assert decoded == []
    prepare(tiles, tmp_path / "small", size=8, cache_gigabytes=needed / 1e9)
    assert list((tmp_path / "small").rglob("pixels-*"))


def test_a_store_can_be_sent_to_another_process_without_its_pixels(tiles, tmp_path):
    store = prepare(tiles, tmp_path / "cache", size=128)
    sent = pickle.dumps(store)
    assert len(sent) < 3 * 128 * 128  # less than one patch
    assert torch.equal(pickle.loads(sent).image(3), store.image(3))


# Files that cannot be read


def test_rejected_files_are_named_counted_listed_and_left_out(tiles, tmp_path, decoded):
    (tiles / "slide0/bad.png").write_bytes(b"no image")
    whole = (tiles / "slide0/00.png").read_bytes()
    (tiles / "slide0/torn, half.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        store = prepare(tiles, tmp_path / "cache", maximum_rejected_share=0.2)
        assert len(store) == 12
        for index, file in enumerate(store.files):
            np.testing.assert_array_equal(store.image(index).permute(1, 2, 0), read_rgb(tiles, file))
        assert [(source, file) for source, file, _ in store.rejected] == [
            (str(tiles), "slide0/bad.png"),
            (str(tiles), "slide0/torn, half.png"),
        ]
        with open(tmp_path / "cache/rejected.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        assert rows == [["source", "file", "reason"], *map(list, store.rejected)] and all(row[2] for row in rows)
    assert len(decoded) == 14  # the bad ones were not tried again either
    write_patches(tiles, ["slide0/bad.png", "slide0/torn, half.png"], seed=3)  # mended
    assert len(prepare(tiles, tmp_path / "cache")) == 14
    assert (tmp_path / "cache/rejected.csv").read_text().strip() == "source,file,reason"


def test_too_many_rejected_files_stop_the_run(tiles, tmp_path):
    for number in range(3):
        (tiles / f"bad{number}.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match="3 of 15 files.*0.01.*bad0.png: it is empty.*rejected.csv.*--maximum_rejected_share"
    ):
        prepare(tiles, tmp_path / "cache")
    assert len((tmp_path / "cache/rejected.csv").read_text().splitlines()) == 4
    assert len(prepare(tiles, tmp_path / "cache", maximum_rejected_share=0.2)) == 12  # exactly the share is allowed


def test_the_run_stops_as_soon_as_too_many_are_known(tiles, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(store_module, "CHUNK_PATCHES", 4)
    (tiles / "a-bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="at least 1 of 13"):
        prepare(tiles, tmp_path / "cache")
    assert len(decoded) == 4


def test_no_usable_image_is_an_error_whatever_the_share(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"no file of '{tmp_path}/a' can be read"):
        prepare(tmp_path / "a", tmp_path / "cache", maximum_rejected_share=1.0)


def test_a_file_gone_after_prepare_is_named(tiles, tmp_path):
    store = prepare(tiles, tmp_path / "cache", cache_gigabytes=0)
    (tiles / store.files[0]).unlink()
    with pytest.raises(ValueError, match=store.files[0]):
        store.image(0)


# Settings and disk


@pytest.mark.parametrize(
    "setting", [{"size": 0}, {"size": 64.0}, {"maximum_rejected_share": 1.5}, {"cache_gigabytes": -1}, {"workers": 0}]
)
def test_bad_settings_are_named_with_their_flag(tiles, tmp_path, setting):
    name, value = next(iter(setting.items()))
    flag = "patch_size" if name == "size" else name
    with pytest.raises(ValueError, match=f"--{flag} is {value}; it must be a"):
        prepare(tiles, tmp_path / "cache", **setting)
    assert not (tmp_path / "cache").exists()


def test_a_cache_folder_that_cannot_be_made_is_named(tiles, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"{tmp_path}/file.*--cache_dir"):
        prepare(tiles, tmp_path / "file")


@pytest.mark.parametrize("full_at", [0, 1, 2])  # the pixels, their records, the whole index
def test_a_full_disk_is_reported_and_leaves_no_half_file(tiles, tmp_path, monkeypatch, full_at):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"disk is full: .*(u8|npz) could not be written.*--cache_gigabytes") as caught:
        prepare(tiles, tmp_path / "cache")
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == max(full_at - 1, 0)
    monkeypatch.undo()
    store = prepare(tiles, tmp_path / "cache")
    np.testing.assert_array_equal(store.image(5).permute(1, 2, 0), read_rgb(tiles, store.files[5]))
    assert len(list((tmp_path / "cache").rglob("*.u8"))) == 1  # rows that no facts name go with their file


def test_running_out_of_open_files_is_no_damage(tiles, tmp_path, monkeypatch):
    """Neither of the cache, which would be decoded again, nor of an image, which would be left out."""
    store = prepare(tiles, tmp_path / "cache")

    def refuse(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        prepare(tiles, tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match=r"Too many open files.*ulimit -n"):
        read_rgb(tiles, store.files[0])


def test_each_run_has_its_file_of_pixels_and_few_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.data.cache.OPEN_FILES", 2)
    for run in range(4):
        images = write_patches(tmp_path / "a", [f"{run}.png"], seed=run)
        store = prepare(tmp_path / "a", tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.u8"))) == len(images) + 3 == 4
    for index, file in enumerate(store.files):
        np.testing.assert_array_equal(store.image(index).permute(1, 2, 0), read_rgb(tmp_path / "a", file))
    assert len(store.caches[str(tmp_path / "a")]._maps) == 2


def test_the_sources_are_never_written_to(tiles, tmp_path):
    before = content(tiles)
    prepare(tiles, tmp_path / "cache")
    assert content(tiles) == before


def test_a_second_process_waits_for_the_first(tiles, tmp_path):
    (tmp_path / "cache").mkdir()
    done = threading.Event()
    waiter = threading.Thread(target=lambda: (prepare(tiles, tmp_path / "cache"), done.set()))
    with FileLock(tmp_path / "cache/.lock"):
        waiter.start()
        time.sleep(0.5)
        assert not done.is_set() and not list((tmp_path / "cache").rglob("*.np[yz]"))
    waiter.join(10)
    assert done.is_set()


def test_real_patches(tmp_path, decoded):
    folder = os.environ.get("HISTODIFFUSION_DATA")
    if not folder or not Path(folder, "pretrain").is_dir():
        pytest.skip("HISTODIFFUSION_DATA does not name a folder that holds pretrain/")
    slides = sorted(path for path in Path(folder, "pretrain").iterdir() if path.is_dir())[:2]
    (tmp_path / "part").mkdir()
    for slide in slides:
        (tmp_path / "part" / slide.name).mkdir()
        for path in sorted(slide.iterdir())[:50]:
            (tmp_path / "part" / slide.name / path.name).symlink_to(path)
    store = prepare(tmp_path / "part", tmp_path / "cache", size=64)
    assert len(store) == 100 and not store.rejected and set(store.groups) == {slide.name for slide in slides}
    assert 100 < store.image(0).float().mean() < 255
    decoded.clear()
    prepare(tmp_path / "part", tmp_path / "cache", size=64)
    assert decoded == []
