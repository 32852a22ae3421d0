"""Images of a pool that readers rejected: a table that a selection takes, checked row by row against the pool."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from typing import Any

from bundle.data.hashes import pixel_hash
from bundle.data.sources import UnreadableImage, read_rgb
from bundle.runs.tables import plain_cells
from bundle.synthesis.pool import seed_of

COLUMNS = ("file", "pool_hash", "sha256")  # and any others, which are for people


def read_exclusion(path: str | Path, pool: Any) -> set[str]:
    """The files of a table with the columns `COLUMNS`, names within the pool.

    Args:
        path: of the CSV file.
        pool: its `folder` and `hash`; see :class:`bundle.synthesis.stored_pool.StoredPool`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column is missing, or a row is cut short, names what is no image of this pool, or one that is
            there twice or has other pixels now; names file and line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"--exclude {path} is not there: name the rejected.csv that scripts/read.py writes, or leave it out"
        )
    found: set[str] = set()
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(file)
        header = plain_cells(next(reader, []))
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ValueError(f"--exclude {path} has no column {missing[0]!r}: it needs {', '.join(COLUMNS)}")
        for row in reader:
            where = f"--exclude {path}, line {reader.line_num}"
            if len(row) != len(header):
                raise ValueError(f"{where}: it has {len(row)} fields, {len(header)} are needed")
            name = _checked(dict(zip(header, plain_cells(row))), pool, where)
            if name in found:
                raise ValueError(f"{where}: {name!r} is listed before. Remove the line")
            found.add(name)
    return found


def _checked(fields: dict[str, str], pool: Any, where: str) -> str:
    name = fields["file"]
    parts = PurePosixPath(name).parts
    # Two parts that `seed_of` knows can't lead out of the pool, but for a class called "..".
    if len(parts) != 2 or parts[0] in ("..", "/") or "\0" in name or seed_of(Path(*parts)) is None:
        raise ValueError(f"{where}: {name!r} can't be an image of a pool, CLASS/CLASS_SEED.png. Remove the line")
    if fields["pool_hash"] != pool.hash:
        raise ValueError(
            f"{where}: {name!r} is of the pool {fields['pool_hash']!r}, and {pool.folder} is {pool.hash!r}. Give the "
            "table of a reading of this pool"
        )
    try:
        image = read_rgb(str(pool.folder), name)
    except (FileNotFoundError, UnreadableImage) as error:
        raise ValueError(f"{where}: {name!r} can't be read in {pool.folder} ({error}). Put it back") from None
    if pixel_hash(image) != fields["sha256"]:
        raise ValueError(
            f"{where}: {name!r} has other pixels in {pool.folder} than when it was read. Put it back, or remove the "
            "line"
        )
    return name
