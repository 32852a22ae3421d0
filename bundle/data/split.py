"""Which labelled images are trained on, validated with, left unused or tested on; and the table of it, `split.csv`.

Every choice depends on the file names, their classes and the seed, not on the order in which a disk lists the files.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bundle.data.class_names import check_class_name, check_class_names
from bundle.data.hashes import SHA256
from bundle.data.names import nfc
from bundle.runs.tables import plain_cells, write_rows

PARTS = ("train", "validation", "unused", "test")
HEADER = ["file", "sha256", "class", "part"]


class SplitRow(NamedTuple):
    """One image: its name within the dataset (within the test set for part "test"), pixel hash, class and part."""

    file: str
    sha256: str
    label: str
    part: str


@dataclasses.dataclass
class Drawing:
    """How labelled images are divided into parts.

    Args:
        split_file: a split to use as it is, of an earlier run or a user's own; images it does not list are left out.
            Its test files are looked up in the test set, or in the dataset where there is no test set.
        parts: the parts of the split file that are looked up; the images of others need not be there.
        label_fraction, labels_per_class: how many labels are used, see :func:`choose_labelled`.
        judge_share: where neither is given, the share of the images, in [0, 1), that is left for the judge.
        validation_share: share of the labelled images to validate with.
        class_names: names of numbered labels, see :func:`bundle.data.labels.find_labels`.
        class_level: which folder is the class: 1 for the first below the source, 2 for the next, -1 for the one that
            holds the image; None for the first that not all images share.
        seed: seed of the split and of the built-in patches.

    Raises:
        ValueError: settings that contradict each other.
    """

    split_file: str | Path | None = None
    parts: Collection[str] = PARTS
    label_fraction: float | None = None
    labels_per_class: int | None = None
    judge_share: float = 0.0
    validation_share: float = 0.2
    class_names: list[str] | str | None = None
    class_level: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.judge_share < 1:
            raise ValueError(f"--judge_share is {self.judge_share}; it must be 0 or more, and below 1")
        level = self.class_level
        if level is not None and (not isinstance(level, int) or isinstance(level, bool) or level == 0):
            raise ValueError(f"--class_level is {level!r}; it must be an integer from 1, or from -1 down")
        for flag in ("label_fraction", "labels_per_class"):
            if self.split_file is not None and getattr(self, flag) is not None:
                raise ValueError(
                    f"--split_file {self.split_file} says which labels are used, and so does --{flag} "
                    f"{getattr(self, flag)}: leave one out"
                )
        self.split_file = None if self.split_file is None else Path(self.split_file).expanduser()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The parts whose images must be there."""
        return PARTS if self.split_file is None else tuple(self.parts)


def choose_labelled(
    labels: Mapping[str, str], label_fraction: float | None = None, labels_per_class: int | None = None, seed: int = 0
) -> list[str]:
    """The files whose labels are used, drawn from each class; all where neither number is given.

    With the same seed a larger number keeps the files of a smaller one, within each class.

    Args:
        labels: class by file.
        label_fraction: share of all files, above 0 and up to 1; round(share x files) are drawn, and divided among the
            classes by largest remainder.
        labels_per_class: exactly so many of each class, 2 or more.
        seed: 0 or more.

    Raises:
        ValueError: both numbers given, or one out of range; one class only; a class with too few files, which it names.
    """
    classes = _files_by_class(labels)
    if label_fraction is not None and labels_per_class is not None:
        raise ValueError(
            f"--label_fraction {label_fraction} and --labels_per_class {labels_per_class} are both given; give one"
        )
    if label_fraction is not None:
        wanted = _share_out(classes, label_fraction)
    elif labels_per_class is not None:
        wanted = _same_for_each(classes, labels_per_class)
    else:
        return sorted(labels)
    return _draw(classes, wanted, [seed, 0])


def choose_validation(labels: Mapping[str, str], share: float = 0.2, seed: int = 0) -> list[str]:
    """The labelled files to validate with: `share` of each class, rounded, at least one and never all.

    Args:
        labels: class by labelled file.
        share: between 0 and 1.
        seed: 0 or more.

    Raises:
        ValueError: a share out of range; one class only; a class with one file, which it names.
    """
    if not is_number(share) or not 0 < share < 1:
        raise ValueError(f"--validation_share is {share!r}; it must lie between 0 and 1")
    classes = _files_by_class(labels)
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(
                f"class {name!r} has one labelled image, {files[0]!r}; two are needed, one to train on and one to "
                "validate with. Add images of this class, or raise --label_fraction or --labels_per_class"
            )
    wanted = {name: min(max(round(share * len(files)), 1), len(files) - 1) for name, files in classes.items()}
    return _draw(classes, wanted, [seed, 1])


def find_copies(labels: Mapping[str, str], hashes: Mapping[str, str]) -> set[str]:
    """The files that repeat the pixels of one that comes before them by name.

    Args:
        labels: class by file.
        hashes: pixel hash by file.

    Raises:
        ValueError: two files have the same pixels and different classes; names both.
    """
    first: dict[str, str] = {}
    copies = {file for file in sorted(labels) if first.setdefault(hashes[file], file) != file}
    for file in sorted(copies):
        original = first[hashes[file]]
        if labels[file] != labels[original]:
            raise ValueError(
                f"{original!r} (class {labels[original]!r}) and {file!r} (class {labels[file]!r}) have the same "
                "pixels. Remove the one whose class is wrong, or both"
            )
    return copies


def write_split(path: str | Path, rows: Iterable[SplitRow]) -> Path:
    """Writes the table with the columns file, sha256, class, part, atomically."""
    return write_rows(path, [HEADER, *rows])


def read_split(path: str | Path) -> list[SplitRow]:
    """Reads and checks what :func:`write_split` wrote, or a user's own table.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another header, or a row with a wrong part, hash, class name or file name; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no split {str(path)!r}. Check --split_file")
    rows: dict[tuple[str, bool], SplitRow] = {}
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # spreadsheets put a mark at the beginning
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if reader.line_num == 1:
                if fields != HEADER:
                    raise ValueError(f"{where}: the columns are {fields}; they must be {','.join(HEADER)}")
            elif fields:
                row = _checked_row(plain_cells(fields), where)
                key = (row.file, row.part == "test")  # a test file lies in another folder, so it may have the same name
                if key in rows:
                    raise ValueError(f"{where}: {row.file!r} is listed before. Remove one of the two lines")
                rows[key] = row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}. Save it as a table with commas") from error
    if not rows:
        raise ValueError(f"{path}: it lists no images. Check --split_file")
    return list(rows.values())


def keep_split(path: str | Path, rows: Collection[SplitRow]) -> None:
    """Writes the split of a run, or makes sure that the one already there has the same rows.

    Raises:
        ValueError: it has other rows.
    """
    path = Path(path)
    if not path.is_file():
        write_split(path, rows)
        return
    changed = set(read_split(path)) ^ set(rows)
    if changed:
        raise ValueError(
            f"{path} was drawn with other data or settings: {len(changed)} rows differ, such as that of "
            f"{min(changed).file!r}. Give the former data and settings again, keep using it with --split_file {path}, "
            "or choose another --output_dir"
        )


def classes_of_split(rows: Iterable[SplitRow], path: str | Path) -> list[str]:
    """The class names of a split read from `path`, in the order in which its training rows name them first.

    Raises:
        ValueError: fewer than two classes, or one that is missing in training or validation.
    """
    found = {part: list(dict.fromkeys(row.label for row in rows if row.part == part)) for part in PARTS}
    classes = found["train"]
    check_class_names(classes, str(path))
    if len(classes) < 2:
        raise ValueError(f"{path}: part train has the classes {classes}; two or more are needed. Add images to it")
    for part in ("validation", "unused", "test"):
        unknown = [name for name in found[part] if name not in classes]
        if unknown:
            raise ValueError(f"{path}: class {unknown[0]!r} is in part {part} and not in train. Add images to train")
    missing = [name for name in classes if name not in found["validation"]]
    if missing:
        raise ValueError(f"{path}: class {missing[0]!r} has no image in part validation. Move one there")
    return classes


def _checked_row(fields: list[str], where: str) -> SplitRow:
    if len(fields) != len(HEADER):
        raise ValueError(f"{where}: it has {len(fields)} fields; {len(HEADER)} are needed: {','.join(HEADER)}")
    file, digest, label, part = fields
    row = SplitRow(nfc(file), digest, nfc(label), part)
    if row.part not in PARTS:
        raise ValueError(f"{where}: the part is {row.part!r}; it must be one of {', '.join(PARTS)}")
    if not SHA256.fullmatch(row.sha256):
        raise ValueError(
            f"{where}: the sha256 is {row.sha256[:80]!r}; it must be 64 lower-case hexadecimal digits, the hash of the "
            "image's pixels"
        )
    parts = re.split(r"[/\\#]", row.file)
    if parts[0] == "" or re.match("[A-Za-z]:", row.file) or ".." in parts:
        raise ValueError(f"{where}: the file is {row.file!r}; it must be a path within the dataset, without '..'")
    check_class_name(row.label, where)
    return row


def _files_by_class(labels: Mapping[str, str]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {name: [] for name in sorted(set(labels.values()))}
    for file in sorted(labels):
        classes[labels[file]].append(file)
    if len(classes) < 2:
        raise ValueError(
            f"all {len(labels)} images are of one class, {', '.join(map(repr, classes)) or 'none'}; two or more are "
            "needed. Give --dataset_dir a folder that holds one folder for each class"
        )
    return classes


def _share_out(classes: dict[str, list[str]], label_fraction: Any) -> dict[str, int]:
    if not is_number(label_fraction) or not 0 < label_fraction <= 1:
        raise ValueError(f"--label_fraction is {label_fraction!r}; it must be above 0 and at most 1")
    count = sum(map(len, classes.values()))
    total = round(label_fraction * count)
    # In whole numbers, so that no rounding decides which class gets the odd image.
    wanted = {name: total * len(files) // count for name, files in classes.items()}
    by_remainder = sorted(classes, key=lambda name: (-(total * len(classes[name]) % count), name))
    for name in by_remainder[: total - sum(wanted.values())]:
        wanted[name] += 1
    for name, number in wanted.items():
        if number < 2:
            raise ValueError(
                f"--label_fraction {label_fraction} leaves class {name!r} {number} of its {len(classes[name])} images; "
                "two are needed, one to train on and one to validate with. Raise it, or use --labels_per_class"
            )
    return wanted


def _same_for_each(classes: dict[str, list[str]], labels_per_class: Any) -> dict[str, int]:
    if not isinstance(labels_per_class, int) or isinstance(labels_per_class, bool) or labels_per_class < 2:
        raise ValueError(
            f"--labels_per_class is {labels_per_class!r}; it must be an integer from 2, one image to train on and one "
            "to validate with"
        )
    for name, files in classes.items():
        if len(files) < labels_per_class:
            raise ValueError(
                f"--labels_per_class is {labels_per_class}, and class {name!r} has {len(files)} images. Lower it, or "
                "use --label_fraction"
            )
    return {name: labels_per_class for name in classes}


def _draw(classes: dict[str, list[str]], wanted: dict[str, int], seed: list[int]) -> list[str]:
    random = np.random.default_rng(seed)
    chosen = []
    for name, files in classes.items():
        chosen += [files[place] for place in random.permutation(len(files))[: wanted[name]]]
    return sorted(chosen)


def is_number(value: Any) -> bool:
    """Whether a setting is a number; Python takes a truth value for one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fingerprint_split(rows: Iterable[SplitRow]) -> str:
    """SHA-256 over pixels and classes of the labelled images, parts "train" and "validation", in any order of rows.

    Unlike `LabelledPatches.fingerprint` it knows neither patch size nor stain normalisation, so that what was selected
    for a split fits all uses of it.
    """
    content = sorted((row.part, row.label, row.sha256) for row in rows if row.part in ("train", "validation"))
    return hashlib.sha256(repr(content).encode()).hexdigest()
