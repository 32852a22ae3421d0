"""The slide, or patient, that each tile is of: by its folder, by a pattern in its name, or by a column of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bundle.runs.tables import read_csv

FOLDER = "folder"
FILE_COLUMN = "file"


def slides_of(files: Mapping[str, str], source: str | Path, groups: str) -> dict[str, str]:
    """The slide of each file of a set.

    Args:
        files: class by file, named within the source.
        source: folder or archive of the set; a table is looked for in it and beside it.
        groups: "folder", the first folder that is not the class's; TABLE.csv#COLUMN, a column of a table that names
            each file in its column "file"; or a pattern, whose first group, or whole match, in the file's path is the
            slide, such as `([^/]+)__[0-9]+_[0-9]+`.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a pattern that can't be read, a table without the column, or a file whose slide can't be told.
    """
    if groups == FOLDER:
        found = {file: _folder(file, label) for file, label in files.items()}
        way = "Put the tiles of each slide into a folder of their own, or give a pattern or TABLE.csv#COLUMN"
    elif ".csv" in groups:
        found = _of_table(list(files), Path(source), groups)
        way = "Add it to the table, or give a pattern"
    else:
        try:
            pattern = re.compile(groups)
        except re.error as error:
            raise ValueError(
                f"--groups {groups!r} is no pattern ({error}): give folder, TABLE.csv#COLUMN, or a regular expression "
                "with one group"
            ) from error
        matches = {file: pattern.search(file) for file in files}
        found = {file: match and match[min(1, pattern.groups)] for file, match in matches.items()}
        way = "Give a pattern that every name has, or TABLE.csv#COLUMN"
    without = [file for file, slide in found.items() if not slide]
    if without:
        raise ValueError(
            f"--groups {groups!r} doesn't tell the slide of {len(without)} of {len(files)} tiles of {source}, such as "
            f"{without[0]!r}. {way}"
        )
    return found


def _folder(file: str, label: str) -> str:
    folders = re.split("[/#]", file)[:-1]
    if label in folders:
        folders.remove(label)
    return folders[0] if folders else ""


def _of_table(files: Sequence[str], source: Path, groups: str) -> dict[str, str]:
    """By the column "file" of a table, whose paths end as the files do: the table may lie above the set."""
    name, _, column = groups.partition("#")
    places = [Path(name).expanduser(), source / name, source.parent / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"--groups: there is no table {name!r}, neither here nor in or beside {source}: give its path"
        )
    rows = list(read_csv(path))
    missing = [column_ for column_ in (FILE_COLUMN, column) if not rows or column_ not in rows[0]]
    if missing:
        raise ValueError(
            f"--groups: {path} has no column {missing[0]!r}; it has {', '.join(rows[0]) if rows else 'no rows'}. Write "
            f"--groups {name}#COLUMN, and name the tiles in a column {FILE_COLUMN!r}"
        )
    of = {row[FILE_COLUMN]: row[column] for row in rows}
    # In a table of several sets the paths begin with the set's folder.
    return {file: of.get(file) or of.get(f"{source.name}/{file}", "") for file in files}
