"""Tables as CSV, Markdown and HTML, written atomically."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.runs.files import write_atomically

STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.3em .7em;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """A CSV file with the union of the rows' columns, in the order they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; bars within cells are escaped, and line breaks, which would end a row, become spaces."""

    def text(cell: Any) -> str:
        return " ".join(str(cell).split()).replace("|", "\\|")

    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(text, line)) + " |\n" for line in lines)


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table with escaped cells."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>\n"

    return "<table>\n" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>\n"


def write_markdown(path: str | Path, title: str, sections: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    """A page of titled sections, each a ready Markdown text, and a list of notes."""
    text = f"# {title}\n" + "".join(f"\n## {name}\n\n{content}" for name, content in sections)
    _write(path, text + "\n" + "".join(f"- {note}\n" for note in notes))


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
            notes.append(line[2:])
        elif line.startswith("| "):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
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
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
