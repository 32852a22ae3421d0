"""The outcome of a selection: `selection.csv` with a row a candidate, `selection.json` with what it was decided on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bundle.runs.files import write_atomically, write_json
from bundle.runs.tables import csv_bytes, plain_cells

FORMAT = "histodiffusion-selection/1"
COLUMNS = (
    "file",
    "class",
    "seed",
    "probability",
    "entropy",
    "distance",
    "nearest_class",
    "rank",
    "kept",
    "reason",
    "ratio",
    "random_ratio",
)
FACTS = ("pool", "pool_hash", "split", "classes", "ratios", "labelled", "quotas", "shortfall", "settings")
REASON = re.compile(
    "kept|excluded|other class|uncertain|other centroid|far half|copy of .+|beyond the quota", re.DOTALL
)
AGAIN = "Make the selection again with configs/select.json"


class SelectionRow(NamedTuple):
    """One candidate.

    Attributes:
        file: its name within the pool, "TUM/TUM_12.png".
        label: the class it was made for.
        seed: its seed.
        probability: expected softmax of its class, in [0, 1].
        entropy: of the expected softmax, in nats.
        distance: to the centroid of its class.
        nearest: the class of the nearest centroid.
        rank: 1 for the nearest among the survivors of all gates of its class; None where a gate refused it.
        kept: whether it belongs to the set of the largest ratio.
        reason: "kept", "excluded", "other class", "uncertain", "other centroid", "far half",
            "copy of <file or real image>", "beyond the quota".
        ratio: the smallest ratio, in percent, whose selective set it belongs to; None for none.
        random_ratio: the smallest ratio, in percent, whose random control it belongs to; None for none.
    """

    file: str
    label: str
    seed: int
    probability: float
    entropy: float
    distance: float
    nearest: str
    rank: int | None
    kept: bool
    reason: str
    ratio: int | None
    random_ratio: int | None


def write_selection(path: str | Path, rows: Iterable[SelectionRow], facts: dict[str, Any]) -> Path:
    """Writes the table and, beside it with the suffix .json, the facts; each atomically, the facts last.

    Args:
        path: of the table, ending in ".csv".
        rows: the candidates.
        facts: "pool" (path of the pool's folder), "pool_hash" (the "hash" of its `pool.json`), "split"
            (`bundle.data.split.fingerprint_split`), "classes" (names in order), "ratios" (percent, ascending),
            "labelled" {class: real labelled images}, "quotas" and "shortfall" {class: {ratio: images}}, "settings".
            "format" and "table_sha256" are added.

    Raises:
        ValueError: rows or facts that :func:`read_selection` would refuse.
    """
    path = _table_path(path)
    # None becomes an empty field.
    content = csv_bytes([COLUMNS, *(row._replace(kept=str(row.kept).lower()) for row in rows)])
    facts = {"format": FORMAT, **facts, "table_sha256": hashlib.sha256(content).hexdigest()}
    facts = _check_facts(json.loads(json.dumps(facts, default=os.fspath)), path)
    facts["pool"] = str(Path(facts["pool"]).expanduser().absolute())
    _parse(content.decode(errors="surrogateescape"), facts, path)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    write_json(path.with_suffix(".json"), facts)
    return path


def read_selection(path: str | Path) -> tuple[list[SelectionRow], dict[str, Any]]:
    """Reads and checks what :func:`write_selection` wrote.

    Returns:
        the rows, and the facts; ratios are whole numbers in both.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the facts are not of this format, the table is another one than they were written with, or a row
            has a value out of its range or a file outside the pool; names the file and the line.
    """
    path = _table_path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: a selection is two files, .csv and .json. {AGAIN}")
    content = path.read_bytes()
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.with_suffix('.json')} can't be read ({error}). {AGAIN}") from error
    facts = _check_facts(facts, path)
    if facts["table_sha256"] != hashlib.sha256(content).hexdigest():
        raise ValueError(
            f"{path} is not the table that {path.with_suffix('.json').name} was written with: it was changed since, or "
            f"its writing was interrupted. {AGAIN}"
        )
    return _parse(content.decode(errors="surrogateescape"), facts, path), facts


def selected_items(
    path: str | Path, ratio: int | None = None, random: bool = False, pool: str | Path | None = None
) -> list[dict[str, Any]]:
    """The selected images as the items of a MONAI dataset, for a pipeline of one's own.

    Args:
        path: a `selection.csv`, its `.json` beside it.
        ratio: which of the nested sets, in percent; None for the largest.
        random: the random control of the same size instead.
        pool: where the pool's folder is now; None for where it was when the selection was made.

    Returns:
        [{"image": absolute path of the PNG, "label": place in the classes of the selection, "class": name}].

    Raises:
        FileNotFoundError: an image, the table or its facts are missing.
        ValueError: the selection has no such ratio, or is refused by :func:`read_selection`.
    """
    rows, facts = read_selection(path)
    if ratio is not None and ratio not in facts["ratios"]:
        raise ValueError(f"{path} has no set of {ratio} %: it has {', '.join(map(str, facts['ratios']))}")
    largest = facts["ratios"][-1] if ratio is None else ratio
    folder = Path(facts["pool"] if pool is None else pool).expanduser().absolute()
    items = []
    for row in rows:
        smallest = row.random_ratio if random else row.ratio
        if smallest is None or smallest > largest:
            continue
        image = folder / row.file
        if not image.is_file():
            raise FileNotFoundError(
                f"{image} of the selection {path} is missing. Make it again, or name the pool's folder"
            )
        items.append({"image": str(image), "label": facts["classes"].index(row.label), "class": row.label})
    return items


def _table_path(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.suffix != ".csv":
        raise ValueError(f"{path} can't be a selection: its name must end in .csv")
    return path


def _check_facts(facts: Any, path: Path) -> dict[str, Any]:
    """The facts with whole numbers for the ratios, which JSON makes texts of where they are keys."""
    where = path.with_suffix(".json")
    found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
    if found != FORMAT:
        raise ValueError(f"{where} is not of a selection: its format is {found!r}, expected {FORMAT!r}. {AGAIN}")
    missing = [name for name in (*FACTS, "table_sha256") if name not in facts]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}. {AGAIN}")
    classes, ratios = facts["classes"], facts["ratios"]
    if not (isinstance(classes, list) and classes and len({*map(str, classes)}) == len(classes)):
        raise ValueError(f"{where}: the classes are {classes!r}; they must be a list of different names. {AGAIN}")
    whole = isinstance(ratios, list) and all(type(ratio) is int and ratio > 0 for ratio in ratios)
    if not whole or not ratios or ratios != sorted(set(ratios)):
        raise ValueError(f"{where}: the ratios are {ratios!r}; they must be whole numbers that rise. {AGAIN}")
    for name in ("quotas", "shortfall"):
        try:
            facts[name] = {label: {int(ratio): n for ratio, n in of.items()} for label, of in facts[name].items()}
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{where}: {name!r} is not {{class: {{ratio: images}}}} ({error}). {AGAIN}") from error
        if any(set(facts[name].get(label, {})) != set(ratios) for label in classes):
            raise ValueError(f"{where}: {name!r} lacks a class or a ratio. {AGAIN}")
    return facts


def _parse(text: str, facts: dict[str, Any], path: Path) -> list[SelectionRow]:
    rows: dict[str, SelectionRow] = {}
    reader = csv.reader(io.StringIO(text, newline=""))
    for fields in reader:
        where = f"{path}, line {reader.line_num}"
        if reader.line_num == 1:
            if tuple(fields) != COLUMNS:
                raise ValueError(f"{where}: the columns are {','.join(fields)}; they must be {','.join(COLUMNS)}")
            continue
        if len(fields) != len(COLUMNS):
            raise ValueError(f"{where}: it has {len(fields)} fields, {len(COLUMNS)} are needed")
        row = _row(dict(zip(COLUMNS, plain_cells(fields))), facts, where)
        if row.file in rows:
            raise ValueError(f"{where}: {row.file!r} is listed before")
        rows[row.file] = row
    return list(rows.values())


def _row(fields: dict[str, str], facts: dict[str, Any], where: str) -> SelectionRow:
    ratios = ["", *map(str, facts["ratios"])]
    number = re.compile("0|[1-9][0-9]*")
    valid = {
        "file": _stays_within(fields["file"]),
        "class": fields["class"] in facts["classes"],
        "seed": number.fullmatch(fields["seed"]),
        "probability": _is_float(fields["probability"], 1.000001),
        "entropy": _is_float(fields["entropy"], math.inf),
        "distance": _is_float(fields["distance"], math.inf),
        "nearest_class": fields["nearest_class"] in facts["classes"],
        "rank": fields["rank"] == "" or number.fullmatch(fields["rank"]),
        "kept": fields["kept"] in ("true", "false"),
        "reason": REASON.fullmatch(fields["reason"]),
        "ratio": fields["ratio"] in ratios,
        "random_ratio": fields["random_ratio"] in ratios,
    }
    for name, good in valid.items():
        if not good:
            raise ValueError(f"{where}: {fields[name]!r} can't be the {name}. {AGAIN}")
    kept = fields["kept"] == "true"
    if not kept == (fields["reason"] == "kept") == (fields["ratio"] != ""):
        raise ValueError(f"{where}: kept, reason and ratio contradict each other. {AGAIN}")
    return SelectionRow(
        fields["file"],
        fields["class"],
        int(fields["seed"]),
        float(fields["probability"]),
        float(fields["entropy"]),
        float(fields["distance"]),
        fields["nearest_class"],
        int(fields["rank"]) if fields["rank"] else None,
        kept,
        fields["reason"],
        int(fields["ratio"]) if fields["ratio"] else None,
        int(fields["random_ratio"]) if fields["random_ratio"] else None,
    )


def _stays_within(file: str) -> bool:
    parts = re.split(r"[/\\]", file)
    return not ({"", ".", ".."} & set(parts) or re.match("[A-Za-z]:", file) or "\0" in file)


def _is_float(text: str, highest: float) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and 0 <= value <= highest
