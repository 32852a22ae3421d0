"""Classifiers that were trained elsewhere as rows of the study, such as the one that a generator's training gives.

Such a run is a folder with `metrics.json` (a section "classifier" as configs/classify.json writes it),
`predictions.csv`, `split.csv` and `config.json`. Nothing is trained; what can be checked is that it had
the same labelled images and was measured on the same tiles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.split import fingerprint_split, read_split
from bundle.downstream.study.results import read_correct
from bundle.downstream.study.rows import Row
from bundle.downstream.study.training import DONE

NEEDED = ("metrics.json", "predictions.csv", "split.csv", "config.json")


def finished_rows(classifiers: Mapping[str, str | Sequence[str]]) -> list[Row]:
    """One row for each name; it has no baseline, as no other row is trained alike.

    Raises:
        ValueError: a name that can't be a row's.
    """
    for name in classifiers:
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise ValueError(f"--classifiers names one {name!r}; it must be letters, digits, '_', '-' and '.'")
    return [Row(f"{name}_classifier", f"{name}, its own classifier", baseline=None) for name in classifiers]


def finished_runs(
    classifiers: Mapping[str, str | Sequence[str]], variants: Mapping[bool, str], split_file: Path
) -> list[dict[str, Any]]:
    """The runs of :func:`finished_rows`, as the study's own are once they are done.

    Args:
        classifiers: folder, or folders of several seeds, by name.
        variants: the study's variants by whether images are stain-normalised.
        split_file: the labelled split that all must have been trained on.

    Raises:
        FileNotFoundError: a folder without one of the four files.
        ValueError: another split, other test tiles, a variant that the study doesn't have, or a seed twice.
    """
    runs: list[dict[str, Any]] = []
    split = read_split(split_file)
    for row, folders in zip(finished_rows(classifiers), classifiers.values()):
        for folder in [folders] if isinstance(folders, (str, Path)) else folders:
            run = read_run(row, Path(folder).expanduser(), variants)
            require_same_images(run["folder"], split, split_file)
            twin = [other for other in runs if all(other[key] == run[key] for key in ("row", "variant", "seed"))]
            if twin:
                raise ValueError(f"--classifiers: {twin[0]['folder']} and {run['folder']} have the same seed")
            run["facts"]["split"] = fingerprint_split(split)
            runs.append(run)
    return runs


def read_run(row: Row, folder: Path, variants: Mapping[bool, str]) -> dict[str, Any]:
    """What :func:`bundle.downstream.study.table.write_tables` needs to know of a run."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"--classifiers: {folder} has no {name}; name the folder of a finished training")
    config, metrics = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", NEEDED[0]))
    if "test" not in metrics.get("classifier", {}):
        raise ValueError(
            f"--classifiers: {folder}/metrics.json has no classifier measured on test tiles. Train it with --test_dir"
        )
    variant, seed = variants.get(bool(config.get("normalise_stain", False))), config["seed"]
    if variant is None:
        raise ValueError(f"--classifiers: {folder} is of another of the --variants than this study's")
    return {
        "row": row,
        "variant": variant,
        "seed": seed,
        "name": f"{row.title}, {variant}, seed {seed}",
        "folder": folder,
        "facts": {"status": DONE, "metrics": metrics},
    }


def require_same_images(folder: Path, split: Sequence[Any], split_file: Path) -> None:
    """Refuses a run with other labelled images, or other test tiles than a split that lists some."""
    if fingerprint_split(read_split(folder / "split.csv")) != fingerprint_split(split):
        raise ValueError(
            f"--classifiers: {folder} was trained on other labelled images than those of {split_file}. Train it with "
            f"--split_file {split_file}"
        )
    expected = {row.file for row in split if row.part == "test"}
    measured = set(read_correct(folder / "predictions.csv").get("test", {}))
    if expected and measured != expected:
        raise ValueError(
            f"--classifiers: {folder} was measured on {len(measured)} test tiles, and {split_file} lists "
            f"{len(expected)}, of which {len(measured & expected)} are the same. Give it the same --test_dir"
        )
