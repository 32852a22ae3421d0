"""Images kept inside archives: `.npz`, `.npy` and HDF5 stacks, and `.zip` files, all read in place.

A member is named `archive.npz#train_images/17` (array, index), `images.npy#17`, `stack.h5#group/images/17` or
`tiles.zip#folder/tile.png`.

Which arrays are images: see `bundle.data.array_layouts`. What is named as masks or labels (see `bundle.data.names`) is
left out. Where an `.npz` or HDF5 file has arrays with `image` in their name (`train_images`, `val_images`, `images`),
only those are taken; otherwise all of them are.

An array of an `.npz` is decompressed whole, once per process, and stays in memory while it is in use; `.npy` is
memory-mapped and HDF5 is read image by image.
"""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from bundle.data.array_layouts import Layout, Shapes, find_layouts, take_images
from bundle.data.names import left_out

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ARCHIVE_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".zip")
LARGEST_MEMBER = 2**30  # bytes; more than Pillow's limit on pixels takes, and far less than a zip bomb

_MEMBER = re.compile(r"\.(?:npz|npy|h5|hdf5|zip)#", re.IGNORECASE)
_ARCHIVES_KEPT_OPEN = 8
_open_archives: OrderedDict[tuple, Any] = OrderedDict()
_lock = threading.RLock()


def split_member(file: str) -> tuple[str, str | None]:
    """`tiles.zip#a/b.png` -> (`tiles.zip`, `a/b.png`); a plain file -> (file, None)."""
    found = _MEMBER.search(file)
    return (file[: found.end() - 1], file[found.end() :]) if found else (file, None)


def array_of(file: str) -> tuple[str, str] | None:
    """The file and the array that an image lies in, `stack.h5#a/b/7` -> (`stack.h5`, `a/b`); None outside arrays."""
    archive, member = split_member(file)
    return None if member is None or archive.lower().endswith(".zip") else (archive, member.rpartition("/")[0])


class Contents(NamedTuple):
    """Sorted member names of every image in an archive, and the number of what is left out by kind."""

    members: list[str]
    ignored: Counter


def list_contents(path: Path) -> Contents:
    """What is in an archive. Reads headers only.

    Raises whatever the archive's own reader raises for a damaged file.
    """
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = {name for name in archive.namelist() if not name.endswith("/")}
        kinds = {name: _kind_of_member(name) for name in names}
        return Contents(sorted(name for name in names if not kinds[name]), Counter(filter(None, kinds.values())))
    images, ignored = take_images(array_shapes(path), path.stem)
    members = [f"{name}/{index}".lstrip("/") for name in sorted(images) for index in range(images[name].count)]
    return Contents(members, ignored)


def list_members(path: Path) -> list[str]:
    """The members of :func:`list_contents`."""
    return list_contents(path).members


def leads_outside(member: str) -> bool:
    """Whether a zip member is named so that it would be unpacked outside its folder, on any system."""
    return member.startswith("/") or "\\" in member or ":" in member.split("/")[0] or ".." in member.split("/")


def read_member(path: Path, member: str) -> np.ndarray | bytes:
    """One image: an array [H, W] or [H, W, 1 or 3] of a stack as it is stored, or the bytes of a zip member.

    Raises:
        ValueError: a zip member with an absolute path, with `..`, encrypted, or larger than any image allowed.
        KeyError, IndexError, OSError: no such member, or a damaged archive.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _read_zip_member(path, member)
    name, _, index = member.rpartition("/")
    if suffix == ".npz":
        array = _opened(path, name, lambda: _load_npz_array(path, name))
    elif suffix == ".npy":
        # Mapped, so that a stack larger than memory is read one image at a time.
        array = _opened(path, "", lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    else:
        import h5py

        array = _opened(path, "", lambda: h5py.File(path, "r"))[name]
    return picture_layouts(path).get(name, Layout(len(array), True, False)).image(array, int(index))


def _npy_header(stream) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def array_shapes(path: Path) -> Shapes:
    """Shape and type of each array of an `.npz`, `.npy` (whose name is '') or HDF5 file, read from headers."""
    return _as_it_is_now(path)[0]


def picture_layouts(path: Path) -> dict[str, Layout]:
    """How each array of a file that may hold images does, see :func:`bundle.data.array_layouts.find_layouts`."""
    return _as_it_is_now(path)[1]


def _as_it_is_now(path: Path) -> tuple[Shapes, dict[str, Layout]]:
    status = os.stat(path)
    return _shapes_and_layouts(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _shapes_and_layouts(path: Path, mtime_ns: int, size: int) -> tuple[Shapes, dict[str, Layout]]:
    arrays = _read_shapes(path)
    return arrays, find_layouts(arrays)


def _read_shapes(path: Path) -> Shapes:
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as stream:
            return {"": _npy_header(stream)}
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as stream:
                        shapes[name[: -len(".npy")]] = _npy_header(stream)
        return shapes
    import h5py

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            shapes[name] = node.shape, node.dtype

    with h5py.File(path, "r") as archive:
        archive.visititems(visit)
    return shapes


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a file, whole, such as its labels; never Python objects, which could run code when read."""
    if path.suffix.lower() == ".npz":
        return _load_npz_array(path, name)
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    import h5py

    with h5py.File(path, "r") as archive:
        return archive[name][()]


def _load_npz_array(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


def _kind_of_member(name: str) -> str | None:
    """How a member of a zip is counted that is no image; None for an image."""
    suffix = PurePosixPath(name).suffix.lower()
    kind = left_out(PurePosixPath(name).parts)
    return kind or (None if suffix in IMAGE_SUFFIXES else suffix or "(no suffix)")


def _read_zip_member(path: Path, member: str) -> bytes:
    if leads_outside(member):
        raise ValueError("its path leads outside the zip (absolute, with '..', a drive or a backslash); rename it")
    archive = _opened(path, "", lambda: zipfile.ZipFile(path))
    information = archive.getinfo(member)
    if information.flag_bits & 1:
        raise ValueError("it is encrypted; store it without a password")
    if information.file_size > LARGEST_MEMBER:
        raise ValueError(f"it unpacks to {information.file_size} bytes, more than the {LARGEST_MEMBER} allowed")
    with _lock:  # zipfile counts its readers without a lock
        return archive.read(information)


def _opened(path: Path, part: str, open_archive: Callable[[], Any]) -> Any:
    """The archive (or array `part` of it), opened at first use and kept; opened anew where the file has changed.

    What is pushed out is not closed but let go: it closes when its last reader is done.
    """
    status = os.stat(path)
    key = (str(path), part, status.st_mtime_ns, status.st_size)
    with _lock:
        if key not in _open_archives:
            _open_archives[key] = open_archive()
            if len(_open_archives) > _ARCHIVES_KEPT_OPEN:
                _open_archives.popitem(last=False)
        _open_archives.move_to_end(key)
        return _open_archives[key]


def _start_afresh_in_child() -> None:
    """A forked process shares file offsets with its parent, so only plain arrays are kept there."""
    global _lock
    _lock = threading.RLock()  # the inherited one may be held by a thread that does not exist here
    for key in [key for key, archive in _open_archives.items() if not isinstance(archive, np.ndarray)]:
        del _open_archives[key]


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_start_afresh_in_child)
