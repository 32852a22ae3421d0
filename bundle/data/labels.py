"""The class of each image: by its folder, by its name as in NCT-CRC-HE, or by the label array of an `.npz`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.data.archives import list_members, read_npz_array, split_member

CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*")
NAMED_BY_CLASS = re.compile(r"[A-Z][A-Z0-9]*-")
PART_OF_A_DATASET = re.compile("(train|test|val|validation)(_images)?", re.IGNORECASE)
ROLES = {"dataset": "train_images", "test": "test_images"}


@dataclass
class Labels:
    """What :func:`find_labels` finds.

    of: class by file; classes: their names in order; ignored: number of images of other arrays of the `.npz`;
    numbered: whether the labels were numbers in an `.npz`.
    """

    of: dict[str, str]
    classes: list[str]
    ignored: int = 0
    numbered: bool = False


def find_labels(
    source: str | os.PathLike,
    files: Sequence[str],
    role: str = "dataset",
    class_names: Sequence[str] | str | None = None,
    known: Collection[str] = (),
) -> Labels:
    """The class of each image of a source.

    - One `.npz`, given itself or alone in a folder: `train_images` with `train_labels` (role "dataset") or
      `test_images` with `test_labels` (role "test"), else `images` with `labels`; integers [N] or [N, 1]. Names come
      from its array `class_names`, else from the argument, else the numbers are the names. Classes are in the order of
      the numbers.
    - Anything else: after the folders that all files share, the first folder is the class, inside an archive too (the
      name of an archive is no folder). Where no folder is left for any file, the part of the file name before its
      first '-', as in `TUM-AAAHGIGK.tif`. Classes are sorted by name.

    Args:
        source: a folder or an archive.
        files: names of images, as :func:`bundle.data.sources.find_items` gives them; at least one.
        role: "dataset" or "test".
        class_names: for an `.npz`, as :func:`parse_class_names` takes them; label 0 has the first name.
        known: class names expected; a folder so named is a class even where all files share it.

    Raises:
        ValueError: no class can be told for a file; the folders are parts of a dataset, such as train and test; labels
            missing, of another length or type, out of range; too many or too few class names, or unfit ones.
    """
    archives = {split_member(file)[0] for file in files}
    name = next(iter(archives))
    if len(archives) == 1 and name.lower().endswith(".npz"):
        root = Path(source)
        labels = _labels_of_npz(root if root.is_file() else root / name, files, role, parse_class_names(class_names))
    else:
        of = _labels_of_paths(Path(source), files, known)
        labels = Labels(of, sorted(set(of.values())))
    for class_name in labels.classes:
        check_class_name(class_name, str(source))
    return labels


def parse_class_names(class_names: Sequence[str] | str | None) -> list[str] | None:
    """Names from a list, from text with commas between them, or from one name; None for None."""
    if class_names is None:
        return None
    if isinstance(class_names, (list, tuple)):
        return [str(name) for name in class_names]
    return [name.strip() for name in str(class_names).split(",")]  # a command line gives "7" as a number


def check_class_name(name: str, where: str) -> None:
    """Refuses a class name that can't be a folder name everywhere, or an item of a list with commas.

    Raises:
        ValueError: names it and says what is allowed.
    """
    if not CLASS_NAME.fullmatch(name):
        raise ValueError(
            f"{where}: the class name {name!r} can't be used; it must begin with a letter or digit (a-z, 0-9) and hold "
            "only these, spaces and _ . + -. Rename the folder, or for an .npz give others with --class_names"
        )


def _labels_of_paths(source: Path, files: Sequence[str], known: Collection[str]) -> dict[str, str]:
    folders = [_folders(file) for file in files]
    shared = os.path.commonprefix(folders)
    depth = next((place for place, name in enumerate(shared) if name in known), len(shared))
    without = [file for file, parts in zip(files, folders) if len(parts) == depth]
    if not without:
        of = {file: parts[depth] for file, parts in zip(files, folders)}
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
                "its own, or begin each name with its class and '-', as in TUM-AAAHGIGK.tif"
            )
        of = {file: name.split("-", 1)[0] for file, name in names.items()}
    parts = sorted(name for name in set(of.values()) if PART_OF_A_DATASET.fullmatch(name))
    if parts:
        place = source.joinpath(*shared[:depth])
        raise ValueError(
            f"{source}: {parts} are parts of a dataset and not classes. Give them one by one: --dataset_dir "
            f"{place}/train --test_dir {place}/test (unpack a .zip first; of .npz files, give one)"
        )
    return of


def _folders(file: str) -> list[str]:
    archive, member = split_member(file)
    parts = archive.split("/")[:-1] + (member or "").split("/")[:-1]
    return [part for part in parts if part not in ("", ".")]


def _labels_of_npz(path: Path, files: Sequence[str], role: str, given: list[str] | None) -> Labels:
    arrays = [member.rpartition("/")[0] for member in list_members(path)]
    images = next((name for name in (ROLES[role], "images") if name in arrays), None)
    if images is None:
        raise ValueError(
            f"{path}: no array {ROLES[role]!r} or 'images' of pictures is in it, only {sorted(set(arrays))}. Name it "
            f"so, or give another {'--dataset_dir' if role == 'dataset' else '--test_dir'}"
        )
    numbers = _read_numbers(path, images.replace("images", "labels"), arrays.count(images))
    present = sorted(set(numbers))
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
        array, _, index = split_member(file)[1].rpartition("/")
        if array == images:
            of[file] = name_of[numbers[int(index)]]
    return Labels(of, list(name_of.values()), ignored=len(files) - len(of), numbered=True)


def _read_numbers(path: Path, name: str, count: int) -> list[int]:
    numbers = _read_array(path, name)
    if numbers is None:
        raise ValueError(f"{path}: there is no array {name!r} with the labels. Add it, or give a folder for each class")
    shape = numbers.shape
    if numbers.dtype.kind not in "iu" or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise ValueError(
            f"{path}: {name!r} is {numbers.dtype} {list(shape)}; integers [{count}] or [{count}, 1] are needed"
        )
    if len(numbers) != count:
        raise ValueError(f"{path}: {name!r} has {len(numbers)} labels for {count} images; save one for each image")
    return numbers.reshape(-1).tolist()


def _class_names(path: Path, given: list[str] | None) -> list[str] | None:
    own = _read_array(path, "class_names")
    if own is not None:
        if own.dtype.kind != "U" or own.ndim != 1:
            raise ValueError(
                f"{path}: 'class_names' is {own.dtype} {list(own.shape)}; save it as text, one name a class"
            )
        own = own.tolist()
        if given is not None and given != own:
            raise ValueError(f"{path}: its class names are {own}, --class_names says {given}. Leave out --class_names")
    names = own or given
    repeated = [name for name in names or () if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{path}: two classes have the name {repeated[0]!r}. Give others with --class_names")
    return names


def _read_array(path: Path, name: str) -> np.ndarray | None:
    try:
        return read_npz_array(path, name)
    except KeyError:
        return None
    except ValueError as error:  # among them Python objects, which could run code when read
        raise ValueError(f"{path}: {name!r} can't be read ({error}). Save it as plain numbers or text") from error
