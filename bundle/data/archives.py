"""Images kept inside archives: `.npz`, `.npy` and HDF5 stacks, and `.zip` files, all read in place.

A member is named `archive.npz#train_images/17` (array, index), `images.npy#17`, `stack.h5#group/images/17` or
`tiles.zip#folder/tile.png`.

Which arrays are images: numeric, [N, H, W], [N, H, W, 1] or [N, H, W, 3], with H and W at least 8. Where an `.npz`
or HDF5 file has such arrays with `image` in their name (`train_images`, `val_images`, `images`), only those are
taken, so that masks of the same shape beside them are not; otherwise all of them are.

An array of an `.npz` is decompressed whole, once per process, and stays in memory while it is in use; `.npy` is
memory-mapped and HDF5 is read image by image.
"""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ARCHIVE_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".zip")
SMALLEST_SIDE = 8  # below this an array such as [H, W, 3] would pass for a stack of images
LARGEST_MEMBER = 2**30  # bytes; more than Pillow's limit on pixels takes, and far less than a zip bomb

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
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return sorted({name for name in archive.namelist() if _is_visible_image(name)})
    if suffix == ".npy":
        with open(path, "rb") as stream:
            shapes = {"": _image_shape(*_npy_header(stream))}
    elif suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            shapes = {}
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as stream:
                        shapes[name[: -len(".npy")]] = _image_shape(*_npy_header(stream))
    else:
        shapes = _hdf5_shapes(path)
    images = {name: shape for name, shape in shapes.items() if shape}
    named = {name: shape for name, shape in images.items() if "image" in name.rsplit("/", 1)[-1].lower()}
    return [
        f"{name}/{index}".lstrip("/") for name, shape in sorted((named or images).items()) for index in range(shape[0])
    ]


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
        return _opened(path, name, lambda: _load_npz_array(path, name))[int(index)]
    if suffix == ".npy":
        # Mapped, so that a stack larger than memory is read one image at a time.
        return _opened(path, "", lambda: np.load(path, mmap_mode="r", allow_pickle=False))[int(index)]
    import h5py

    return _opened(path, "", lambda: h5py.File(path, "r"))[name][int(index)]


def _npy_header(stream) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _image_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...] | None:
    is_stack = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    large_enough = is_stack and min(shape[1:3]) >= SMALLEST_SIDE
    return shape if large_enough and dtype.kind in "uif" else None


def _hdf5_shapes(path: Path) -> dict[str, tuple[int, ...] | None]:
    import h5py

    shapes: dict[str, tuple[int, ...] | None] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            shapes[name] = _image_shape(node.shape, node.dtype)

    with h5py.File(path, "r") as archive:
        archive.visititems(visit)
    return shapes


def _load_npz_array(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


def _is_visible_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)
    return not hidden and name.lower().endswith(IMAGE_SUFFIXES)


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
