"""Tables as text: what would break a row or a page is escaped, and any file name can be written."""

from bundle.report.tables import html_table, markdown_table, write_csv


def test_a_cell_stays_in_its_row():
    text = markdown_table(("row", "status"), [["a | b", "failed: no\n  space"]])
    assert text.splitlines() == ["| row | status |", "| --- | --- |", "| a \\| b | failed: no space |"]
    assert "<td>&lt;b&gt;</td>" in html_table(("row",), [["<b>"]])


def test_a_file_name_that_is_no_utf_8(tmp_path):
    name = b"tumour_\xe4.png".decode(errors="surrogateescape")  # as Python reads such a name from a disk
    write_csv(tmp_path / "table.csv", [{"file": name}, {"file": "b", "part": "test"}])
    assert (tmp_path / "table.csv").read_bytes() == b"file,part\ntumour_\xe4.png,\nb,test\n"
