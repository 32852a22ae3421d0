"""A folder of slides from the command to what the pre-training and the adaptation read."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
from helpers import root_cause
from processes import CAN_FORK, fork_what_is_spawned
from pyramids import HEIGHT, WIDTH, blurred, pixels, write_slide

import bundle.slides.tiling as tiling_module
import bundle.slides.worker as worker
from bundle.data.labelled import LabelledPatches
from bundle.data.sources import list_source, read_rgb
from bundle.data.store import PatchStore
from bundle.runs.context import RunContext
from bundle.runs.files import DiskFull
from bundle.slides.fields import FieldRule
from bundle.slides.regions import RegionRule
from bundle.slides.slide_folder import SlideFolder
from bundle.slides.storage import Storage
from bundle.slides.tiling import Tiling
from bundle.slides.tissue import TissueRule

FINE = TissueRule(mpp=2.0, smoothing=2.0, closing=8.0, least_area=0.005, least_width=30.0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "ein Fall" / "Präparat 1.tif")
    write_slide(folder / "two.tif", array=pixels(1))
    return folder


def tile(slides, out, regions=None, storage=None, processes=1, shard=None, assume_mpp=None, **fields):
    fields = FieldRule(**{"patch_size": 128, **fields})
    folder = SlideFolder(slides, out / "cache", shard=shard, assume_mpp=assume_mpp)
    made = Tiling(
        folder, FINE, regions or RegionRule(), fields, storage or Storage(), RunContext(out, shared=True), processes
    )
    made.folder.open()
    try:
        made.check()
        made.run_share()
        made.run()
    finally:
        made.folder.close()
    return made.folder.metrics()["tiling"]


def rows_of(out):
    with open(out / "patches.csv", newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def contents(out):
    return {path.name: path.read_bytes() for path in sorted((out / "patches").iterdir())}


@pytest.fixture(scope="module")
def whole(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    tile(slides, out)
    return out


def test_patches_are_the_tissue_with_all_that_is_known_of_them(whole, slides):
    rows, figures = rows_of(whole), json.loads((whole / "metrics.json").read_text())["tiling"]
    assert len(rows) == figures["patches"] == 2 * (4 * 4 + 4 * 4) and figures["finished"] == 2
    assert {row["slide"] for row in rows} == {"Präparat 1", "two"}
    first = rows[0]
    assert (first["x"], first["y"], first["level"], first["pixels"]) == ("128", "128", "0", "128")
    assert float(first["microns_per_pixel"]) == 0.5 and float(first["tissue"]) > 0.9 and float(first["sharpness"]) > 0.1
    assert figures["left_out"]["pen"] >= 4 and figures["left_out"]["dust or an edge of glass"] > 0
    assert figures["left_out"]["glass"] > 0 and figures["patches_a_second"] > 0
    assert (whole / "thumbnails" / "two.jpg").is_file() and (whole / "contact_sheet.png").is_file()
    archive, member = first["file"].split("#")
    with zipfile.ZipFile(whole / archive) as file:
        assert len(file.namelist()) == 32 and member in file.namelist()
    stored = read_rgb(whole, first["file"]).astype(int)
    assert abs(stored - pixels()[128:256, 128:256]).mean() < 6  # JPEG


def test_the_slide_is_the_group_and_pixels_are_read_in_place_without_a_copy(slides, whole, tmp_path):
    tile(slides, tmp_path / "png", storage=Storage("png"))
    tile(slides, tmp_path / "hdf5", storage=Storage("hdf5"))
    tile(slides, tmp_path / "place", storage=Storage("coordinates"))
    assert not (tmp_path / "place" / "patches").exists()
    stores = [PatchStore(str(tmp_path / name), 128, tmp_path / "cache") for name in ("png", "hdf5", "place")]
    for store in stores:
        assert len(store) == 64 and set(store.groups) == {"Präparat 1", "two"} and not store.rejected
        assert store.fingerprint == stores[0].fingerprint  # pixel for pixel
    jpeg = PatchStore(str(whole), 128, tmp_path / "cache")
    assert set(jpeg.groups) == {"Präparat 1", "two"} and len(jpeg) == 64
    assert len(list_source(tmp_path / "png" / "patches").items) == 64  # the archives alone are a source too


def test_in_place_what_changed_is_named(slides, tmp_path):
    moved = shutil.copytree(slides, tmp_path / "slides")
    tile(moved, tmp_path / "out", storage=Storage("coordinates"))
    (moved / "two.tif").unlink()
    listing = list_source(tmp_path / "out")
    file = next(name for name, *_ in listing.items if name.startswith("two/"))
    with pytest.raises(ValueError, match="two.tif: it is no file"):
        read_rgb(tmp_path / "out", file)
    shutil.rmtree(moved)
    with pytest.raises(FileNotFoundError, match="its slides are not in .*write their folder there as slides_dir"):
        list_source(tmp_path / "out")
    table = tmp_path / "out" / "patches.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",128,128,0", ",x,128,0"), encoding="utf-8")
    (tmp_path / "slides").mkdir()
    with pytest.raises(ValueError, match="patches.csv, row 2: it is damaged"):
        list_source(tmp_path / "out")


def geojson(path, *features):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]]},
            "properties": {"classification": {"name": name}},
        }
        for name, x, y, w, h in features
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


@pytest.mark.parametrize("kind", ["jpeg", "hdf5", "coordinates"])
def test_regions_give_labelled_patches_with_the_slide_as_group(slides, tmp_path, kind):
    for name in ("Präparat 1", "two"):
        geojson(tmp_path / "r" / f"{name}.geojson", ("TUM", 128, 128, 512, 512), ("NORM", 768, 128, 512, 256))
    out = tmp_path / "out"
    figures = tile(slides, out, regions=RegionRule(tmp_path / "r"), storage=Storage(kind))
    assert figures["classes"] == {"NORM": 16, "TUM": 32} and figures["left_out"]["outside the regions"] > 0
    labelled = LabelledPatches(str(out), None, 32, tmp_path / "cache", tmp_path / "split.csv", parts=("train",))
    assert labelled.classes == ["NORM", "TUM"] and sum(labelled.counts()["train"].values()) > 20
    assert set(labelled.store.groups) == {"Präparat 1", "two"}


def test_at_most_so_many_and_blurred_ones_are_replaced_by_neighbours(tmp_path):
    array = pixels()
    array[128:640, 128:384] = blurred(array[128:640, 128:384], 8)
    write_slide(tmp_path / "slides" / "one.tif", array=array)
    figures = tile(tmp_path / "slides", tmp_path / "out", maximum_patches=12, minimum_sharpness=0.1)
    assert figures["left_out"]["blurred"] > 0 and 8 <= figures["patches"] <= 12
    assert all(int(row["x"]) >= 384 for row in rows_of(tmp_path / "out"))
    figures = tile(tmp_path / "slides", tmp_path / "few", maximum_patches=3, minimum_sharpness=0)
    assert figures["patches"] == 3 and figures["left_out"]["beyond maximum_patches"] == 29


def test_a_killed_run_goes_on_slide_by_slide_and_equals_a_whole_one(slides, whole, tmp_path, monkeypatch):
    done = []

    def killed(plan, name, path):
        if done:
            raise KeyboardInterrupt
        done.append(name)
        return worker.tile_slide(plan, name, path)

    monkeypatch.setattr(tiling_module, "tile_slide", killed)
    with pytest.raises(KeyboardInterrupt):
        tile(slides, tmp_path)
    assert not (tmp_path / "patches.csv").exists()
    read = []
    monkeypatch.setattr(
        tiling_module, "tile_slide", lambda plan, name, path: read.append(name) or worker.tile_slide(plan, name, path)
    )
    tile(slides, tmp_path)
    assert read == [name for name in ("Präparat 1", "two") if name not in done]
    assert contents(tmp_path) == contents(whole) and rows_of(tmp_path) == rows_of(whole)
    tile(slides, tmp_path)
    assert len(read) == 1, "a finished slide was read again"


def test_a_kill_within_a_slide_leaves_none_that_looks_finished(slides, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "save_thumbnail", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tile(slides, tmp_path)
    assert not list((tmp_path / "slides").glob("*.json"))


def test_shards_and_processes_share_the_slides(slides, whole, tmp_path, monkeypatch):
    assert tile(slides, tmp_path / "shards", shard="2/2")["waiting"] == 1
    assert tile(slides, tmp_path / "shards", shard="1/2")["waiting"] == 0
    assert contents(tmp_path / "shards") == contents(whole) and rows_of(tmp_path / "shards") == rows_of(whole)
    if CAN_FORK:
        fork_what_is_spawned(monkeypatch)
        tile(slides, tmp_path / "processes", processes=2)
        assert contents(tmp_path / "processes") == contents(whole)


def test_shards_may_run_at_once_and_another_run_may_not(slides, tmp_path):
    held = RunContext(tmp_path, shared=True).folder
    held.place = (0, 2)
    held.open()
    try:
        assert tile(slides, tmp_path, shard="2/2")["waiting"] == 1
        with pytest.raises(RuntimeError, match="another run is writing"):
            tile(slides, tmp_path)
    finally:
        held.close()


def test_slides_that_cannot_be_used_are_named_and_left_out_and_tried_again(slides, tmp_path, caplog):
    folder = shutil.copytree(slides, tmp_path / "slides")
    content = (folder / "two.tif").read_bytes()
    (folder / "cut.svs").write_bytes(content[:5000])
    (folder / "empty.ndpi").touch()
    write_slide(folder / "coarse.tif", mpp=2.0)
    write_slide(folder / "glass.tif", array=np.full((HEIGHT, WIDTH, 3), 243, np.uint8))
    figures = tile(folder, tmp_path / "out")
    assert figures["patches"] == 64 and figures["failed"].keys() == {"cut", "empty", "coarse"}
    assert "cut.svs: OpenSlide knows no such slide; it is truncated" in figures["failed"]["cut"]
    assert figures["without_patches"] == ["glass"] and "look at thumbnails/" in caplog.text
    assert "left out: " in caplog.text and "3 slides can't be used" in caplog.text
    (folder / "cut.svs").write_bytes(content)
    figures = tile(folder, tmp_path / "out")
    assert len(list_source(tmp_path / "out").items) == 96
    assert figures["patches"] == 96 and figures["failed"].keys() == {"empty", "coarse"}


def test_nothing_at_all_is_an_error(tmp_path):
    write_slide(tmp_path / "slides" / "glass.tif", array=np.full((HEIGHT, WIDTH, 3), 243, np.uint8))
    with pytest.raises(ValueError, match="none of 1 slides gave a patch: glass gave none; look at thumbnails"):
        tile(tmp_path / "slides", tmp_path / "out")
    (tmp_path / "slides" / "glass.tif").write_bytes(b"II*\0")
    with pytest.raises(ValueError, match="none of 1 slides gave a patch: .*glass.tif: it is damaged or truncated"):
        tile(tmp_path / "slides", tmp_path / "out")


def test_wrong_regions_and_coordinates_cost_their_slide_alone(slides, tmp_path):
    geojson(tmp_path / "r" / "two.geojson", ("TUM", 128, 128, 512, 512))
    geojson(tmp_path / "r" / "Präparat 1.geojson", ("TUM", 99999, 128, 512, 512))
    figures = tile(slides, tmp_path / "out", regions=RegionRule(tmp_path / "r"))
    assert figures["patches"] == 16 and "outside the slide" in figures["failed"]["Präparat 1"]
    geojson(tmp_path / "r" / "two.geojson", ("TUM", 128, 128, 256, 512))
    geojson(tmp_path / "r" / "Präparat 1.geojson", ("TUM", 128, 128, 512, 512))
    assert tile(slides, tmp_path / "out", regions=RegionRule(tmp_path / "r"))["patches"] == 24  # drawn anew, so both


def test_a_full_disk_stops_the_run_and_finished_slides_stay(slides, tmp_path, monkeypatch):
    fill, filled = Storage.fill, []

    def full(self, path, work, comment=""):
        if filled:
            raise DiskFull(path)
        filled.append(fill(self, path, work, comment))

    monkeypatch.setattr(Storage, "fill", full)
    with pytest.raises(OSError, match="the disk is full: .* give the same command again"):
        tile(slides, tmp_path)
    assert len(list((tmp_path / "slides").glob("*.json"))) == len(list((tmp_path / "patches").iterdir())) == 1
    monkeypatch.setattr(Storage, "fill", fill)
    assert tile(slides, tmp_path)["patches"] == 64


def test_other_settings_need_another_folder(slides, tmp_path):
    tile(slides, tmp_path)
    with pytest.raises(ValueError, match="holds patches taken with patch_size 128, and 64 is asked for; .*output_dir"):
        tile(slides, tmp_path, patch_size=64)
    (tmp_path / "tiling.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="tiling.json is no record of a tiling"):
        tile(slides, tmp_path)


def test_two_slides_of_one_name_are_named(slides, tmp_path):
    folder = shutil.copytree(slides, tmp_path / "slides")
    shutil.copy(folder / "two.tif", folder / "ein Fall" / "Two.tif")
    with pytest.raises(ValueError, match="'ein Fall/Two.tif' and 'two.tif' are two slides of one name.*rename one"):
        tile(folder, tmp_path / "out")


def test_a_folder_without_slides_and_wrong_settings_are_refused(slides, tmp_path):
    for given, said in (
        ((tmp_path / "none", tmp_path), "--slides_dir: there is no folder"),
        ((tmp_path, tmp_path), "has no slides in it; they end in .svs"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            SlideFolder(*given).find()
    for given, said in (
        ({"shard": "3/2"}, "--shard is '3/2'; it must be I/N"),
        ({"shard": 2}, "--shard is 2"),
        ({"assume_mpp": 0}, "--assume_mpp is 0"),
    ):
        with pytest.raises(ValueError, match=said):
            SlideFolder(slides, tmp_path, **given)
    for given in ({"format": "gif"}, {"jpeg_quality": 0}, {"jpeg_subsampling": "4:1:1"}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} is "):
            Storage(**given)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="--regions_dir and --coordinates_dir both say"):
        tile(slides, tmp_path / "o", regions=RegionRule(tmp_path / "c"), coordinates_dir=tmp_path / "c")


def test_a_folder_of_dicom_files_is_one_slide_and_system_files_are_none(tmp_path):
    for name in ("a/x.dcm", "a/y.DCM", "b/one.svs", ".hidden/two.svs", "@eaDir/three.svs", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert SlideFolder(tmp_path, tmp_path).find() == {"a": "a", "one": "b/one.svs"}
    assert SlideFolder(tmp_path / "b" / "one.svs", tmp_path).find() == {"one": "one.svs"}


def test_the_built_in_slides_say_what_they_are(workflow, tmp_path):
    made = workflow("tile.json", output_dir=str(tmp_path), processes=1, **{"slides#generated_slides": 1})
    made.run()
    figures = json.loads((tmp_path / "metrics.json").read_text())["tiling"]
    assert figures["generated_slides"] is True and figures["patches"] > 10 and figures["left_out"]["pen"] > 0
    with zipfile.ZipFile(tmp_path / "patches" / "generated_slide_00.zip") as archive:
        assert b"not tissue" in archive.read(archive.namelist()[0])


def test_a_wrong_flag_ends_in_its_sentence(workflow, tmp_path):
    made = workflow("tile.json", output_dir=str(tmp_path), slides_dir=str(tmp_path), mpp=-1)
    with pytest.raises(Exception) as error:
        made.run()
    assert "--mpp is -1; it must be a number of µm above 0" in str(root_cause(error.value))
