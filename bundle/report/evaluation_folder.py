"""What `configs/evaluate.json` and its neighbours leave in their folders, read for the report."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from bundle.data.marks import read_marks
from bundle.runs.tables import plain_cells

FORMAT = "histodiffusion-evaluation/1"
REQUIRED = ("synthetic", "reference", "compared")
AGAIN = "Evaluate again with configs/evaluate.json, or name another folder"
LARGEST_PNG = 1_500_000  # bytes; above it a picture goes into the page as a JPEG


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in the page, or the reason why it doesn't.

    Attributes:
        uri: "data:image/...", "" where there is none.
        missing: why there is none, "" where there is one.
        size: of the URI, bytes.
    """

    name: str
    alt: str
    caption: str = ""
    uri: str = ""
    missing: str = ""
    width: int = 0
    height: int = 0
    reencoded: bool = False

    @property
    def size(self) -> int:
        return len(self.uri)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The content of `evaluation.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one, or lacks a key that a report can't do without.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {folder} is not the output folder of an evaluation. Name one, or make it with "
            "python -m monai.bundle run --config_file configs/evaluate.json"
        )
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {content.get('format')!r}, expected {FORMAT!r}. {AGAIN}")
    missing = [name for name in REQUIRED if not isinstance(content.get(name), dict)]
    if missing or not content["compared"]:
        raise ValueError(f"{path} has no {(missing or ['compared'])[0]!r}. {AGAIN}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file holds something else; names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} can't be read ({error}). Make it again, or leave its folder out") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object. Make it again, or leave it out")
    return content


def written_on(path: Path) -> str:
    """The day a file was last changed, UTC: the report's own date, so that equal inputs give equal bytes."""
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%-d %B %Y")


def read_picture(folder: Path, name: str, alt: str, caption: str = "") -> Picture:
    """A picture of a folder as a data URI; what is missing or broken is said in its place."""
    path = folder / name
    if not _is_within(folder, name):
        return Picture(name, alt, caption, missing=f"{name} lies outside the folder, so it is not shown")
    if not path.is_file():
        return Picture(name, alt, caption, missing=f"{name} is missing in {folder.name or folder}")
    content, kind = path.read_bytes(), "png"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            width, height = image.size
            if large := len(content) > LARGEST_PNG:
                packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")  # says that it is synthetic
                packet = packet.encode() if isinstance(packet, str) else packet
                jpeg = io.BytesIO()
                image.convert("RGB").save(jpeg, "JPEG", quality=90, **({"xmp": packet} if packet else {}))
                content, kind = jpeg.getvalue(), "jpeg"
            elif image.format != "PNG":
                kind = str(image.format).lower()
    except (OSError, SyntaxError, ValueError) as error:
        return Picture(name, alt, caption, missing=f"{name} can't be read as a picture ({error})")
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(name, alt, caption, uri, "", width, height, large)


def synthetic_grids(folder: Path | None, classes: Sequence[str]) -> list[tuple[str, Path]]:
    """(class, file) of the grids in an evaluation's folder that say of themselves that they are synthetic.

    These may be passed on. No other picture of an evaluation is of synthetic images alone.
    """
    if folder is None:
        return []
    found = [(name, folder / f"grids/{name}.png") for name in classes if _is_within(folder, f"grids/{name}.png")]
    return [(name, path) for name, path in found if path.is_file() and read_marks(path)]


def _is_within(folder: Path, name: str) -> bool:
    """Whether a name, which a file may have given, leads to a place in the folder."""
    inside = folder.resolve() in (folder / name).resolve().parents
    return inside and ".." not in Path(name).parts and not Path(name).is_absolute()


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a CSV file.

    Raises:
        ValueError: a row has another number of fields than the header.
    """
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError(f"{path}, line {reader.line_num}: {len(row)} fields, {len(header)} are needed")
            rows.append(plain_cells(row))
    return plain_cells(header), rows


def flatten(facts: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain facts as (name, text) lines; a dictionary of plain values is one line.

    Args:
        facts: what JSON can hold.
        prefix: of the names.
    """
    if isinstance(facts, Mapping):
        plain = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
        if prefix and len(plain) == len(facts) and len(facts) > 1:
            yield prefix, ", ".join(f"{readable(name)} {plain_text(value)}" for name, value in facts.items())
            return
        for name, value in facts.items():
            yield from flatten(value, f"{prefix}, {readable(name)}" if prefix else readable(name))
    elif isinstance(facts, list) and any(isinstance(value, Mapping) for value in facts):
        for number, value in enumerate(facts, start=1):
            yield from flatten(value, f"{prefix} {number}")
    else:
        yield prefix, plain_text(facts)


def told(value: Any) -> str:
    """Nested plain facts as one line."""
    if isinstance(value, Mapping):
        nested = any(isinstance(inner, Mapping) for inner in value.values())
        parts = [
            (readable(name), ": " if isinstance(inner, Mapping) else " ", told(inner)) for name, inner in value.items()
        ]
        return ("; " if nested else ", ").join(map("".join, parts))
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        return f"{len(value)} entries, in the file"
    return plain_text(value)


def plain_text(value: Any) -> str:
    """A plain value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain_text, value)) if value else "none"
    return str(value)


def readable(name: Any) -> str:
    """A key of JSON as a name in a table."""
    return str(name).replace("_", " ").replace("sha256", "SHA-256")
