"""The folders of runs that a paper reports, by what they are, and what their files say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.report.evaluation_folder import read_evaluation, read_json
from bundle.selection.table import read_selection

KINDS = ("pretrain", "adapt", "inference", "select", "evaluate", "study")
OF_FILE = {"evaluation.json": "evaluate", "selection.csv": "select", "table.md": "study"}
FILES = ("config", "metrics", "software", "origin")
OF_METRICS = {"latent_classifier": "adapt", "decoder": "adapt", "autoencoder": "pretrain", "synthesis": "inference"}


@dataclass(frozen=True)
class Run:
    """What a folder holds; a file that is missing is an empty dictionary.

    Attributes:
        kind: one of `KINDS`.
        config, metrics, software, origin: contents of `config.json`, `metrics.json`, `software.json`, `origin.json`.
    """

    kind: str
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> str:
        """A file of it, as a source is named."""
        return f"{self.kind}/{name}"


@dataclass(frozen=True)
class Runs:
    """All folders of a paper.

    Attributes:
        of: run by kind.
        evaluation: content of `evaluation.json`, {} where there is none.
        selection: facts of the selection, {} where there is none.
    """

    of: Mapping[str, Run]
    evaluation: Mapping[str, Any]
    selection: Mapping[str, Any]

    @property
    def built_in(self) -> bool:
        """Whether any of the files says that its patches are built-in ones."""
        return any(_says_built_in(found) for found in (self.evaluation, *(run.metrics for run in self.of.values())))

    @property
    def labelled(self) -> tuple[Mapping[str, Any], str]:
        """What the adaptation, or else another run, says of labelled images, and the file that says it."""
        for kind in ("adapt", "select", "study"):
            if kind in self.of and "labelled" in self.of[kind].metrics:
                return self.of[kind].metrics["labelled"], self.of[kind].file("metrics.json")
        return {}, ""


def read_runs(folders: Sequence[Path]) -> Runs:
    """Reads folders of runs; one that is none itself is taken for the parent of some.

    Raises:
        FileNotFoundError: a folder that is neither; or one that is not there.
        ValueError: two of one kind, between which nobody but the author can choose; or a broken file.
    """
    found: dict[str, Run] = {}
    for given in folders:
        if not given.is_dir():
            raise FileNotFoundError(f"there is no folder {given}: name output folders of this bundle's configs")
        own = [given] if kind_of(given) else sorted(path for path in given.iterdir() if path.is_dir() and kind_of(path))
        if not own:
            raise FileNotFoundError(
                f"{given} is no output folder of this bundle's configs, and holds none: it has no evaluation.json, "
                "selection.csv, table.md nor a metrics.json of a training. Name one that is"
            )
        for folder in own:
            kind = kind_of(folder)
            if kind in found and found[kind].folder.resolve() != folder.resolve():
                raise ValueError(
                    f"{found[kind].folder} and {folder} are both of {kind}.json: name the folders of one experiment"
                )
            found[kind] = Run(kind, folder, *(_optional(folder / f"{name}.json") for name in FILES))
    evaluate, select = found.get("evaluate"), found.get("select")
    return Runs(
        {kind: found[kind] for kind in KINDS if kind in found},
        read_evaluation(evaluate.folder) if evaluate else {},
        read_selection(select.folder / "selection.csv")[1] if select else {},
    )


def kind_of(folder: Path) -> str:
    """Which config left a folder, "" where none did."""
    for name, kind in OF_FILE.items():
        if (folder / name).is_file():
            return kind
    begin = re.search(r"'config': '(\w+)\.json'", str(_optional(folder / "config.json").get("initialize", "")))
    if begin:
        return begin[1] if begin[1] in KINDS else ""
    metrics = _optional(folder / "metrics.json")
    return next((kind for section, kind in OF_METRICS.items() if section in metrics), "")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _says_built_in(found: Any) -> bool:
    if not isinstance(found, Mapping):
        return False
    return any(found.get(name) is True for name in ("built_in", "built_in_patches")) or any(
        map(_says_built_in, found.values())
    )
