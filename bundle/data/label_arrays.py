"""The class of each image of an array, by an array of numbers beside it: in the same file, or in one of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from bundle.data.archives import array_of, array_shapes, picture_layouts, read_array
from bundle.data.names import nfc

ROLES = {"dataset": "train", "test": "test"}
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("val", "valid", "validation"), "validation")
LABELS_OF = {"images": "labels", "image": "label", "x": "y"}  # what labels are called where images are called so

Array = tuple[str, str]  # file, and name within it; '' in an .npy


@dataclass
class Labels:
    """What :func:`bundle.data.labels.find_labels` finds.

    of: class by file; classes: their names in order; ignored: number of images of other arrays; numbered: whether the
    labels were numbers in an array; note: what a user should know of how the classes were told.
    """

    of: dict[str, str]
    classes: list[str]
    ignored: int = 0
    numbered: bool = False
    note: str = ""


def labels_of_arrays(source: Path, files: Sequence[str], role: str, given: list[str] | None) -> Labels | None:
    """The classes of images in `.npz`, `.npy` and HDF5 files; None where they are no arrays, or have no labels.

    The labels of `images` are `labels`, those of `train_images` `train_labels`, those of `x` `y`: an array so named in
    the same file, or in one beside it that is named so, as of PCam (`..._train_x.h5`, `..._train_y.h5`). They are
    integers [N], [N, 1] or [N, 1, 1, 1]. Of arrays or files for training and others for testing, those of the role are
    taken. Names come from an array `class_names` of an `.npz`, else from the argument, else the numbers are the names.
    Classes are in the order of the numbers. A single `.npz` must have labels.

    Args:
        source: a folder or an archive.
        files: names of images within it.
        role: "dataset" or "test".
        given: names of the classes, by number.

    Raises:
        ValueError: see :func:`bundle.data.labels.find_labels`.
    """
    root = source.parent if source.is_file() else source
    found = Counter(map(array_of, files))
    if None in found:
        return None
    single = len({file for file, _ in found}) == 1 and next(iter(found))[0].lower().endswith(".npz")
    chosen = _of_role(list(found), role)
    if chosen is None and single:
        _refuse_unlabelled(root / next(iter(found))[0], "", [name for _, name in found], role)
    if chosen is None:
        return None
    numbers: dict[Array, list[int]] = {}
    folders = {(root / file).parent for file, _ in chosen}
    beside = {path.with_name(path.name.lower()): path for folder in folders for path in folder.iterdir()}
    for file, name in chosen:
        place = _find_labels_of(root / file, name, beside)
        if place is None and not single:
            return None
        if place is None:
            _refuse_unlabelled(root / file, name, [name for _, name in found], role)
        numbers[file, name] = _read_numbers(*place, picture_layouts(root / file)[name].count)
    return _named(root / chosen[0][0], files, numbers, role, given)


def _part_of(array: Array) -> str | None:
    """The part of a dataset that an array or its file is named by, the array's own name first."""
    for name in (array[1].rsplit("/", 1)[-1], Path(array[0]).stem):
        for word in re.findall("[a-z]+", name.lower()):
            if word in PARTS:
                return PARTS[word]
    return None


def _of_role(arrays: list[Array], role: str) -> list[Array] | None:
    """The arrays of a role; those of no part where none is of the role's; all where they are of one other part."""
    parts = {array: _part_of(array) for array in arrays}
    for wanted in (ROLES[role], None):
        if chosen := [array for array, part in parts.items() if part == wanted]:
            return chosen
    return arrays if len(set(parts.values())) == 1 else None


def _refuse_unlabelled(path: Path, name: str, arrays: Sequence[str], role: str) -> NoReturn:
    if wanted := _labels_name(name):
        raise ValueError(
            f"{path}: there is no array {wanted!r} with the labels. Add it, or give a folder for each class"
        )
    raise ValueError(
        f"{path}: no array '{ROLES[role]}_images' or 'images' of pictures is in it, only {sorted(arrays)}. Name it so, "
        f"or give another {'--dataset_dir' if role == 'dataset' else '--test_dir'}"
    )


def _labels_name(name: str) -> str | None:
    """What the labels of images of this name are called, in small letters; None where it names no images."""
    found = list(re.finditer(r"(?<![a-z])(images|image|x)(?![a-z])", name.lower()))
    if not found:
        return None
    last = found[-1]
    return name[: last.start()].lower() + LABELS_OF[last[0]] + name[last.end() :].lower()


def _find_labels_of(path: Path, name: str, beside: Mapping[Path, Path]) -> tuple[Path, str] | None:
    """File and array of the labels of an array of images; `beside` are files by their names in small letters."""
    wanted = _labels_name(name)
    for other in array_shapes(path) if wanted else ():
        if other.lower() == wanted:
            return path, other
    labels = beside.get(path.with_name(f"{_labels_name(path.stem)}{path.suffix.lower()}"))
    if labels is None:
        return None
    names = list(array_shapes(labels))
    if len(names) == 1:
        return labels, names[0]
    return next(((labels, other) for other in names if other.lower() in (wanted, name.lower())), None)


def _read_numbers(path: Path, name: str, count: int) -> list[int]:
    shape, dtype = array_shapes(path)[name]
    what = f"{path}: {name!r}" if name else f"{path}"
    if dtype.kind == "O":
        raise ValueError(f"{what} can't be read (it holds Python objects). Save it as plain numbers")
    if dtype.kind not in "iub" or not shape or any(side != 1 for side in shape[1:]):
        raise ValueError(f"{what} is {dtype} {list(shape)}; integers [{count}] or [{count}, 1] are needed")
    if shape[0] != count:
        raise ValueError(f"{what} has {shape[0]} labels for {count} images; save one for each image")
    return read_array(path, name).reshape(-1).astype(int).tolist()


def _named(
    path: Path, files: Sequence[str], numbers: dict[Array, list[int]], role: str, given: list[str] | None
) -> Labels:
    """Labels by name, where all numbers have one."""
    present = sorted(set().union(*numbers.values()))
    names = _class_names(path, given)
    allowed = len(names) if names else np.inf
    outside = [number for number in present if not 0 <= number < allowed]
    if outside:
        expected = f"{len(names)} class names allow 0 to {len(names) - 1}" if names else "labels begin with 0"
        raise ValueError(f"{path}: label {outside[0]} is out of range, {expected}. Correct it, or give --class_names")
    if names and role == "dataset" and len(present) < len(names):
        empty = next(name for number, name in enumerate(names) if number not in present)
        raise ValueError(
            f"{path}: {len(names)} class names are given and {len(present)} classes found; no image has class "
            f"{empty!r}. Give one name for each label number with --class_names"
        )
    name_of = {number: names[number] if names else str(number) for number in present}
    of = {}
    for file in files:
        if (array := array_of(file)) in numbers:
            of[file] = name_of[numbers[array][int(file.rpartition("/")[2].rpartition("#")[2])]]
    return Labels(of, list(name_of.values()), ignored=len(files) - len(of), numbered=True)


def _class_names(path: Path, given: list[str] | None) -> list[str] | None:
    own = None
    if path.suffix.lower() == ".npz" and "class_names" in (arrays := array_shapes(path)):
        shape, dtype = arrays["class_names"]
        if dtype.kind != "U" or len(shape) != 1:
            raise ValueError(f"{path}: 'class_names' is {dtype} {list(shape)}; save it as text, one name a class")
        own = [nfc(name) for name in read_array(path, "class_names").tolist()]
        if given is not None and given != own:
            raise ValueError(f"{path}: its class names are {own}, --class_names says {given}. Leave out --class_names")
    names = own or given
    repeated = [name for name in names or () if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{path}: two classes have the name {repeated[0]!r}. Give others with --class_names")
    return names
