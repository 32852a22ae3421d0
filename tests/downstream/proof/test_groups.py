"""The slide of each tile, by folder, pattern and table."""

import re

import pytest

from bundle.downstream.proof.groups import slides_of

FILES = {"TUM/a__1_2.png": "TUM", "TUM/b__1_2.png": "TUM", "STR/a__3_4.png": "STR"}


def test_by_the_first_folder_that_is_not_the_class():
    files = {"s1/TUM/x.png": "TUM", "TUM/s2/y.png": "TUM", "tiles.zip#s3/STR/z.png": "STR"}
    assert list(slides_of(files, "data", "folder").values()) == ["s1", "s2", "tiles.zip"]


def test_by_a_pattern():
    assert list(slides_of(FILES, "data", "([^/]+)__[0-9]+_[0-9]+").values()) == ["a", "b", "a"]
    assert list(slides_of(FILES, "data", "[ab]__").values()) == ["a__", "b__", "a__"]


def test_by_a_column_of_a_table_in_or_above_the_set(tmp_path):
    (tmp_path / "train").mkdir()
    lines = "".join(f"train/{file},case {number}\n" for number, file in enumerate(FILES))
    (tmp_path / "manifest.csv").write_text("file,case\n" + lines)
    assert list(slides_of(FILES, tmp_path / "train", "manifest.csv#case").values()) == ["case 0", "case 1", "case 2"]


@pytest.mark.parametrize(
    "groups, message",
    [
        ("folder", "doesn't tell the slide of 3 of 3 tiles of data, such as 'TUM/a__1_2.png'"),
        ("(", "'(' is no pattern"),
        ("(c)__", "doesn't tell the slide of 3 of 3"),
        ("none.csv#case", "there is no table 'none.csv'"),
    ],
)
def test_what_tells_no_slide_is_refused(groups, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        slides_of(FILES, "data", groups)


def test_a_table_without_the_column_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("file,slide\nTUM/a__1_2.png,a\n")
    with pytest.raises(ValueError, match="has no column 'case'; it has file, slide"):
        slides_of(FILES, tmp_path, "manifest.csv#case")
    with pytest.raises(ValueError, match="of 2 of 3 tiles"):
        slides_of(FILES, tmp_path, "manifest.csv#slide")
