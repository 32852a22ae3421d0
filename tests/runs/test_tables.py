"""Tables as text: what would break a row or a page is escaped, and any file name can be written."""

import csv
import io

import pytest

from bundle.runs.tables import (
    csv_bytes,
    html_table,
    markdown_table,
    markdown_text,
    plain_cells,
    read_csv,
    read_markdown,
    write_csv,
    write_markdown,
)


def test_a_cell_stays_in_its_row():
    text = markdown_table(("row", "status"), [["a | b", "failed: no\n  space"]])
    assert text.splitlines() == ["| row | status |", "| --- | --- |", "| a \\| b | failed: no space |"]
    assert "<td>&lt;b&gt;</td>" in html_table(("row",), [["<b>"]])


def test_a_page_of_tables_is_read_as_it_was_written(tmp_path):
    tables = [("One", ("row", "a | b"), [["x", "1 | 2"], ["", "-"]]), ("Two", ("row",), [["y"]])]
    sections = [(name, markdown_table(header, rows)) for name, header, rows in tables]
    write_markdown(tmp_path / "table.md", "Title", sections, ["a note", "| no table"])
    found, notes = read_markdown(tmp_path / "table.md")
    assert found == [(name, list(header), rows) for name, header, rows in tables]
    assert notes == ["a note", "| no table"]
    (tmp_path / "table.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="table.md has no table"):
        read_markdown(tmp_path / "table.md")


def test_a_file_name_that_is_no_utf_8(tmp_path):
    name = b"tumour_\xe4.png".decode(errors="surrogateescape")  # as Python reads such a name from a disk
    write_csv(tmp_path / "table.csv", [{"file": name}, {"file": "b", "part": "test"}])
    assert (tmp_path / "table.csv").read_bytes() == b"file,part\ntumour_\xe4.png,\nb,test\n"


HOSTILE = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1+1",
    "'=1",
    "''@a",
    "-inf",
    "=cmd|' /C calc'!A0",
]
HARMLESS = ["", "TUM", "a=1", "'TUM'", "''", "-1", "+1.5e-7", "-.5", "1", "\u00e4 +", "a,b", '"']


def test_a_text_that_a_spreadsheet_would_compute_stays_a_text_and_is_read_as_it_was(tmp_path):
    for cells, shown in ((HOSTILE, [f"'{cell}" for cell in HOSTILE]), (HARMLESS, HARMLESS)):
        content = csv_bytes([cells]).decode()
        (row,) = csv.reader(io.StringIO(content, newline=""))
        assert row == shown and plain_cells(row) == cells
    assert csv_bytes([[-1.5, None, True]]) == b"-1.5,,True\n", "numbers are none of a stranger's"
    write_csv(tmp_path / "a.csv", [{"file": cell, "=column": "x"} for cell in HOSTILE])
    assert list(read_csv(tmp_path / "a.csv")) == [{"file": cell, "=column": "x"} for cell in HOSTILE]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("<script>alert(1)</script>", "\\<script\\>alert(1)\\</script\\>"),
        ("![x](https://a.org/x.png)", "!\\[x\\](https://a.org/x.png)"),
        ("a`b *c* _d_ e_f", "a\\`b \\*c\\* \\_d\\_ e_f"),
        ("&lt;b&#62; a & b", "\\&lt;b\\&#62; a & b"),
        ("one\n# two\r\n| three", "one # two \\| three"),
    ],
)
def test_a_text_stays_a_text_in_markdown(tmp_path, text, shown):
    assert markdown_text(text) == shown
    write_markdown(tmp_path / "a.md", "T", [("S", markdown_table(("a",), [[text]]))], [text])
    (found,), notes = read_markdown(tmp_path / "a.md")
    assert found[2] == [[" ".join(text.split())]] and notes == [" ".join(text.split())]
