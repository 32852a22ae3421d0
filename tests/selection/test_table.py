"""The table of a selection comes back as it was written, and nothing else is taken for one."""

import hashlib
import json

import pytest

from bundle.selection.table import COLUMNS, SelectionRow, read_selection, selected_items, write_selection

ROWS = [
    SelectionRow("TUM/TUM_3.png", "TUM", 3, 0.912345, 0.1, 0.2, "TUM", 2, True, "kept", 100, None),
    SelectionRow("TUM/TUM_4.png", "TUM", 4, 0.95, 0.05, 0.1, "TUM", 1, True, "kept", 50, 100),
    SelectionRow("TUM/TUM_5.png", "TUM", 5, 1.0, 1e-06, 0.3, "TUM", 3, False, "copy of TUM/TUM_4.png", None, 50),
    SelectionRow("ADI/ADI_0.png", "ADI", 0, 0.2, 0.69, 1.25, "TUM", None, False, "other class", None, None),
    SelectionRow("ADI/ADI_9.png", "ADI", 9, 0.9, 0.3, 0.4, "ADI", 1, True, "kept", 50, 50),
]
FACTS = {
    "pool": "pool",
    "pool_hash": "ab",
    "split": "cd",
    "classes": ["TUM", "ADI"],
    "ratios": [50, 100],
    "labelled": {"TUM": 2, "ADI": 2},
    "quotas": {"TUM": {50: 1, 100: 2}, "ADI": {50: 1, 100: 2}},
    "shortfall": {"TUM": {50: 0, 100: 0}, "ADI": {50: 0, 100: 1}},
    "settings": {"keep_fraction": 0.5},
}


@pytest.fixture
def written(tmp_path):
    pool = tmp_path / "pool"
    for row in ROWS:
        (pool / row.file).parent.mkdir(parents=True, exist_ok=True)
        (pool / row.file).touch()
    return write_selection(tmp_path / "selection.csv", ROWS, {**FACTS, "pool": pool})


def rewrite(path, old, new, sign=True):
    """Changes the table and, where `sign`, the hash in the facts with it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if sign:
        change_facts(path, table_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def change_facts(path, **facts):
    path = path.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_round_trip(written, tmp_path):
    rows, facts = read_selection(written)
    assert rows == ROWS
    assert [list(map(type, row)) for row in rows] == [list(map(type, row)) for row in ROWS]
    assert facts == {
        **FACTS,
        "format": "histodiffusion-selection/1",
        "pool": str(tmp_path / "pool"),
        "table_sha256": hashlib.sha256(written.read_bytes()).hexdigest(),
    }
    lines = written.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "TUM/TUM_3.png,TUM,3,0.912345,0.1,0.2,TUM,2,true,kept,100,"
    before = written.read_bytes(), written.with_suffix(".json").read_bytes()
    write_selection(written, rows, facts)
    assert before == (written.read_bytes(), written.with_suffix(".json").read_bytes())


@pytest.mark.parametrize("name", ['a, "b".png', "line\nbreak.png", "not \udcff UTF-8.png", "Gewebe_ä.png"])
def test_reasons_name_files_of_any_name(written, name):
    rows = [ROWS[2]._replace(reason=f"copy of {name}")]
    assert read_selection(write_selection(written, rows, FACTS))[0] == rows


def test_a_relative_pool_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_selection("selection.csv", ROWS, FACTS)
    assert read_selection(path)[1]["pool"] == str(tmp_path / "pool")


def test_a_changed_table_is_refused(written):
    rewrite(written, "0.912345", "0.999999", sign=False)
    with pytest.raises(ValueError, match="selection.csv is not the table that selection.json was written with"):
        read_selection(written)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_missing_file_is_refused(written, suffix):
    written.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=f"selection{suffix}: a selection is two files"):
        read_selection(written)


def test_only_a_csv_is_a_table(tmp_path):
    with pytest.raises(ValueError, match="selection.json can't be a selection: its name must end in .csv"):
        write_selection(tmp_path / "selection.json", ROWS, FACTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nearest_class", "nearest", "line 1: the columns are file,.*they must be file,class"),
        ("TUM/TUM_3.png", "../TUM_3.png", "line 2: '../TUM_3.png' can't be the file"),
        ("TUM/TUM_3.png", "/TUM/TUM_3.png", "can't be the file"),
        ("TUM/TUM_3.png", "C:TUM_3.png", "can't be the file"),
        ("TUM/TUM_3.png", "TUM\\..\\..\\3.png", "can't be the file"),
        ("TUM/TUM_3.png", "TUM/TUM_4.png", "line 3: 'TUM/TUM_4.png' is listed before"),
        ("png,TUM,3", "png,MUC,3", "'MUC' can't be the class"),
        ("TUM,3,", "TUM,-3,", "'-3' can't be the seed"),
        ("0.912345", "1.5", "'1.5' can't be the probability"),
        ("0.05", "nan", "'nan' can't be the entropy"),
        ("1.25", "-1.25", "'-1.25' can't be the distance"),
        ("1.25,TUM", "1.25,MUC", "'MUC' can't be the nearest_class"),
        ("TUM,2,", "TUM,2.5,", "'2.5' can't be the rank"),
        ("true", "yes", "'yes' can't be the kept"),
        ("other class", "ugly", "'ugly' can't be the reason"),
        ("kept,50,100", "kept,50,75", "'75' can't be the random_ratio"),
        ("kept,100,", "kept,75,", "'75' can't be the ratio"),
        ("true,kept,100", "false,kept,100", "line 2: kept, reason and ratio contradict each other"),
        ("true,kept,100", "true,kept,", "contradict"),
        ("true,kept,100", "true,uncertain,100", "contradict"),
        (",100,\n", ",100\n", "line 2: it has 11 fields, 12 are needed"),
    ],
)
def test_unfit_values_are_refused(written, old, new, message):
    rewrite(written, old, new)
    with pytest.raises(ValueError, match=message):
        read_selection(written)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "histodiffusion-pool/1"}, "its format is 'histodiffusion-pool/1', expected"),
        ({"classes": ["TUM", "TUM"]}, "the classes are"),
        ({"ratios": [100, 50]}, "the ratios are"),
        ({"ratios": [50.5, 100]}, "the ratios are"),
        ({"ratios": []}, "the ratios are"),
        ({"quotas": {"TUM": {"50": 1, "100": 2}}}, "'quotas' lacks a class or a ratio"),
        ({"shortfall": [1]}, "'shortfall' is not {class: {ratio: images}}"),
    ],
)
def test_unfit_facts_are_refused(written, facts, message):
    change_facts(written, **facts)
    with pytest.raises(ValueError, match=message):
        read_selection(written)


def test_missing_facts_are_refused(written, tmp_path):
    with pytest.raises(ValueError, match="has no 'split'"):
        write_selection(tmp_path / "other.csv", ROWS, {name: FACTS[name] for name in FACTS if name != "split"})
    assert not (tmp_path / "other.csv").exists()
    written.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="selection.json can't be read"):
        read_selection(written)


def test_what_could_not_be_read_is_not_written(written):
    before = written.read_bytes()
    with pytest.raises(ValueError, match="'copied' can't be the reason"):
        write_selection(written, [ROWS[2]._replace(reason="copied")], FACTS)
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("ratio", "random", "expected"),
    [
        (50, False, ["TUM/TUM_4", "ADI/ADI_9"]),
        (100, False, ["TUM/TUM_3", "TUM/TUM_4", "ADI/ADI_9"]),
        (None, False, ["TUM/TUM_3", "TUM/TUM_4", "ADI/ADI_9"]),
        (50, True, ["TUM/TUM_5", "ADI/ADI_9"]),
        (None, True, ["TUM/TUM_4", "TUM/TUM_5", "ADI/ADI_9"]),
    ],
)
def test_selected_items(written, tmp_path, ratio, random, expected):
    assert selected_items(written, ratio, random) == [
        {
            "image": str(tmp_path / "pool" / f"{name}.png"),
            "label": {"TUM": 0, "ADI": 1}[name[:3]],  # the order of the classes, not of the alphabet
            "class": name[:3],
        }
        for name in expected
    ]


def test_items_of_a_ratio_that_is_not_there(written):
    with pytest.raises(ValueError, match="selection.csv has no set of 200 %: it has 50, 100"):
        selected_items(written, 200)


def test_items_outside_the_pool_are_refused(written, tmp_path):
    (tmp_path / "TUM_3.png").touch()
    rewrite(written, "TUM/TUM_3.png", "../TUM_3.png")
    with pytest.raises(ValueError, match="'../TUM_3.png' can't be the file"):
        selected_items(written)


def test_missing_images_are_refused_and_a_moved_pool_is_found(written, tmp_path):
    (tmp_path / "pool").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="pool/TUM/TUM_3.png of the selection .* is missing"):
        selected_items(written)
    assert [item["image"] for item in selected_items(written, 50, pool=tmp_path / "moved")] == [
        str(tmp_path / "moved" / name) for name in ("TUM/TUM_4.png", "ADI/ADI_9.png")
    ]
