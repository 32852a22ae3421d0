"""Images kept inside archives: `.npz`, `.npy` and HDF5 stacks, and `.zip` files, all read in place.

A member is named `archive.npz#train_images/17` (array, index), `images.npy#17`, `stack.h5#group/images/17` or
`tiles.zip#folder/tile.png`.

Which arrays are images: numeric, [N, H, W], [N, H, W, 1] or [N, H, W, 3], with H and W at least 8. Where an `.npz`
or HDF5 file has such arrays with `image` in their name (`train_images`, `val_images`, `images`), only those are
taken, so that masks of the same shape beside them are not; otherwise all of them are. An array that is taken and may
not be read is a member `stack.h5#group/images/`, without an index, whose reading gives the reason.

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
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bundle.data.hdf5 import StoredArray, list_sets, read_set
from bundle.data.limits import reason_of, require_plain_packing, require_ratio, require_size

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ARCHIVE_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".zip")
SMALLEST_SIDE = 8  # below this an array such as [H, W, 3] would pass for a stack of images
LAYOUTS = f"numeric [N, H, W], [N, H, W, 1] or [N, H, W, 3] with sides of {SMALLEST_SIDE} or more"
NPY_HEADER = 2**14  # bytes; numpy takes headers of up to 10,000

_MEMBER = re.compile(r"\.(?:npz|npy|h5|hdf5|zip)#", re.IGNORECASE)
_ARCHIVES_KEPT_OPEN = 8
_open_archives: OrderedDict[tuple, Any] = OrderedDict()
_lock = threading.RLock()


def split_member(file: str) -> tuple[str, str | None]:
    """`tiles.zip#a/b.png` -> (`tiles.zip`, `a/b.png`); a plain file -> (file, None)."""
    found = _MEMBER.search(file)
    return (file[: found.end() - 1], file[found.end() :]) if found else (file, None)


def list_members(path: Path) -> list[str]:
    """The sorted member names of every image in an archive; empty where there is none. Reads headers only.

    Raises whatever the archive's own reader raises for a damaged file.
    """
    return examine_archive(path)[0]


def examine_archive(path: Path) -> tuple[list[str], Counter]:
    """As :func:`list_members`, with the number of things in the archive that are not taken for images, by kind."""
    suffix = path.suffix.lower()
    names, ignored = _examine_zip(path) if suffix == ".zip" else _examine_arrays(path)
    return names, Counter({f"{kind} in a {suffix}": count for kind, count in ignored.items()})


def _examine_zip(path: Path) -> tuple[list[str], Counter]:
    with zipfile.ZipFile(path) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
    ignored: Counter = Counter()
    for name in files:
        if _is_hidden(name):
            ignored["(hidden)"] += 1
        elif not name.lower().endswith(IMAGE_SUFFIXES):
            ignored[PurePosixPath(name).suffix.lower() or "(no suffix)"] += 1
    images = [name for name in files if not _is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)]
    ignored["repeated name"] = len(images) - len(set(images))
    return sorted(set(images)), +ignored


def _examine_arrays(path: Path) -> tuple[list[str], Counter]:
    arrays, ignored = _list_arrays(path)
    images = {name for name, array in arrays.items() if _may_be_images(array)}
    taken = {name for name in images if "image" in name.rsplit("/", 1)[-1].lower()} or images
    members: list[str] = []
    for name, (shape, dtype, reason) in sorted(arrays.items()):
        if name not in taken:
            ignored["array without 'image' in its name" if name in images else f"array {dtype} {list(shape)}"] += 1
        elif reason:
            members.append(f"{name}/")
        else:
            members.extend(f"{name}/{index}".lstrip("/") for index in range(shape[0]))
    return members, ignored


def _list_arrays(path: Path) -> tuple[dict[str, StoredArray], Counter]:
    """The arrays of an archive by name, and the number of other things in it, by kind."""
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
    ignored: Counter = Counter()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                ignored[PurePosixPath(member.filename).suffix.lower() or "(no suffix)"] += 1
                continue
            require_plain_packing(member)
            with archive.open(member) as stream:
                array = _npy_array(stream, member.file_size)
            reason = array.reason or reason_of(require_ratio, member.file_size, member.compress_size)
            arrays[member.filename[: -len(".npy")]] = array._replace(reason=reason)
    return arrays, ignored


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
    if not index:  # as an array that may not be read is listed
        raise ValueError(_list_arrays(path)[0][name].reason)
    if suffix == ".npz":
        return _opened(path, name, lambda: read_npz_array(path, name))[int(index)]
    if suffix == ".npy":
        # Mapped, so that a stack larger than memory is read one image at a time.
        return _opened(path, "", lambda: np.load(path, mmap_mode="r", allow_pickle=False))[int(index)]
    import h5py

    return read_set(_opened(path, "", lambda: h5py.File(path, "r")), name, int(index))


def read_npz_array(path: Path, name: str) -> np.ndarray:
    """A whole array of an `.npz`.

    Raises:
        KeyError: there is none of that name.
        ValueError: it is larger than its file can hold, too much compressed, or of Python objects.
    """
    array = _list_arrays(path)[0][name]
    if array.reason:
        raise ValueError(array.reason)
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


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


def _may_be_images(array: StoredArray) -> bool:
    return array.shape is None or _image_shape(array.shape, array.dtype) is not None


def _image_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...] | None:
    is_stack = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    large_enough = is_stack and min(shape[1:3]) >= SMALLEST_SIDE and shape[0] > 0
    return shape if large_enough and dtype.kind in "uif" else None


def _is_hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in PurePosixPath(name).parts)


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
