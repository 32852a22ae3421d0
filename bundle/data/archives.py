"""Images kept inside archives: `.npz`, `.npy` and HDF5 stacks, and `.zip` files, all read in place.

A member is named `archive.npz#train_images/17` (array, index), `images.npy#17`, `stack.h5#group/images/17` or
`tiles.zip#folder/tile.png`.

Which arrays are images: see `bundle.data.array_layouts`. What is named as masks or labels (see `bundle.data.names`) is
left out. Where an `.npz` or HDF5 file has arrays with `image` in their name (`train_images`, `val_images`, `images`),
only those are taken; otherwise all of them are. One that is taken and may not be read is a member
`stack.h5#group/images/`, without an index, whose reading gives the reason.

An array of an `.npz` is decompressed whole, once per process, and stays in memory while it is in use; `.npy` is
memory-mapped and HDF5 is read image by image.
"""

from __future__ import annotations

import math
import os
import re
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from bundle.data.array_layouts import Layout, Shapes, find_layouts, take_images
from bundle.data.hdf5 import StoredArray, list_sets
from bundle.data.limits import decoding, reason_of, require_plain_packing, require_ratio, require_size
from bundle.data.names import is_mask, left_out

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ARCHIVE_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".zip")
NPY_HEADER = 2**14  # bytes; numpy takes headers of up to 10,000

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
    suffix = path.suffix.lower()
    members, ignored = _zip_contents(path) if suffix == ".zip" else _array_contents(path)
    return Contents(members, +ignored)


def _zip_contents(path: Path) -> tuple[list[str], Counter]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    kinds = {name: _kind_of_member(name) for name in names}
    ignored = Counter(filter(None, kinds.values()))
    ignored["repeated name in a .zip"] = len(names) - len(kinds)
    return sorted(name for name, kind in kinds.items() if not kind), ignored


def _array_contents(path: Path) -> tuple[list[str], Counter]:
    arrays, _, others = _as_it_is_now(path)
    images, ignored = take_images(array_shapes(path), path.stem)
    links = {name for name, array in arrays.items() if array.shape is None and not is_mask(name)}
    members: list[str] = []
    for name in sorted(images.keys() | links):
        indices = [""] if arrays[name].reason else range(images[name].count)
        members.extend(f"{name}/{index}".lstrip("/") for index in indices)
    return members, ignored + others


def list_members(path: Path) -> list[str]:
    """The members of :func:`list_contents`."""
    return list_contents(path).members


def leads_outside(member: str) -> bool:
    """Whether a zip member is named so that it would be unpacked outside its folder, on any system."""
    return member.startswith("/") or "\\" in member or ":" in member.split("/")[0] or ".." in member.split("/")


def read_member(path: Path, member: str) -> np.ndarray | bytes:
    """One image: an array [H, W] or [H, W, 1 or 3] of a stack as it is stored, or the bytes of a zip member.

    Raises:
        ValueError: a zip member with an absolute path, with `..`, encrypted, or larger than any image allowed; an array
            that may not be read.
        KeyError, IndexError, OSError: no such member, or a damaged archive.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _read_zip_member(path, member)
    name, _, index = member.rpartition("/")
    stored = _readable(path, name)
    if suffix == ".npz":
        array = _opened(path, name, lambda: _load_npz_array(path, name))
    elif suffix == ".npy":
        # Mapped, so that a stack larger than memory is read one image at a time.
        array = _opened(path, "", lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    else:
        import h5py

        array = _opened(path, "", lambda: h5py.File(path, "r"))[name]
    layout = picture_layouts(path).get(name, Layout(stored.shape[0], True, False))
    with decoding(math.prod(stored.shape[layout.stacked :]) * stored.dtype.itemsize, os.stat(path).st_size):
        return layout.image(array, int(index))


def _readable(path: Path, name: str) -> StoredArray:
    """What the header of an array says; raises ValueError where it may not be read, KeyError where it isn't there."""
    stored = _as_it_is_now(path)[0][name]
    if stored.reason:
        raise ValueError(stored.reason)
    return stored


def _npy_array(stream, held: int) -> StoredArray:
    """What the header of a `.npy` file says, compared with the bytes that the file holds."""
    start = BytesIO(stream.read(NPY_HEADER))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    declared = math.prod(shape) * dtype.itemsize
    if declared > held - start.tell():
        return StoredArray(shape, dtype, f"it declares {declared} bytes and its file holds {held - start.tell()}")
    return StoredArray(shape, dtype, reason_of(require_size, math.prod(shape[1:]) * dtype.itemsize, held))


def picture_layouts(path: Path) -> dict[str, Layout]:
    """How each array of a file that may hold images does, see :func:`bundle.data.array_layouts.find_layouts`."""
    return _as_it_is_now(path)[1]


def array_shapes(path: Path) -> Shapes:
    """Shape and type of each array of an `.npz`, `.npy` (whose name is '') or HDF5 file, read from headers."""
    return {name: array[:2] for name, array in _as_it_is_now(path)[0].items() if array.shape is not None}


def _as_it_is_now(path: Path) -> tuple[dict[str, StoredArray], dict[str, Layout], Counter]:
    status = os.stat(path)
    return _arrays_and_layouts(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _arrays_and_layouts(path: Path, mtime_ns: int, size: int) -> tuple[dict[str, StoredArray], dict, Counter]:
    arrays, others = _read_headers(path)
    shapes = {name: array[:2] for name, array in arrays.items() if array.shape is not None}
    return arrays, find_layouts(shapes), others


def _read_headers(path: Path) -> tuple[dict[str, StoredArray], Counter]:
    """The arrays of a file by name, and the number of other things in it, by kind."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open(path, "rb") as stream:
            array = _npy_array(stream, os.stat(path).st_size)
        if array.reason:  # the file is the array, and so is listed whole, as a damaged one is
            raise ValueError(array.reason)
        return {"": array}, Counter()
    if suffix != ".npz":
        return list_sets(path)
    arrays: dict[str, StoredArray] = {}
    others: Counter = Counter()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                others[f"{PurePosixPath(member.filename).suffix.lower() or '(no suffix)'} in a .npz"] += 1
                continue
            require_plain_packing(member)
            with archive.open(member) as stream:
                array = _npy_array(stream, member.file_size)
            reason = array.reason or reason_of(require_ratio, member.file_size, member.compress_size)
            arrays[member.filename[: -len(".npy")]] = array._replace(reason=reason)
    return arrays, others


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a file, whole, such as its labels; never Python objects, which could run code when read.

    Raises:
        KeyError: there is none of that name.
        ValueError: it may not be read, or holds Python objects.
    """
    _readable(path, name)
    if path.suffix.lower() == ".npz":
        return _load_npz_array(path, name)
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    import h5py

    with h5py.File(path, "r") as archive:
        return archive[name][()]


def _load_npz_array(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _kind_of_member(name: str) -> str | None:
    """How a member of a zip is counted that is no image; None for an image."""
    suffix = PurePosixPath(name).suffix.lower()
    kind = left_out(PurePosixPath(name).parts)
    return kind or (None if suffix in IMAGE_SUFFIXES else f"{suffix or '(no suffix)'} in a .zip")


def _read_zip_member(path: Path, member: str) -> bytes:
    if leads_outside(member):
        raise ValueError("its path leads outside the zip (absolute, with '..', a drive or a backslash); rename it")
    archive = _opened(path, "", lambda: zipfile.ZipFile(path))
    information = archive.getinfo(member)
    if information.flag_bits & 1:
        raise ValueError("it is encrypted; store it without a password")
    require_plain_packing(information)
    require_size(information.file_size, information.compress_size)
    with _lock, archive.open(information) as stream:  # zipfile counts its readers without a lock
        return stream.read(information.file_size)  # of read() without a number zlib would unpack more


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
