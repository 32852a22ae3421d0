"""The labelled dataset or test set, as one source of a store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.labels import Labels, find_labels
from bundle.data.names import nfc
from bundle.data.split import Drawing
from bundle.data.store import PatchStore


class LabelledSource:
    """One source of a store: its path, and by file the place in the store and the pixel hash.

    Files have composed names here, so that a split is the same and is found again on macOS and elsewhere.
    """

    def __init__(self, store: PatchStore, path: str) -> None:
        self.path = path
        self.on_disk: dict[str, str] = {}
        self.places: dict[str, int] = {}
        for place in np.flatnonzero(store.source_of == store.sources.index(path)).tolist():
            file = store.files[place]
            name = file if nfc(file) in self.places else nfc(file)
            self.on_disk[name], self.places[name] = file, place
        self.hashes = {file: store.sha256[place] for file, place in self.places.items()}

    def labels(self, role: str, known: Iterable[str], drawing: Drawing) -> Labels:
        """The class of each file, see :func:`bundle.data.labels.find_labels`."""
        files = list(self.on_disk.values())
        labels = find_labels(self.path, files, role, drawing.class_names, tuple(known), drawing.class_level)
        labels.of = {name: labels.of[file] for name, file in self.on_disk.items() if file in labels.of}
        return labels

    def file_path(self, file: str) -> Path:
        path = Path(self.path)
        return (path.parent if path.is_file() else path) / self.on_disk[file]


def one_path(flag: str, path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"--{flag} is {path!r}; labelled images come from one folder or archive: give its path")
    path = str(Path(path).expanduser())
    if not Path(path).exists():
        raise FileNotFoundError(f"--{flag}: there is no folder or archive {path!r}. One is needed, not several")
    return path
