"""Tables as CSV, Markdown and HTML, written atomically.

Cells hold names of classes and files, which may be a stranger's: they stay text in whatever opens the table.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bundle.runs.files import write_atomically

STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.3em .7em;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)
# What makes a spreadsheet take a text for a formula, also in its wide form; an apostrophe in front keeps it a text.
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
LINE_BREAK = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")
# Between letters an underscore is none of Markdown's, nor is an ampersand that begins no entity.
OF_MARKDOWN = re.compile(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")


def csv_bytes(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as CSV, the header first; :func:`plain_cells` gives back the texts."""

    def cell(value: Any) -> Any:
        is_formula = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
        return f"'{value}" if is_formula else value

    lines: list[str] = []
    # By this end of a line both kinds of line break are quoted within cells; each line is written whole.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows(map(cell, row) for row in rows)
    return "".join(line[:-2] + "\n" for line in lines).encode(errors="surrogateescape")  # a file name need not be UTF-8


def plain_cells(row: Sequence[str]) -> list[str]:
    """The texts of a row that `csv.reader` gives, as they were before :func:`csv_bytes`."""
    return [cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell for cell in row]


def read_csv(path: str | Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by the names of its columns; a row that is cut short lacks some."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = map(plain_cells, csv.reader(file))
        header = next(rows, [])
        yield from (dict(zip(header, row)) for row in rows if row)


def write_rows(path: str | Path, rows: Iterable[Iterable[Any]]) -> Path:
    """A CSV file of rows, the header first."""
    content = csv_bytes(rows)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content), size=len(content))


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """A CSV file with the union of the rows' columns, in the order they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_rows(path, [columns, *([row.get(name, "") for name in columns] for row in rows)])


def markdown_text(text: Any) -> str:
    """A text that Markdown shows as it is; line breaks, after which it would begin anew, become spaces."""
    return OF_MARKDOWN.sub(r"\\\g<0>", LINE_BREAK.sub(" ", str(text)))


def plain_text_of(text: str) -> str:
    """The text before :func:`markdown_text`."""
    return re.sub(r"\\([\\`*\[\]<>|~_&])", r"\1", text)


def markdown_row(cells: Iterable[Any]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(" ".join(markdown_text(cell).split()) for cell in cells) + " |"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table of escaped cells."""
    return "".join(markdown_row(line) + "\n" for line in [header, ["---"] * len(header), *rows])


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table with escaped cells."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>\n"

    return "<table>\n" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>\n"


def write_markdown(path: str | Path, title: str, sections: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    """A page of titled sections, each a ready Markdown text, and a list of notes."""
    text = f"# {title}\n" + "".join(f"\n## {name}\n\n{content}" for name, content in sections)
    _write(path, text + "\n" + "".join(f"- {markdown_text(note)}\n" for note in notes))


def read_markdown(path: str | Path) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """The tables of a page of :func:`write_markdown`, (section's name, header, rows) each, and its notes.

    Raises:
        ValueError: it has no table.
    """
    tables: list[tuple[str, list[str], list[list[str]]]] = []
    name, notes, lines = "", [], Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("## "):
            name = line[3:]
        elif line.startswith("- "):
            notes.append(plain_text_of(line[2:]))
        elif line.startswith("| "):
            cells = [plain_text_of(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not lines[number - 1].startswith("|"):
                tables.append((name, cells, []))
            elif set(cells) != {"---"}:
                tables[-1][2].append(cells)
    if not tables:
        raise ValueError(f"{path} has no table. Make it again, or leave its folder out")
    return tables, notes


def write_html(path: str | Path, title: str, sections: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    """Likewise, of ready HTML texts; it needs no other file than they do."""
    body = f"<h1>{html.escape(title)}</h1>\n"
    body += "".join(f"<h2>{html.escape(name)}</h2>\n{content}" for name, content in sections)
    body += "<ul>\n" + "".join(f"<li>{html.escape(note)}</li>\n" for note in notes) + "</ul>\n"
    _write(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n",
    )


def _write(path: str | Path, text: str) -> None:
    content = text.encode(errors="surrogateescape")  # a file name of a disk need not be UTF-8
    write_atomically(path, lambda temporary: temporary.write_bytes(content), size=len(content))
