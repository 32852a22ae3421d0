"""A pool as NIfTI: the same pixels in MONAI and here, the right way round, and never taken for real images."""

import csv
import json
import re
import sys

import nibabel
import numpy as np
import pytest
from chosen import synthetic_picture, write_chosen, write_pool
from helpers import ROOT
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, SqueezeDimd
from PIL import Image

from bundle.data.guards import require_no_synthetic
from bundle.data.labelled import LabelledPatches
from bundle.data.marks import (
    ALGORITHMIC_MEDIA,
    TRAINED_ALGORITHMIC_MEDIA,
    read_marks,
    save_marked_nifti,
    save_marked_png,
)
from bundle.data.sources import find_items, read_rgb

sys.path.insert(0, str(ROOT / "scripts"))

import pool_to_nifti  # noqa: E402

CLASSES = ("ADI", "TUM")
# Neither square nor symmetric: any flip or exchange of axes would show.
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def convert(monkeypatch, **flags):
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["pool_to_nifti.py", *given])
    pool_to_nifti.main()


@pytest.fixture
def pool(tmp_path):
    return write_pool(tmp_path / "pool", CLASSES, count=3)


def test_monai_reads_the_same_pixels_the_same_way_round(tmp_path):
    save_marked_nifti(tmp_path / "a.nii.gz", IMAGE, TRAINED_ALGORITHMIC_MEDIA, {"Class": "TUM"})
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    separate = Compose([LoadImaged("image", dtype=np.uint8), EnsureChannelFirstd("image")])
    at_once = LoadImaged("image", ensure_channel_first=True, dtype=np.uint8)
    turned = Compose([at_once, Orientationd("image", axcodes="RAS")])  # what most pipelines do next
    for transform in (separate, at_once, turned):
        found = transform({"image": str(tmp_path / "a.nii.gz")})["image"]
        assert found.dtype == at_once({"image": str(tmp_path / "a.png")})["image"].dtype
        np.testing.assert_array_equal(found.numpy()[..., 0], IMAGE.transpose(2, 1, 0))
        assert found.shape == (3, 30, 20, 1)
    of_png = at_once({"image": str(tmp_path / "a.png")})["image"]
    flat = SqueezeDimd("image", dim=-1)(at_once({"image": str(tmp_path / "a.nii.gz")}))["image"]
    np.testing.assert_array_equal(flat.numpy(), of_png.numpy())
    batch = next(iter(DataLoader(Dataset([{"image": str(tmp_path / "a.nii.gz")}] * 2, at_once), batch_size=2)))
    assert batch["image"].shape == (2, 3, 30, 20, 1)


def test_this_bundle_reads_the_same_pixels(tmp_path):
    save_marked_nifti(tmp_path / "deep" / "a.nii.gz", IMAGE, TRAINED_ALGORITHMIC_MEDIA)
    assert [file for file, _, _ in find_items(tmp_path)] == ["deep/a.nii.gz"]
    np.testing.assert_array_equal(read_rgb(tmp_path, "deep/a.nii.gz"), IMAGE)


def test_voxels_have_the_size_of_the_pixels(tmp_path):
    save_marked_nifti(tmp_path / "a.nii.gz", IMAGE, TRAINED_ALGORITHMIC_MEDIA, pixel_size=0.5)
    save_marked_nifti(tmp_path / "b.nii.gz", IMAGE, TRAINED_ALGORITHMIC_MEDIA)
    sized, unsized = (nibabel.load(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_allclose(sized.affine, np.diag([0.0005, 0.0005, 0.0005, 1]), rtol=1e-6)
    assert sized.header.get_xyzt_units()[0] == "mm" and unsized.header.get_xyzt_units()[0] == "unknown"
    np.testing.assert_array_equal(unsized.affine, np.eye(4))
    assert nibabel.aff2axcodes(sized.affine) == ("R", "A", "S") and sized.get_data_dtype() == np.uint8
    found = LoadImaged("image")({"image": str(tmp_path / "a.nii.gz")})["image"]
    np.testing.assert_allclose(found.pixdim, 0.0005, rtol=1e-6)


def test_nifti_bears_the_marks_of_a_png(tmp_path):
    fields = {"Class": "TUM", "Note": "128 µm · α"}
    save_marked_png(tmp_path / "a.png", IMAGE, TRAINED_ALGORITHMIC_MEDIA, fields)
    for name in ("a.nii.gz", "b.nii.gz"):
        save_marked_nifti(tmp_path / name, IMAGE, TRAINED_ALGORITHMIC_MEDIA, fields)
    assert (
        read_marks(tmp_path / "a.nii.gz") == read_marks(tmp_path / "a.png") and len(read_marks(tmp_path / "a.png")) == 5
    )
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.nii.gz", "a.png", "b.nii.gz"]


def test_the_description_alone_is_a_mark_too(tmp_path):
    """As other programs leave a file that they save again: with the header, without extensions."""
    save_marked_nifti(tmp_path / "a.nii.gz", IMAGE, TRAINED_ALGORITHMIC_MEDIA)
    loaded = nibabel.load(tmp_path / "a.nii.gz")
    loaded.header.extensions.clear()
    nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine, loaded.header), tmp_path / "again.nii")
    assert read_marks(tmp_path / "again.nii") == {"SyntheticData": "YES"}


def foreign(path, extension=None):
    nifti = nibabel.Nifti1Image(IMAGE.swapaxes(0, 1)[:, :, None], np.eye(4))
    nifti.header["descrip"] = b"scanner"
    if extension is not None:
        nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", extension))
    nibabel.save(nifti, path)
    return path


def test_foreign_and_damaged_files(tmp_path):
    paths = [
        foreign(tmp_path / "plain.nii"),
        foreign(tmp_path / "note.nii.gz", b"not JSON"),
        foreign(tmp_path / "list.nii", b"[1, 2]"),
        foreign(tmp_path / "other.NII", b'{"SyntheticData": "NO"}'),
    ]
    assert [read_marks(path) for path in paths] == [{}] * 4
    assert require_no_synthetic([*paths, tmp_path / "tiles.zip#a.nii.gz"]) is False
    torn = tmp_path / "torn.nii.gz"
    whole = (tmp_path / "note.nii.gz").read_bytes()
    for content in (whole[:60], whole[:15] + b"\xff" * 40 + whole[55:], b"", b"text", b"\x1f\x8b"):
        torn.write_bytes(content)
        with pytest.raises(OSError):
            read_marks(torn)


def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path):
    for arguments, message in (
        ((tmp_path / "a.nii", IMAGE, ALGORITHMIC_MEDIA), "must end in .nii.gz"),
        ((tmp_path / "a.nii.gz", IMAGE[..., 0], ALGORITHMIC_MEDIA), "uint8"),
        ((tmp_path / "a.nii.gz", IMAGE, "painting"), "painting"),
        ((tmp_path / "a.nii.gz", IMAGE, ALGORITHMIC_MEDIA, {"Software": "x"}), "Software"),
        ((tmp_path / "a.nii.gz", IMAGE, ALGORITHMIC_MEDIA, None, 0.0), "pixel_size is 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            save_marked_nifti(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_is_written_whole_and_read_back(pool, tmp_path, monkeypatch, capsys):
    convert(monkeypatch, pool_dir=pool, output_dir=tmp_path / "out", microns_per_pixel=2)
    assert "LoadImaged('image', ensure_channel_first=True)" in capsys.readouterr().out
    with open(tmp_path / "out" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["label"], row["seed"]) for row in rows] == [
        (name, str(label), str(seed)) for label, name in enumerate(CLASSES) for seed in range(3)
    ]
    read = LoadImaged("image", ensure_channel_first=True, dtype=np.uint8)
    for row in rows:
        path = tmp_path / "out" / row["file"]
        picture = synthetic_picture(row["class"], int(row["seed"]), 16)
        np.testing.assert_array_equal(read({"image": str(path)})["image"].numpy()[..., 0], picture.transpose(2, 1, 0))
        np.testing.assert_array_equal(read_rgb(tmp_path / "out", row["file"]), picture)
        assert read_marks(path) == read_marks(pool / row["source"])
        assert (row["generator"], row["model_hash"]) == ("test", "a" * 64)
        assert row["config_hash"] == read_marks(path)["ConfigHash"]
    assert len(find_items(tmp_path / "out")) == 6


def test_the_documented_pipeline_reads_a_pool(pool, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "explanation" / "integration.md").read_text(encoding="utf-8")
    code = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    assert "LoadImaged" in code
    convert(monkeypatch, pool_dir=pool, output_dir=tmp_path / "runs" / "nifti")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    item = found["dataset"][4]
    assert item["label"] == 1 and item["image"].shape == (3, 16, 16)
    picture = synthetic_picture("TUM", 1, 16).transpose(2, 1, 0) / 255
    np.testing.assert_allclose(item["image"].numpy(), picture, atol=1e-6)


def test_the_selected_images_alone(pool, tmp_path, monkeypatch):
    table = write_chosen(tmp_path / "selection.csv", pool, CLASSES, "split", quota=2, count=3)
    moved = pool.rename(tmp_path / "moved")
    convert(monkeypatch, selection_file=table, pool_dir=moved, ratio=50, output_dir=tmp_path / "half")
    convert(monkeypatch, selection_file=table, pool_dir=moved, output_dir=tmp_path / "all")
    assert [file for file, _, _ in find_items(tmp_path / "half")] == ["ADI/ADI_0.nii.gz", "TUM/TUM_0.nii.gz"]
    assert len(find_items(tmp_path / "all")) == 4
    with pytest.raises(ValueError, match=r"all holds other images \(ratio: 100 there, 50 here\): .*--output_dir"):
        convert(monkeypatch, selection_file=table, pool_dir=moved, ratio=50, output_dir=tmp_path / "all")
    with pytest.raises(ValueError, match="no set of 70 %"):
        convert(monkeypatch, selection_file=table, pool_dir=moved, ratio=70, output_dir=tmp_path / "none")
    other = write_pool(tmp_path / "other", CLASSES, identity={"generator": "b", "model": "b" * 64, "settings": {}})
    with pytest.raises(ValueError, match="was selected from a pool of hash .*name the former with --pool_dir"):
        convert(monkeypatch, selection_file=table, pool_dir=other, output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_goes_on_and_a_grown_pool_is_followed(pool, tmp_path, monkeypatch):
    out, saved = tmp_path / "out", []

    def save(path, *arguments):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        save_marked_nifti(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(pool_to_nifti, "save_marked_nifti", save)
        with pytest.raises(KeyboardInterrupt):
            convert(patched, pool_dir=pool, output_dir=out)
    assert len(list(out.rglob("*.nii.gz"))) == 2 and not (out / "manifest.csv").exists()
    (out / "ADI" / ".ADI_2.nii.1.tmp.gz").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in saved}
    convert(monkeypatch, pool_dir=pool, output_dir=out)
    assert {path: path.stat().st_mtime_ns for path in saved} == times
    convert(monkeypatch, pool_dir=pool, output_dir=tmp_path / "whole")

    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content(out) == content(tmp_path / "whole")
    write_pool(pool, CLASSES, count=4)
    convert(monkeypatch, pool_dir=pool, output_dir=out)
    assert len(list(out.rglob("*.nii.gz"))) == 8 and len((out / "manifest.csv").read_text().splitlines()) == 9


def test_what_cannot_be_written_is_refused(pool, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "pool.json").write_bytes((pool / "pool.json").read_bytes())
    for flags, message in (
        ({"pool_dir": pool, "output_dir": tmp_path / "mine"}, "mine is not empty: it has notes.txt. .*--output_dir"),
        ({"pool_dir": tmp_path / "empty"}, "there is no image to write: .*empty has none"),
        ({"pool_dir": pool, "microns_per_pixel": -1}, "--microns_per_pixel is -1.0"),
        ({"pool_dir": pool, "ratio": 50}, "--selection_file, which --ratio is of"),
        ({}, "name a pool with --pool_dir"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(monkeypatch, **{"output_dir": tmp_path / "none", **flags})
    (pool / "ADI" / "ADI_1.png").write_bytes((pool / "ADI" / "ADI_2.png").read_bytes())
    with pytest.raises(ValueError, match="ADI_1.png does not belong to this pool"):
        convert(monkeypatch, pool_dir=pool, output_dir=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "nifti.json").read_text())["microns_per_pixel"] is None


@pytest.mark.parametrize("place", ["train", "test"])
def test_labelled_and_test_data_refuse_them(pool, tmp_path, monkeypatch, place):
    convert(monkeypatch, pool_dir=pool, output_dir=tmp_path / "out")
    for number in range(12):
        for part in ("train", "test"):
            path = tmp_path / part / CLASSES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, part == "test"]).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(path)

    def prepare(run):
        folders = tmp_path / "train", tmp_path / "test", 16, tmp_path / "cache"
        return LabelledPatches(*folders, tmp_path / f"{run}.csv").prepare()

    foreign(tmp_path / place / "TUM" / "scanned.nii.gz")  # real images may be NIfTI
    prepare("before")
    (tmp_path / "out" / "TUM" / "TUM_1.nii.gz").rename(tmp_path / place / "TUM" / "made.nii.gz")
    with pytest.raises(
        ValueError, match=f"1 images are marked as synthetic: .*{place}/TUM/made.nii.gz. .*must be real"
    ):
        prepare("after")
