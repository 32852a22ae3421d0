"""The folder that `configs/tile.json` leaves, as a source: its archives, or its coordinates read from the slides.

`tiling.json` says where the slides are and how they are read; `patches.csv` has a row a patch. Where the pixels were
not stored, a patch is named `slide/x_y_level_pixels_size.field`, with its class as the first folder where it has one.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bundle.data.listing import Listing
from bundle.data.slides import SlideError, opened_slide
from bundle.runs.tables import read_csv

RECORD, TABLE, ARCHIVES = "tiling.json", "patches.csv", "patches"
KIND = "histodiffusion/tiling/1"
FIELD_SUFFIX = ".field"
COLUMNS = (
    "slide", "x", "y", "level", "pixels", "patch_size", "microns_per_pixel", "tissue", "sharpness", "class", "file",
)  # fmt: skip


class Place(NamedTuple):
    """Where a patch lies: as :meth:`bundle.data.slides.Slide.read_field` takes it."""

    slide: str
    x: int
    y: int
    level: int
    pixels: int
    patch_size: int


def is_tiling(root: Path) -> bool:
    """Whether a folder is the output of a tiling."""
    return (root / RECORD).is_file() and (root / TABLE).is_file()


def read_record(root: Path) -> dict[str, Any]:
    """What `tiling.json` says.

    Raises:
        ValueError: it is another's, or damaged.
    """
    path = root / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] == KIND:
            return record
        raise ValueError(f"its kind is {record['kind']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a tiling ({error}); tile into another folder") from error


def list_fields(root: Path) -> Listing | None:
    """The patches of a tiling that stored coordinates alone; None where it stored pixels.

    Raises:
        FileNotFoundError: the slides are not where they were.
        ValueError: a damaged record or table.
    """
    record = read_record(root)
    if record["format"] != "coordinates":
        return None
    folder = Path(record["slides_dir"])
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root / RECORD}: its slides are not in {str(folder)!r} any more; write their folder there as slides_dir"
        )
    listing, known = Listing(), {}
    for name, place in _places(root).items():
        if place.slide not in known:
            known[place.slide] = _status(folder, record["slides"].get(place.slide))
        listing.items.append((name, *known[place.slide]))
        listing.groups[name] = place.slide
    listing.items.sort()
    return listing


def read_listed_field(root: Path, name: str) -> np.ndarray:
    """uint8 RGB [S, S, 3] of a patch that :func:`list_fields` names.

    Raises:
        KeyError: there is none of that name.
        SlideError: the slide can't be read.
    """
    record, place = _record(root), _places(root)[name]
    path = record["slides"].get(place.slide)
    if path is None:
        raise SlideError(f"{root / RECORD} lists no slide {place.slide!r}")
    slide = opened_slide(Path(record["slides_dir"], path), record["assume_mpp"], record["reader"])
    return np.asarray(slide.read_field(*place[1:]))


def _places(root: Path) -> dict[str, Place]:
    return _table(root, os.stat(root / TABLE).st_mtime_ns)


@lru_cache(maxsize=4)
def _table(root: Path, mtime_ns: int) -> dict[str, Place]:
    places = {}
    for number, row in enumerate(read_csv(root / TABLE), 2):
        try:
            place = Place(row["slide"], *(int(row[name]) for name in Place._fields[1:]))
            if place.level < 0 or min(place.pixels, place.patch_size) < 1:
                raise ValueError("a level below 0, or a size below 1")
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{root / TABLE}, row {number}: it is damaged ({error}); give the command of the tiling again"
            ) from error
        folder = f"{row['class']}/" if row.get("class") else ""
        places[f"{folder}{place.slide}/" + "_".join(map(str, place[1:])) + FIELD_SUFFIX] = place
    return places


def _record(root: Path) -> dict[str, Any]:
    return _record_as_it_is(root, os.stat(root / RECORD).st_mtime_ns)


@lru_cache(maxsize=4)
def _record_as_it_is(root: Path, mtime_ns: int) -> dict[str, Any]:
    return read_record(root)


def _status(folder: Path, path: str | None) -> tuple[int, int]:
    """Bytes and time of a slide, of a folder those of its files; zeros where it is missing, so that reading says so."""
    try:
        place = folder / str(path)
        found = [entry.stat() for entry in os.scandir(place)] if place.is_dir() else [place.stat()]
    except OSError:
        return 0, 0
    return sum(status.st_size for status in found), max((status.st_mtime_ns for status in found), default=0)
