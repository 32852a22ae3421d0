"""Tables as text: what would break a row or a page is escaped, and any file name can be written."""

import pytest

from bundle.runs.tables import html_table, markdown_table, read_markdown, write_csv, write_markdown


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
