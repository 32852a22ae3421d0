"""Which images are drawn, and what a table of a split may hold."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bundle.data.split import (
    SplitRow,
    choose_labelled,
    choose_validation,
    classes_of_split,
    find_copies,
    keep_split,
    read_split,
    write_split,
)


def table(**counts: int) -> dict[str, str]:
    return {f"{name}/{number:04d}.png": name for name, count in counts.items() for number in range(count)}


def of_each(labels: dict[str, str], chosen: list[str]) -> dict[str, int]:
    assert len(set(chosen)) == len(chosen) and set(chosen) <= labels.keys()
    return dict(sorted(Counter(labels[file] for file in chosen).items()))


def hash_of(number: int) -> str:
    return f"{number:064x}"


# What is drawn


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ({"a": 100, "b": 200, "c": 50}, 0.1, {"a": 10, "b": 20, "c": 5}),
        ({"a": 33, "b": 33, "c": 34}, 0.1, {"a": 3, "b": 3, "c": 4}),  # 3.3, 3.3, 3.4
        ({"a": 55, "b": 55, "c": 90}, 0.05, {"a": 3, "b": 3, "c": 4}),  # 2.75, 2.75, 4.5
        ({"a": 25, "b": 25, "c": 25}, 0.1, {"a": 3, "b": 3, "c": 2}),  # 7.5 rounds to 8; equal remainders by name
        ({"a": 3, "b": 2}, 1.0, {"a": 3, "b": 2}),
        ({"a": 3, "b": 2}, 1, {"a": 3, "b": 2}),
    ],
)
def test_a_fraction_is_divided_by_largest_remainder(counts, fraction, expected):
    labels = table(**counts)
    chosen = choose_labelled(labels, label_fraction=fraction)
    assert of_each(labels, chosen) == expected and len(chosen) == round(fraction * len(labels))


def test_five_percent_of_nct_crc_he_are_5000():
    counts = dict(ADI=10407, BACK=10566, DEB=11512, LYM=11557, MUC=8896, MUS=13536, NORM=8763, STR=10446, TUM=14317)
    labels = table(**counts)
    found = of_each(labels, choose_labelled(labels, label_fraction=0.05))
    assert sum(found.values()) == 5000
    assert all(abs(found[name] - 0.05 * counts[name]) < 1 for name in counts)


def test_exactly_so_many_of_each_class_or_all():
    labels = table(a=5, b=9)
    assert of_each(labels, choose_labelled(labels, labels_per_class=4)) == {"a": 4, "b": 4}
    assert choose_labelled(labels) == sorted(labels)


def test_the_choice_depends_on_names_and_seed_alone():
    labels = table(a=30, b=20)
    items = list(labels.items())
    random.Random(0).shuffle(items)
    for choose in (
        lambda labels, seed: choose_labelled(labels, labels_per_class=6, seed=seed),
        lambda labels, seed: choose_validation(labels, 0.3, seed),
    ):
        assert choose(labels, 1) == choose(dict(items), 1) != choose(labels, 2)
    # Written down, so that another platform or version that draws otherwise is noticed.
    assert choose_labelled(table(a=5, b=5), labels_per_class=2, seed=0) == [
        "a/0002.png", "a/0004.png", "b/0001.png", "b/0004.png",
    ]  # fmt: skip


def test_more_labels_keep_the_fewer():
    labels = table(a=30, b=20)
    assert set(choose_labelled(labels, labels_per_class=5)) < set(choose_labelled(labels, labels_per_class=15))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.2, {"a": 8, "b": 2, "c": 1}), (0.01, {"a": 1, "b": 1, "c": 1}), (0.99, {"a": 39, "b": 9, "c": 1})],
)
def test_validation_takes_a_share_of_each_class_and_never_all(share, expected):
    labels = table(a=40, b=10, c=2)
    assert of_each(labels, choose_validation(labels, share)) == expected


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        (
            {"a": 9, "b": 9},
            {"label_fraction": 0.5, "labels_per_class": 2},
            "--label_fraction 0.5.*--labels_per_class 2",
        ),
        ({"a": 99, "b": 11}, {"label_fraction": 0.1}, "0.1 leaves class 'b' 1 of its 11 images.*labels_per_class"),
        ({"a": 9, "b": 9}, {"label_fraction": 0}, "--label_fraction is 0; .*above 0"),
        ({"a": 9, "b": 9}, {"label_fraction": 5}, "--label_fraction is 5"),
        ({"a": 9, "b": 9}, {"label_fraction": "5%"}, "--label_fraction is '5%'"),
        ({"a": 9, "b": 3}, {"labels_per_class": 4}, "--labels_per_class is 4, and class 'b' has 3 images"),
        ({"a": 9, "b": 3}, {"labels_per_class": 1}, "--labels_per_class is 1; .*from 2"),
        ({"a": 9, "b": 3}, {"labels_per_class": 2.0}, "--labels_per_class is 2.0"),
        ({"a": 9}, {}, "all 9 images are of one class, 'a'; two or more are needed.*--dataset_dir"),
    ],
)
def test_impossible_subsets_are_refused(counts, settings, message):
    with pytest.raises(ValueError, match=message):
        choose_labelled(table(**counts), **settings)


@pytest.mark.parametrize(
    ("counts", "share", "message"),
    [
        ({"a": 9, "b": 1}, 0.2, "class 'b' has one labelled image, 'b/0000.png'; two are needed"),
        ({"a": 9}, 0.2, "one class, 'a'"),
        ({"a": 9, "b": 9}, 1, "--validation_share is 1; it must lie between 0 and 1"),
        ({"a": 9, "b": 9}, None, "--validation_share is None"),
    ],
)
def test_impossible_validation_is_refused(counts, share, message):
    with pytest.raises(ValueError, match=message):
        choose_validation(table(**counts), share)


def test_copies_are_those_after_the_first_by_name():
    hashes = {"b.png": hash_of(1), "a.png": hash_of(1), "c.png": hash_of(1), "d.png": hash_of(2)}
    assert find_copies(dict.fromkeys(hashes, "TUM"), hashes) == {"b.png", "c.png"}
    with pytest.raises(ValueError, match="'a.png' .class 'TUM'. and 'c.png' .class 'ADI'. have the same pixels"):
        find_copies({**dict.fromkeys(hashes, "TUM"), "c.png": "ADI"}, hashes)


# The table

ROWS = [
    SplitRow("TUM/a, b.png", hash_of(1), "TUM", "train"),
    SplitRow("ADI/ä\udcff.png", hash_of(2), "ADI", "train"),
    SplitRow("tiles.zip#TUM/c.png", hash_of(3), "TUM", "validation"),
    SplitRow("ADI/d..png", hash_of(4), "ADI", "validation"),
    SplitRow("ADI/e.png", hash_of(5), "ADI", "unused"),
    SplitRow("ADI/e.png", hash_of(6), "ADI", "test"),  # another file, under the folder of the test set
]


def test_a_split_survives_a_round_trip(tmp_path):
    path = write_split(tmp_path / "run" / "split.csv", ROWS)
    assert path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[:2] == [
        "file,sha256,class,part",
        f'"TUM/a, b.png",{hash_of(1)},TUM,train',
    ]
    assert read_split(path) == ROWS
    assert classes_of_split(ROWS, path) == ["TUM", "ADI"]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    assert read_split(path) == ROWS
    assert [entry.name for entry in path.parent.iterdir()] == ["split.csv"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"b.png,{hash_of(1)},TUM,training", "the part is 'training'; it must be one of train, validation"),
        ("b.png,123,TUM,train", "the sha256 is '123'; it must be 64"),
        (f"b.png,{'A' * 64},TUM,train", "the sha256 is 'AAAA"),
        (f"a.png,{hash_of(2)},TUM,validation", "'a.png' is listed before"),
        (f"/etc/b.png,{hash_of(1)},TUM,train", "the file is '/etc/b.png'; it must be a path within"),
        (f"c:/b.png,{hash_of(1)},TUM,train", "the file is 'c:/b.png'"),
        (f"x/../../b.png,{hash_of(1)},TUM,train", "without '..'"),
        (f"x.zip#../b.png,{hash_of(1)},TUM,train", "without '..'"),
        (f"..\\b.png,{hash_of(1)},TUM,train", "without '..'"),
        (f",{hash_of(1)},TUM,train", "the file is ''"),
        (f'b.png,{hash_of(1)},"T,UM",train', "class name 'T,UM' can't be used"),
        (f"b.png,{hash_of(1)},TUM", "it has 3 fields; 4 are needed"),
    ],
)
def test_a_wrong_row_is_refused_by_line(tmp_path, line, message):
    path = tmp_path / "split.csv"
    path.write_text(f"file,sha256,class,part\na.png,{hash_of(1)},TUM,train\n\n{line}\n")
    with pytest.raises(ValueError, match=f"split.csv, line 4: .*{message}"):
        read_split(path)


def test_what_is_no_split_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    with pytest.raises(FileNotFoundError, match="split.csv.*--split_file"):
        read_split(path)
    path.write_text("image,label\n")
    with pytest.raises(ValueError, match="line 1: the columns are .'image', 'label'.; they must be file,sha256"):
        read_split(path)
    for text in ("", "file,sha256,class,part\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="lists no images"):
            read_split(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:1] + ROWS[2:3], "part train has the classes .'TUM'.; two or more"),
        (ROWS[:3], "class 'ADI' has no image in part validation"),
        (ROWS + [SplitRow("x.png", hash_of(9), "LYM", "test")], "class 'LYM' is in part test and not in train"),
    ],
)
def test_a_split_that_cannot_be_trained_on_is_refused(rows, message):
    with pytest.raises(ValueError, match=f"mine.csv: {message}"):
        classes_of_split(rows, "mine.csv")


def test_a_kept_split_is_never_replaced(tmp_path):
    path = tmp_path / "split.csv"
    keep_split(path, ROWS)
    before = path.stat().st_mtime_ns
    keep_split(path, ROWS[::-1])
    with pytest.raises(ValueError, match="2 rows differ.*--split_file .*split.csv.*--output_dir"):
        keep_split(path, ROWS[:-1] + [ROWS[-1]._replace(sha256=hash_of(7))])
    assert path.stat().st_mtime_ns == before and read_split(path) == ROWS
