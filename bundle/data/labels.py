"""The class of each image: by its folder, by its name as in NCT-CRC-HE, or by an array of labels."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bundle.data.archives import array_of, split_member
from bundle.data.class_names import check_class_names, parse_class_names
from bundle.data.label_arrays import Labels, labels_of_arrays
from bundle.data.names import nfc

NAMED_BY_CLASS = re.compile(r"[A-Z][A-Z0-9]*-")
PART_OF_A_DATASET = re.compile("(train|test|val|validation)(_images)?", re.IGNORECASE)


def find_labels(
    source: str | os.PathLike,
    files: Sequence[str],
    role: str = "dataset",
    class_names: Sequence[str] | str | None = None,
    known: Collection[str] = (),
    class_level: int | None = None,
) -> Labels:
    """The class of each image of a source.

    - Arrays with labels beside them: see :func:`bundle.data.label_arrays.labels_of_arrays`.
    - Anything else: after the folders that all files share, the first folder is the class, inside an archive too (the
      name of an archive is no folder, nor is that of the only array of a file). Where no folder is left for any file,
      the part of the file name before its first '-', as in `TUM-AAAHGIGK.tif`. Classes are sorted by name.

    Args:
        source: a folder or an archive.
        files: names of images, as :func:`bundle.data.sources.find_items` gives them; at least one.
        role: "dataset" or "test".
        class_names: of numbered labels, as :func:`parse_class_names` takes them; label 0 has the first name.
        known: class names expected; a folder so named is a class even where all files share it.
        class_level: which folder is the class: 1 for the first below the source, 2 for the next, -1 for the one that
            holds the image, -2 for that above it; None for the first that not all images share.

    Raises:
        ValueError: no class can be told for a file; the folders are parts of a dataset, such as train and test; labels
            missing, of another length or type, out of range; too many or too few class names, or unfit ones.
    """
    known = [nfc(name) for name in known]
    labels = labels_of_arrays(Path(source), files, role, parse_class_names(class_names))
    if labels is None:
        of, note = _labels_of_paths(Path(source), files, known, class_level)
        labels = Labels(of, sorted(set(of.values())), note=note)
    elif class_level is not None:
        raise ValueError(
            f"{source}: --class_level {class_level} is given, and an array of labels says the classes. Leave it out"
        )
    check_class_names(labels.classes, str(source))
    return labels


def _labels_of_paths(
    source: Path, files: Sequence[str], known: Collection[str], class_level: int | None
) -> tuple[dict[str, str], str]:
    """Class by file, and what a user should know of how it was told."""
    folders = _folders(files, known)
    shared = os.path.commonprefix(list(folders.values()))
    depth = next((place for place, name in enumerate(shared) if name in known), len(shared))
    without = [file for file, parts in folders.items() if len(parts) == depth]
    note = ""
    if class_level is not None:
        of = {file: _folder_at(source, file, parts, class_level) for file, parts in folders.items()}
    elif not without:
        of = {file: parts[depth] for file, parts in folders.items()}
        note = _note_of_level(of, folders, depth)
    elif len(without) < len(files):
        raise ValueError(
            f"{source}: {len(without)} of {len(files)} images lie beside the class folders, such as {without[0]!r}. "
            "Move them into the folder of their class, or away"
        )
    else:
        names = {file: (split_member(file)[1] or file).rsplit("/", 1)[-1] for file in files}
        # Capitals, as in NCT-CRC-HE: the files of one class alone, slide1-001.png, are not to be taken for several.
        unnamed = [file for file in files if not NAMED_BY_CLASS.match(names[file])]
        if unnamed:
            raise ValueError(
                f"{source}: the class of {unnamed[0]!r} can't be told. Put the images of each class into a folder of "
                "its own, or begin each name with its class and '-', as in TUM-AAAHGIGK.tif; labels of an array are "
                "found in another, named labels or y"
            )
        of = {file: name.split("-", 1)[0] for file, name in names.items()}
    parts = sorted(name for name in set(of.values()) if PART_OF_A_DATASET.fullmatch(name))
    if parts:
        place = source.joinpath(*shared[:depth])
        raise ValueError(
            f"{source}: {parts} are parts of a dataset and not classes. Give them one by one: --dataset_dir "
            f"{place}/train --test_dir {place}/test (unpack a .zip first; of .npz files, give one), or all as one with "
            f"--class_level {depth + 2}"
        )
    return of, note


def _folders(files: Sequence[str], known: Collection[str]) -> dict[str, list[str]]:
    """The folders that each file lies in, also within an archive; the only array of a file is none of them."""
    arrays = Counter(array[0] for array in set(map(array_of, files)) if array)
    found: dict[str, list[str]] = {}
    for file in files:
        archive, member = split_member(file)
        parts = [*archive.split("/")[:-1], *(member or "").split("/")[:-1]]
        if (array_of(file) or ("", ""))[1] and arrays[archive] == 1 and nfc(parts[-1]) not in known:
            parts.pop()
        found[file] = [nfc(part) for part in parts if part not in ("", ".")]
    return found


def _folder_at(source: Path, file: str, parts: Sequence[str], class_level: int) -> str:
    if abs(class_level) > len(parts):
        raise ValueError(
            f"{source}: --class_level {class_level} asks for a folder that {file!r} has not: it lies in {len(parts)} "
            "folders. Give another level, or move it"
        )
    return parts[class_level - 1 if class_level > 0 else class_level]


def _note_of_level(of: Mapping[str, str], folders: Mapping[str, Sequence[str]], depth: int) -> str:
    """Which folders were taken for the classes, where those below could be meant; empty where there are none."""
    classes_of: dict[str, set[str]] = defaultdict(set)
    for file, parts in folders.items():
        if len(parts) > depth + 1:
            classes_of[parts[depth + 1]].add(of[file])
    if len(classes_of) < 2:
        return ""
    classes, below = (
        ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3) for names in (set(of.values()), classes_of)
    )
    repeated = len(set(of.values())) > 1 and all(len(found) > 1 for found in classes_of.values())
    return (
        f"the classes are the folders of level {depth + 1} ({classes}); --class_level {depth + 2} takes those below "
        f"({below})"
        + ", which have the same names in several of them, as classes of several patients or sets have" * repeated
    )
