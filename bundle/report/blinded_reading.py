"""What a report says of a blinded reading, of its `result.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bundle.reading.result_tables import FORMAT, RESULT, tables
from bundle.report.evaluation_folder import flatten, read_json


def read_reading(folder: Path) -> dict[str, Any]:
    """The tables of a reading's result, with what they are of.

    Returns:
        "tables" [(title, header, rows)], "facts" [(name, text)] and "notes".

    Raises:
        FileNotFoundError: the folder has no result.
        ValueError: it is of another form.
    """
    path = folder / RESULT
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {folder} has no result of a reading. Make it (python scripts/read.py {folder} "
            "--result), or name another folder"
        )
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {FORMAT!r}")
        told = {
            "patches": content["total"],
            "SHA-256 of the key, sealed before the first answer": content["key_sha256"],
        }
        facts = [*flatten(told), *flatten(content["settings"])]
        shown = [(title, header, rows) for title, header, rows in tables(content) if rows]
        return {"tables": shown, "facts": facts, "notes": list(content["notes"])}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} can't be read as the result of a reading ({error!r}): make it again with scripts/read.py --result"
        ) from error
