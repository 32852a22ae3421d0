"""A pool from elsewhere is believed only as far as its files say, and does nothing but what its record may."""

import json
import shutil

import pytest
from candidates import CLASSES, IDENTITY, SIDE, candidate, fill_pool, keys
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bundle.data.sources import UnreadableImage
from bundle.synthesis.extension import sealed
from bundle.synthesis.pool import Pool
from bundle.synthesis.stored_pool import StoredPool, number_to_ask


@pytest.fixture
def folder(tmp_path):
    return fill_pool(tmp_path / "pool", keys(3))


def read_all(folder, classes=CLASSES):
    pool = StoredPool(folder, SIDE)
    return {key: pool.read(*key) for key in pool.require_classes(classes)}


def test_all_images_are_found_and_read(folder):
    found = read_all(folder)
    assert list(found) == sorted(keys(3))
    assert all((image == candidate(*key)).all() for key, image in found.items())
    (folder / "manifest.csv").unlink()  # written at the end only: a killed run leaves none
    (folder / "TUM" / ".TUM_9.77.tmp.png").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert read_all(folder).keys() == found.keys()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing is written"


def unmarked(folder):
    Image.fromarray(candidate("TUM", 1)).save(folder / "TUM" / "TUM_1.png")


def not_said_to_be_synthetic(folder):
    """As another program saves it: with all fields but one."""
    path = folder / "TUM" / "TUM_1.png"
    texts = PngInfo()
    with Image.open(path) as image:
        for name, value in image.text.items():
            if name != "SyntheticData":
                texts.add_itxt(name, value)
        image.save(path, pnginfo=texts)


def of_another_pool(folder):
    other = {**IDENTITY, "model": "b" * 64}
    with Pool(folder.parent / "other", other) as pool:
        pool.add("TUM", 1, candidate("TUM", 1))
    shutil.copy(folder.parent / "other/TUM/TUM_1.png", folder / "TUM")


def of_other_settings(folder):
    with Pool(folder.parent / "other", {**IDENTITY, "settings": {"steps": 4}}) as pool:
        pool.add("TUM", 1, candidate("TUM", 1))
    shutil.copy(folder.parent / "other/TUM/TUM_1.png", folder / "TUM")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (unmarked, "TUM_1.png does not belong to this pool: its marks are .*'ModelHash': None.*Remove it"),
        (not_said_to_be_synthetic, "TUM_1.png does not belong to this pool: .*'SyntheticData': None"),
        (of_another_pool, "TUM_1.png does not belong to this pool: .*bbb.*aaa"),
        (of_other_settings, "TUM_1.png does not belong to this pool"),
        (lambda pool: (pool / "TUM/TUM_1.png").rename(pool / "TUM/TUM_5.png"), "TUM_5.png does not.*'Seed': '1'.*'5'"),
        (
            lambda pool: shutil.copy(pool / "ADI/ADI_1.png", pool / "TUM/TUM_1.png"),
            "TUM_1.png does not belong to this pool: .*'Class': 'ADI'.*'Class': 'TUM'",
        ),
        (lambda pool: (pool / "TUM/note.txt").touch(), "TUM/note.txt does not belong to a pool"),
        (lambda pool: (pool / "TUM/TUM_01.png").touch(), "TUM/TUM_01.png does not belong to a pool"),
        (lambda pool: (pool / "TUM/ADI_1.png").touch(), "TUM/ADI_1.png does not belong to a pool"),
        (lambda pool: (pool / "tile.png").touch(), "pool/tile.png does not belong to a pool"),
        (lambda pool: (pool / "LYM").mkdir(), "class 'LYM' is not one of the labelled images, ADI, STR, TUM"),
        (
            lambda pool: shutil.rmtree(pool / "TUM"),
            "pool has no image of the class 'TUM' .*configs/inference.json --dataset_dir .*pool --classes TUM",
        ),
        (lambda pool: (pool / "pool.json").write_text("[]"), "pool.json can't be read as the identity of a pool"),
        (
            lambda pool: change(pool, hash="0"),
            "pool.json is not as a pool's was written.*hash 0, expected [0-9a-f]{64}",
        ),
        (lambda pool: change(pool, identity={**IDENTITY, "model": "c"}), "pool.json is not as a pool's was written"),
        (lambda pool: change(pool, format="x/1"), "format 'x/1', expected 'histodiffusion-pool/1'"),
    ],
)
def test_what_does_not_belong_there_is_refused_by_name(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        read_all(folder)


def change(pool, **fields):
    content = json.loads((pool / "pool.json").read_text())
    (pool / "pool.json").write_text(json.dumps({**content, **fields}))


def test_a_folder_without_identity_is_no_pool(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a pool: it has no pool.json. Name one with --pool_dir, or"):
        read_all(tmp_path)


def test_images_of_another_size_are_refused(folder):
    with pytest.raises(ValueError, match="ADI_0.png is 32 x 32 pixels, expected 64 x 64: give .* with --patch_size"):
        StoredPool(folder, 64).read("ADI", 0)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", None])
def test_a_broken_file_is_told_from_a_foreign_one(folder, content):
    path = folder / "TUM/TUM_1.png"
    path.write_bytes(path.read_bytes()[:-400] if content is None else content)
    with pytest.raises(UnreadableImage, match="TUM/TUM_1.png"):
        StoredPool(folder, SIDE).read("TUM", 1)


# Having it extended

RECORD = {"config": "inference.json", "settings": {"adapted_dir": "/weights", "eta": 0.5}}


@pytest.fixture
def called(monkeypatch):
    """What would be run."""
    calls = []
    monkeypatch.setattr(
        "bundle.synthesis.stored_pool.run_config", lambda name, **settings: calls.append((name, settings))
    )
    return calls


def test_the_recorded_command_is_run_for_this_pool(tmp_path, called):
    folder = fill_pool(tmp_path / "pool", keys(2), extend=RECORD)
    StoredPool(folder, SIDE).make_more(["TUM", "ADI"], 7, tmp_path / "extension")
    settings = {"adapted_dir": "/weights", "eta": 0.5, "classes": ["TUM", "ADI"], "num_images": 7}
    settings |= {"dataset_dir": str(folder), "output_dir": str(tmp_path / "extension")}
    assert called == [("inference.json", settings)]


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"config": "inference.json"},
        {"config": 3, "settings": {}},
        {"config": ["inference.json"], "settings": {}},
        {"config": "inference.json", "settings": 3},
        {"config": "absent.json", "settings": {}},
        {"config": "pretrain.json", "settings": {}},  # a config of the bundle that makes no pool
        {"config": "../configs/inference.json", "settings": {}},
        {"config": "inference.json", "settings": {"mlflow_tracking_uri": "https://example.org"}},
        {"config": "inference.json", "settings": {"output_dir": "/tmp/evil"}},
        {"config": "inference.json", "settings": {"seed": "7"}},
        {"config": "inference.json", "settings": {"bundle_root": "/tmp/evil"}},
        {"config": "inference.json", "settings": {"run": ["$print(1)"]}},
        {"config": "inference.json", "settings": {"pool::_target_": "os.system"}},
        {"config": "inference.json", "settings": {"network_def#_target_": "os.system"}},
        {"config": "inference.json", "settings": {"network_def": "x"}},
        {"config": "inference.json", "settings": {"run_id": "x"}},
    ],
)
def test_a_record_that_asks_for_more_is_refused(tmp_path, called, record):
    """It may come from a stranger, who can write the hash too: only flags that the config itself writes are taken."""
    folder = fill_pool(tmp_path / "pool", keys(1))
    pool_hash = json.loads((folder / "pool.json").read_text())["hash"]
    whole = isinstance(record, dict) and "settings" in record
    change(folder, extend=sealed(record, pool_hash) if whole else record)
    with pytest.raises(ValueError, match="pool.json.*--maximum_rounds 0"):
        StoredPool(folder, SIDE).make_more(["TUM"], 7, tmp_path / "extension")
    assert called == []


@pytest.mark.parametrize(
    "config, settings, message",
    [
        ("inference.json", {"adapted_dir": "$__import__('os').system('true')"}, "only plain values"),
        ("inference.json", {"eta": {"_target_": "os.system", "command": "true"}}, "only plain values"),
        ("inference.json", {"network_def#_target_": "os.system"}, "'network_def#_target_' is no flag"),
        ("baseline_inference.json", {"mlflow_tracking_uri": "https://a.org"}, "'mlflow_tracking_uri' is no flag"),
        ("baseline_inference.json", {"adapted_dir": "/weights"}, "'adapted_dir' is no flag of .*baseline_inference"),
        ("select.json", {}, "by inference.json or baseline_inference.json, not by 'select.json'"),
    ],
)
def test_a_refusal_names_what_it_refuses(tmp_path, config, settings, message):
    folder = fill_pool(tmp_path / "pool", keys(1), extend={"config": config, "settings": settings})
    with pytest.raises(ValueError, match=message):
        StoredPool(folder, SIDE).make_more(["TUM"], 7, tmp_path / "extension")
    assert not (tmp_path / "extension").exists()


def test_a_record_is_covered_by_a_hash_with_its_pool(tmp_path, called):
    """Of an earlier version it is not: such a pool is read as before, and says how its record is renewed."""
    folder = fill_pool(tmp_path / "pool", keys(1), extend=RECORD)
    kept = json.loads((folder / "pool.json").read_text())
    changed = {**kept["extend"], "settings": {**RECORD["settings"], "adapted_dir": "/other"}}
    of_another_pool = sealed(RECORD, "0" * 64)
    for record, message in ((changed, "was changed since"), (of_another_pool, "was changed"), (RECORD, "an earlier")):
        change(folder, extend=record)
        assert read_all(folder).keys() == set(keys(1)) and StoredPool(folder, SIDE).prepare().hash == kept["hash"]
        with pytest.raises(ValueError, match=f"pool.json.*{message}"):
            StoredPool(folder, SIDE).make_more(["TUM"], 7, tmp_path / "extension")
    fill_pool(folder, keys(1), extend=RECORD)  # the former command
    StoredPool(folder, SIDE).make_more(["TUM"], 7, tmp_path / "extension")
    assert len(called) == 1


@pytest.mark.parametrize(
    "exists, first, total, number",
    [
        (range(4), 0, 10, 10),
        ({0, 1, 2, 7}, 0, 6, 5),  # 3 and 4 are new
        ({0, 1, 2, 7}, 0, 8, 7),  # 3, 4, 5 and 6 are new
        (range(4), 100, 6, 2),
        (range(4), 0, 4, 0),
    ],
)
def test_how_many_to_ask_for(exists, first, total, number):
    asked = set(range(first, first + number))
    assert number_to_ask(set(exists), first, total) == number
    assert number == 0 or len(set(exists) | asked) == total
