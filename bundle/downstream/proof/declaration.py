"""What a study says before it measures: its one primary contrast, and how often everything is drawn.

A study file is JSON::

    {"primary": {"backbone": "tf_efficientnet_lite0_frozen", "labels": "10", "row": "mine_random_100",
                 "against": "best control"},
     "draws": 5, "folds": 1, "seed": 0,
     "chosen_on_development": ["C 0.01", "tint"]}
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.runs.files import write_json
from bundle.runs.sums import file_sha256

RECORD = "declared.json"
BEST = "best control"
PRIMARY = ("backbone", "labels", "row", "against")
FIELDS = ("primary", "draws", "folds", "seed", "chosen_on_development")


@dataclass(frozen=True)
class Declaration:
    """A study file that was read, or nothing where none was given.

    Attributes:
        primary: the contrast, by the names of `PRIMARY`; None where nothing was declared.
        numbers: of draws and folds, and the seed.
        chosen: settings that were chosen on slides that are tested here, in words.
        declared_at: when the first run with it began, as text.
    """

    primary: Mapping[str, str] | None = None
    numbers: Mapping[str, int] | None = None
    chosen: tuple[str, ...] = ()
    declared_at: str = ""

    def is_primary(self, backbone: str, labels: str, row: str) -> bool:
        """Whether a row is the one that was named."""
        return self.primary is not None and (backbone, labels, row) == tuple(self.primary[name] for name in PRIMARY[:3])


def declare(path: str | Path | None, folder: Path, has_runs: bool) -> Declaration:
    """Reads a study file, and keeps it with its time beside the runs.

    Args:
        path: of the study file; None where nothing is declared.
        folder: of the study.
        has_runs: whether something was measured there already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a study file, or it came or changed after runs were made.
    """
    record = folder / RECORD
    kept = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    if path is None:
        if kept is not None:
            raise ValueError(
                f"{folder} was declared by the study file {kept['file']}: give it again with --declared, or another "
                "--output_dir"
            )
        return Declaration()
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--declared: there is no study file {path}: write it first (docs/how-to/study.md)")
    digest = file_sha256(path)
    if has_runs and kept is None:
        raise ValueError(
            f"--declared {path} comes after runs were made in {folder}: what was seen can't be declared. Give another "
            "--output_dir"
        )
    if has_runs and kept["sha256"] != digest:
        raise ValueError(
            f"--declared {path} has changed since runs were made in {folder} ({kept['declared_at']}): put the former "
            "text back, or give another --output_dir"
        )
    found = _read(path)
    if kept is None or kept["sha256"] != digest:
        kept = {"file": str(path), "sha256": digest, "declared_at": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        write_json(record, {**kept, "content": json.loads(path.read_text(encoding="utf-8"))})
    return Declaration(found["primary"], found["numbers"], found["chosen"], kept["declared_at"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        odd = sorted(set(content) - set(FIELDS))
        primary = {name: str(content["primary"].get(name, BEST)) for name in PRIMARY}
        lacking = [name for name in PRIMARY[:3] if name not in content["primary"]]
        numbers = {name: int(content[name]) for name in ("draws", "folds", "seed")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--declared {path} is no study file ({error!r}): it is JSON with primary (backbone, labels, row), draws, "
            "folds and seed"
        ) from error
    if odd or lacking:
        what = f"has {odd[0]!r}, which it can't have" if odd else f"names no {lacking[0]} of the primary contrast"
        raise ValueError(f"--declared {path} {what}: it has {', '.join(FIELDS)}")
    return {"primary": primary, "numbers": numbers, "chosen": tuple(content.get("chosen_on_development", ()))}


def require_declared(
    declaration: Declaration, numbers: Mapping[str, int], backbones: Collection[str], labels: Collection[str],
    rows: Collection[str],
) -> None:  # fmt: skip
    """Refuses a run that is not as it was declared.

    Raises:
        ValueError: another number of draws or folds, another seed, or a primary contrast that isn't run.
    """
    if declaration.primary is None:
        return
    for name, declared in declaration.numbers.items():
        if numbers[name] != declared:
            raise ValueError(
                f"--{name} is {numbers[name]}, and the study file declares {declared}: give --{name} {declared}"
            )
    against = declaration.primary["against"]
    choices = {"backbone": backbones, "labels": labels, "row": rows, "against": (BEST, *rows)}
    for name, known in choices.items():
        value = declaration.primary[name]
        if value not in known:
            raise ValueError(
                f"--declared names the {name} {value!r} in its primary contrast, and this study has "
                f"{', '.join(known)}: add it to the flags"
            )
    if against == declaration.primary["row"]:
        raise ValueError(f"--declared compares the row {against!r} with itself: name another under against")
