"""The labelled patches of an adaptation: the class of each, and which are trained on, validated with and tested on."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bundle.data.generated import write_generated_patches
from bundle.data.guards import require_apart, require_no_synthetic, require_unseen
from bundle.data.hashes import HASHES_FILE
from bundle.data.labelled_part import JUDGE_PARTS, LabelledPart, fingerprint_rows
from bundle.data.labelled_source import LabelledSource, one_path
from bundle.data.labels import Labels
from bundle.data.split import (
    PARTS,
    Drawing,
    SplitRow,
    choose_labelled,
    choose_validation,
    classes_of_split,
    find_copies,
    keep_split,
    read_split,
)
from bundle.data.store import PatchStore, evaluated
from bundle.runs.context import RunContext
from bundle.runs.opening import OpenedOnUse
from bundle.runs.workflow import by_name

logger = logging.getLogger(__name__)


class LabelledPatches(OpenedOnUse):
    """Labelled patches in four parts: train, validation, unused and test.

    No picture is in two parts, whatever its name and format; of several files of the dataset with the same pixels, the
    first by name is used. Images marked as synthetic are refused (see
    :func:`bundle.data.guards.require_no_synthetic`, which does not look into archives).

    Args:
        dataset_dir: one folder or archive of labelled images (see `bundle.data.labels`), or None for built-in patches.
        test_dir: likewise, of test images; None for none, or with built-in patches for those of another slide.
        patch_size: pixels a side, or a function that gives it when they are opened.
        cache_dir: where index, pixel cache and built-in patches are kept.
        split_path: where the split of this run is kept, its `split.csv`.
        generated_per_class: built-in patches a class; the test slide has a third of it.
        generated_slide: the built-in slide, one that the pre-training did not see; the test slide is the next one.
        pretraining_hashes: gives the pixel hashes of what the pre-training saw, or None where that is unknown.
        pretraining_overlap: "forbid" refuses images that the pre-training saw, "allow" counts them.
        **settings: those of :class:`Drawing`; and further arguments of PatchStore, or functions that give them when
            they are opened.

    Attributes:
        classes: names, in the order of the label numbers.
        rows: the split: train, validation, unused, test, by class and file within each; parts: likewise by part name.
        patch_size: pixels a side.
        built_in: whether all images are procedural patches.

    Raises:
        ValueError: settings that contradict each other.
    """

    opened = ("rows", "classes", "parts", "built_in", "store")

    def __init__(
        self,
        dataset_dir: str | os.PathLike | None,
        test_dir: str | os.PathLike | None,
        patch_size: int | Callable[[], int],
        cache_dir: str | Path,
        split_path: str | Path,
        generated_per_class: int = 60,
        generated_slide: int = 6,
        pretraining_hashes: Callable[[], set[str] | None] | None = None,
        pretraining_overlap: str = "forbid",
        **settings: Any,
    ) -> None:
        if pretraining_overlap not in ("forbid", "allow"):
            raise ValueError(f"--labelled#pretraining_overlap is {pretraining_overlap!r}; it must be forbid or allow")
        self.dataset_dir = dataset_dir
        self.test_dir = test_dir
        self.patch_size = patch_size
        self.cache_dir = Path(cache_dir).expanduser()
        self.split_path = Path(split_path).expanduser()
        drawn = {field.name for field in dataclasses.fields(Drawing)} & settings.keys()
        self.drawing = Drawing(**{name: settings.pop(name) for name in drawn})
        self.generated_per_class = generated_per_class
        self.generated_slide = generated_slide
        self.pretraining_hashes = pretraining_hashes
        self.pretraining_overlap = pretraining_overlap
        self.store_arguments = settings
        self._places: dict[SplitRow, int] = {}
        self._overlap: int | None = None
        self._notes: list[str] = []
        self._seen: set[str] = set()  # pixel hashes of the pre-training

    def open(self) -> None:
        """Finds, checks, splits and caches the patches; writes `split.csv` and says what was found.

        Raises:
            FileNotFoundError, ValueError: unfit data or settings, an image that is where it may not be, or a
                `split.csv` that was drawn with others.
        """
        if callable(self.patch_size):
            self.patch_size = self.patch_size()
        self._notes = []
        paths = self._sources()
        # One store for both, so that what is in both is read once, and one list names all files that can't be read.
        given = {"blank_picture": self.split_path.parent / "pictures" / "blank_patches.png", **self.store_arguments}
        store = PatchStore(list(dict.fromkeys(paths)), self.patch_size, self.cache_dir, **evaluated(given))
        store.prepare()
        dataset, *rest = (LabelledSource(store, path) for path in paths)
        test = rest[0] if rest else None
        rows, classes = (
            self._draw(dataset) if self.drawing.split_file is None else self._adopt(dataset, test or dataset)
        )
        if test is not None and "test" in self.drawing.wanted and not any(row.part == "test" for row in rows):
            rows += self._test_rows(test, classes)
        rows.sort(key=lambda row: (PARTS.index(row.part), classes.index(row.label), row.file))
        sources = {row: test if test is not None and row.part == "test" else dataset for row in rows}
        files = {row: source.file_path(row.file) for row, source in sources.items()}
        self.built_in = require_no_synthetic(list(files.values()))
        require_apart(files)
        self._compare_with_pretraining(files)
        keep_split(self.split_path, rows)
        self.rows, self.classes = rows, classes
        self._places = {row: source.places[row.file] for row, source in sources.items()}
        self.parts = {part: [row for row in rows if row.part == part] for part in PARTS}
        self.parts |= dict(zip(JUDGE_PARTS, self._judge_rows()))
        self.store = store
        logger.info(f"{store.summary()}\n{self.summary()}")

    @property
    def fingerprint(self) -> str:
        """Identity of what an adaptation learns from: size, stain, class names, pixels and classes in their order."""
        return fingerprint_rows(self, self.parts["train"] + self.parts["validation"])

    def part(self, name: str, maximum: int | None = None) -> LabelledPart:
        """One part as a source of items: "train", "validation", "unused", "test"; or
        "judge_training" or "judge_validation", into which "unused" is divided where it has each class twice or more."""
        return LabelledPart(self, name, maximum)

    def image(self, row: SplitRow) -> torch.Tensor:
        """uint8 RGB [3, S, S] of one of `rows`."""
        return self.store.image(self._places[row])

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images by part and class."""
        found = Counter((row.part, row.label) for row in self.rows)
        return {part: {name: found[part, name] for name in self.classes} for part in PARTS}

    def describe(self) -> dict[str, Any]:
        """Facts about the data for `metrics.json`; `pretraining_overlap` is None where it is unknown."""
        counts = self.counts()
        return {
            "built_in_patches": self.built_in,
            "classes": self.classes,
            "patches": counts,
            "pretraining_overlap": self._overlap,
            "split_file": None if self.drawing.split_file is None else str(self.drawing.split_file),
            "fingerprint": self.fingerprint,
        }

    def summary(self) -> str:
        """The number of images by class and part, and what was left out or could not be checked."""
        counts = self.counts()
        table = [("class", *PARTS)]
        table += [(name, *(counts[part][name] for part in PARTS)) for name in self.classes]
        table += [("total", *(sum(counts[part].values()) for part in PARTS))]
        width = max(len(name) for name, *_ in table)
        lines = [f"{name:{width}}" + "".join(f"{value:>12}" for value in values) for name, *values in table]
        return "\n".join([*lines, *self._notes, f"split: {self.split_path}"])

    @property
    def judged(self) -> bool:
        """Whether images are left for a judge: two or more of each class outside the labelled subset."""
        return len(self.part("judge_training")) > 0

    def _sources(self) -> list[str]:
        """Path of the dataset and, where there is one, of the test set; writes the built-in patches."""
        test = [] if self.test_dir is None else [one_path("test_dir", self.test_dir)]
        if self.dataset_dir is not None:
            dataset = one_path("dataset_dir", self.dataset_dir)
            return [dataset] * 2 if test and os.path.samefile(dataset, test[0]) else [dataset, *test]
        logger.info("no --dataset_dir was given, so built-in patches are made: procedural pictures, not tissue")

        def write(name: str, slide: int, count: int) -> str:
            folder = self.cache_dir / name
            return str(
                write_generated_patches(folder, [slide], count, self.patch_size, self.drawing.seed, group_by="class")
            )

        dataset = write("generated_labelled", self.generated_slide, self.generated_per_class)
        if "test" not in self.drawing.wanted:
            return [dataset, *test]
        count = max(1, self.generated_per_class // 3)
        return [dataset, *(test or [write("generated_test", self.generated_slide + 1, count)])]

    def _draw(self, dataset: LabelledSource) -> tuple[list[SplitRow], list[str]]:
        """Rows of train, validation and unused, and the class names."""
        labels = self._labels(dataset, "dataset")
        if self.drawing.class_names is not None and not labels.numbered:
            raise ValueError(
                f"--class_names {self.drawing.class_names} is given, and {dataset.path} names its classes "
                f"{labels.classes} itself. Leave it out; it is for an array of numbers"
            )
        copies = find_copies(labels.of, dataset.hashes)
        if copies:
            self._notes.append(f"left out, the same pixels as another image of the class: {len(copies)}")
        of = {file: label for file, label in labels.of.items() if file not in copies}
        fraction = self.drawing.label_fraction
        if fraction is None and self.drawing.labels_per_class is None:
            fraction = 1 - self.drawing.judge_share
        try:
            labelled = choose_labelled(of, fraction, self.drawing.labels_per_class, self.drawing.seed)
        except ValueError as error:
            if fraction == self.drawing.label_fraction:
                raise
            raise ValueError(f"{error} (a fraction of {fraction:g} is what --judge_share leaves)") from error
        validation = choose_validation(
            {file: of[file] for file in labelled}, self.drawing.validation_share, self.drawing.seed
        )
        part_of = dict.fromkeys(of, "unused")
        part_of.update(dict.fromkeys(labelled, "train"))
        part_of.update(dict.fromkeys(validation, "validation"))
        return [SplitRow(file, dataset.hashes[file], of[file], part) for file, part in part_of.items()], labels.classes

    def _adopt(self, dataset: LabelledSource, test: LabelledSource) -> tuple[list[SplitRow], list[str]]:
        """Rows of the split file, and the class names."""
        listed = read_split(self.drawing.split_file)
        classes = classes_of_split(listed, self.drawing.split_file)
        rows = [row for row in listed if row.part in self.drawing.wanted]
        for row in rows:
            source = test if row.part == "test" else dataset
            found = source.hashes.get(row.file)
            if found != row.sha256:
                reason = "is not a readable image of" if found is None else "has other pixels in"
                raise ValueError(
                    f"{self.drawing.split_file} lists {row.file!r}, which {reason} {source.path}. Give the data that "
                    "the split was made of with --dataset_dir and --test_dir, or another --split_file"
                )
        find_copies({row.file: row.label for row in rows if row.part != "test"}, dataset.hashes)
        left_out = len(dataset.places.keys() - {row.file for row in listed if row.part != "test" or test is dataset})
        if left_out:
            self._notes.append(f"left out, not in {self.drawing.split_file}: {left_out}")
        return rows, classes

    def _test_rows(self, test: LabelledSource, classes: list[str]) -> list[SplitRow]:
        """Rows of all test images, copies too, as published test sets are to be measured whole."""
        labels = self._labels(test, "test", classes)
        unknown = [name for name in labels.classes if name not in classes]
        if unknown:
            raise ValueError(
                f"the test set {test.path} has class {unknown[0]!r}, and the dataset has only {classes}. Remove it "
                "from --test_dir, or name the classes alike"
            )
        missing = [name for name in classes if name not in labels.classes]
        if missing:
            self._notes.append(f"without a test image: {', '.join(missing)}")
        return [SplitRow(file, test.hashes[file], label, "test") for file, label in labels.of.items()]

    def _labels(self, source: LabelledSource, role: str, known: Iterable[str] = ()) -> Labels:
        labels = source.labels(role, known, self.drawing)
        self._notes += [f"{role}: {labels.note}"] if labels.note else []
        if labels.ignored:
            self._notes.append(f"left out, in other arrays of {source.path} than the {role}'s: {labels.ignored}")
        return labels

    def _compare_with_pretraining(self, files: dict[SplitRow, Path]) -> None:
        seen = None if self.pretraining_hashes is None else self.pretraining_hashes()
        if seen is None and self.pretraining_hashes is not None and self.pretraining_overlap == "forbid":
            raise ValueError(
                f"the pre-training left no {HASHES_FILE}, so whether it saw some of these images can't be checked: put "
                "that file beside its weights, or give --labelled#pretraining_overlap allow"
            )
        if seen is None:
            self._notes.append("could not be checked: whether the pre-training saw some of these images")
            return
        self._seen = seen
        self._overlap = require_unseen(files, seen, self.pretraining_overlap == "allow")
        if self._overlap:
            self._notes.append(
                f"seen by the pre-training, which --labelled#pretraining_overlap allows: {self._overlap}"
            )

    def _judge_rows(self) -> tuple[list[SplitRow], list[SplitRow]]:
        """Those of "unused" that may judge: not seen by the pre-training, each picture once."""
        unused = {row.sha256: row for row in reversed(self.parts["unused"]) if row.sha256 not in self._seen}
        unused = {row.file: row for row in reversed(unused.values())}
        labels = {file: row.label for file, row in unused.items()}
        if any(list(labels.values()).count(name) < 2 for name in self.classes):
            return [], []
        chosen = set(choose_validation(labels, self.drawing.validation_share, self.drawing.seed))
        return (
            [row for file, row in unused.items() if file not in chosen],
            [row for file, row in unused.items() if file in chosen],
        )


@by_name(
    "dataset_dir", "test_dir", "patch_size", "normalise_stain", "split_file", "label_fraction", "labels_per_class",
    "judge_share", "validation_share", "class_names", "class_level", "generated_per_class", "generated_slide",
    "maximum_rejected_share", "maximum_blank_share", "cache_gigabytes",
)  # fmt: skip
def labelled_patches(context: RunContext, **settings: Any) -> LabelledPatches:
    """The labelled patches of the running config, with the cache and `split.csv` of its run.

    Args:
        context: of the run.
        **settings: arguments of LabelledPatches; those that are not given are top-level settings, by name.
    """
    places = {"cache_dir": context.cache_dir, "split_path": context.folder / "split.csv"}
    return LabelledPatches(**{"test_dir": None, **places, **settings})
