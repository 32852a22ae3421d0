"""The tiles of a study: what labels are drawn from and every set that is tested on, each with its class and slide."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.generated import write_generated_patches
from bundle.data.guards import require_apart, require_no_synthetic
from bundle.data.labelled_source import LabelledSource, one_path
from bundle.data.split import Drawing, SplitRow, read_split
from bundle.data.store import PatchStore
from bundle.downstream.proof.groups import slides_of
from bundle.runs.opening import OpenedOnUse

logger = logging.getLogger(__name__)

LABELLED = "labelled"  # the set that labels are drawn from
BUILT_IN_SLIDE = "slide_[0-9]+"
BUILT_IN = {LABELLED: (6, 7, 8), "test": (9, 10)}  # slides of built-in patches


@dataclass(frozen=True)
class Tile:
    """One tile: its set, name within it, class, slide, pixel hash and place in the store."""

    part: str
    file: str
    label: str
    slide: str
    sha256: str
    place: int


class StudyTiles(OpenedOnUse):
    """All tiles of a study, each at one size.

    Args:
        dataset_dir: folder or archive of labelled tiles, or None for built-in patches.
        test_dir: further sets to test on, by name; as "NAME=PATH", several with commas, or a path alone.
        cache_dir: where resized pixels are kept.
        patch_size: pixels a side that the tiles are reduced to.
        groups: see :func:`bundle.downstream.proof.groups.slides_of`; or by name of a set, where they differ.
        split_file: a split whose parts "train" and "validation" alone give labels, such as that of the adaptation which
            made a pool; None for all tiles of `dataset_dir`.
        ignored_classes: classes of the sets that are left out, as a list or with commas.
        generated_per_class: built-in patches a class and slide.
        seed: of the built-in patches.

    Attributes:
        classes: names; tiles: all, by set, class and file.
        labels: int array [N], places in `classes`; slides: array of names [N], with the set's in front; parts: array
            of names [N].
        offered: bool array [N], whether a tile may give a label.
        notes: what a reader of the results must know.

    Raises:
        ValueError: a test set without a name.
    """

    opened = ("classes", "tiles", "labels", "slides", "parts", "offered", "notes", "store")

    def __init__(
        self,
        dataset_dir: Any,
        test_dir: Any,
        cache_dir: str | Path,
        patch_size: int = 160,
        groups: str | Mapping[str, str] = "folder",
        split_file: str | Path | None = None,
        ignored_classes: Collection[str] | str = (),
        generated_per_class: int = 20,
        seed: int = 0,
    ) -> None:
        self.dataset_dir = dataset_dir
        self.test_dirs = named_paths(test_dir)
        self.cache_dir = Path(cache_dir).expanduser()
        self.patch_size = patch_size
        self.groups = groups
        self.split_file = split_file
        names = ignored_classes.split(",") if isinstance(ignored_classes, str) else ignored_classes or ()
        self.ignored = {str(name).strip() for name in names}
        self.generated_per_class = generated_per_class
        self.seed = seed

    def open(self) -> None:
        """Finds, reads and checks them.

        Raises:
            FileNotFoundError, ValueError: unfit data, classes that labels lack, or one picture in two sets.
        """
        self.notes = []
        paths = self._paths()
        store = PatchStore(list(dict.fromkeys(paths.values())), self.patch_size, self.cache_dir)
        store.prepare()
        tiles, on_disk = [], {}
        for part, path in paths.items():
            source = LabelledSource(store, path)
            known = sorted({tile.label for tile in tiles})
            of = source.labels("dataset" if part == LABELLED else "test", known, Drawing()).of
            of = {file: label for file, label in of.items() if label not in self.ignored}
            unknown = sorted(set(of.values()) - set(known)) if part != LABELLED else []
            if unknown:
                raise ValueError(
                    f"the test set {part} ({path}) has the class {unknown[0]!r}, and the labelled tiles have only "
                    f"{', '.join(known)}: name the classes alike, or leave it out with --ignored_classes "
                    f"{','.join([*sorted(self.ignored), *unknown])}"
                )
            if self.dataset_dir is None:
                groups = BUILT_IN_SLIDE
            else:
                groups = self.groups if isinstance(self.groups, str) else self.groups.get(part)
            if groups is None:
                raise ValueError(f"--groups names none for the set {part}: add it, or give one for all sets")
            slides = slides_of(of, path, groups)
            for file in sorted(of, key=lambda file: (of[file], file)):
                tile = Tile(part, file, of[file], slides[file], source.hashes[file], source.places[file])
                tiles.append(tile)
                row = SplitRow(f"{part}/{file}", tile.sha256, tile.label, part)
                on_disk[row] = source.file_path(file)
        require_no_synthetic(list(on_disk.values()))
        require_apart(on_disk)
        classes = sorted({tile.label for tile in tiles})
        if len(classes) < 2:
            raise ValueError(
                f"all labelled tiles are of one class, {classes}: give --dataset_dir a folder with one folder for each"
            )
        self.store, self.tiles, self.classes = store, tiles, classes
        self.labels = np.array([classes.index(tile.label) for tile in tiles])
        self.parts = np.array([tile.part for tile in tiles])
        # A slide of the same name in two sets is one slide.
        self.slides = np.array([tile.slide for tile in tiles])
        self.offered = self._offered()
        self._note()

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB [S, S, 3] of a tile."""
        return self.store.image(self.tiles[index].place).permute(1, 2, 0).numpy()

    def describe(self) -> list[dict[str, Any]]:
        """One line a tile, as for tiles.csv."""
        return [
            {"set": tile.part, "file": tile.file, "sha256": tile.sha256, "class": tile.label, "slide": tile.slide}
            for tile in self.tiles
        ]

    def _paths(self) -> dict[str, str]:
        if self.dataset_dir is not None:
            given = {LABELLED: self.dataset_dir, **self.test_dirs}
            return {
                name: one_path("dataset_dir" if name == LABELLED else "test_dir", path) for name, path in given.items()
            }
        logger.info("no --dataset_dir was given, so built-in patches are made: procedural pictures, not tissue")
        size = min(self.patch_size, 64)
        return {
            name: str(write_generated_patches(
                self.cache_dir / f"generated_{name}", slides, self.generated_per_class, size, self.seed, "class"
            ))
            for name, slides in BUILT_IN.items()
        }  # fmt: skip

    def _offered(self) -> np.ndarray:
        labelled = self.parts == LABELLED
        if self.split_file is None:
            return labelled
        rows = read_split(Path(self.split_file).expanduser())
        allowed = {row.sha256 for row in rows if row.part in ("train", "validation")}
        offered = labelled & np.array([tile.sha256 in allowed for tile in self.tiles])
        missing = allowed - {tile.sha256 for tile, given in zip(self.tiles, offered) if given}
        if missing:
            raise ValueError(
                f"--split_file {self.split_file} lists {len(missing)} labelled tiles that --dataset_dir "
                f"{self.dataset_dir} has not: give the data that the split was made of, or another split"
            )
        return offered

    def _note(self) -> None:
        for part in dict.fromkeys(self.parts):
            own = self.parts == part
            missing = [name for number, name in enumerate(self.classes) if number not in self.labels[own]]
            slides = len(set(self.slides[own]))
            note = f"{part}: {own.sum()} tiles of {slides} slides"
            self.notes.append(note + (f"; none of class {', '.join(missing)}" if missing else ""))
        classes_of: dict[str, set[int]] = {}
        for slide, label in zip(self.slides, self.labels):
            classes_of.setdefault(slide, set()).add(label)
        sizes = Counter(len(found) for found in classes_of.values())
        if sizes[1]:
            self.notes.append(
                f"{sizes[1]} of {len(classes_of)} slides have tiles of one class only: what is right there may be owed "
                "to the slide's stain as much as to the class. Label a second class on them where there is one"
            )


def named_paths(given: Any) -> dict[str, str]:
    """Test sets by name, of a dictionary or text.

    Raises:
        ValueError: two of one name, a name that the study uses itself, or several sets of which one has no name.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        pairs = [(str(name), str(path)) for name, path in given.items()]
    else:
        texts = [text.strip() for text in given.split(",")] if isinstance(given, str) else [str(text) for text in given]
        pairs = [tuple(text.split("=", 1)) if "=" in text else ("test", text) for text in texts]
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1 or name in (LABELLED, "all")]
    if twice:
        raise ValueError(
            f"--test_dir names the set {twice[0]!r}, which is taken or given twice: write NAME=PATH for each, with "
            f"names of their own other than {LABELLED} and all"
        )
    return dict(pairs)
