"""How much one image may take, whatever its format, and how much all threads of a process decode at once."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LARGEST_IMAGE = 2**30  # bytes, decoded; and of all threads together
UNSUSPICIOUS = LARGEST_IMAGE // 8  # bytes up to which any ratio is taken: archives keep up to 8 arrays open
LARGEST_RATIO = 100  # bytes unpacked to bytes stored; tissue seldom goes beyond 20, a zip bomb has 1000

_room = threading.Condition()
_taken = 0


def require_size(unpacked: int, stored: int) -> None:
    """Refuses what would take too much memory, before anything is unpacked.

    Args:
        unpacked: bytes that a header declares.
        stored: bytes that the file holds of it.

    Raises:
        ValueError: more than :data:`LARGEST_IMAGE`, or than any tissue is compressed.
    """
    if unpacked > LARGEST_IMAGE:
        raise ValueError(f"it unpacks to {unpacked} bytes, more than the {LARGEST_IMAGE} allowed; cut it into patches")
    require_ratio(unpacked, stored)


def require_ratio(unpacked: int, stored: int) -> None:
    """As :func:`require_size`, for a stack of images, which may be larger than one."""
    if unpacked > max(UNSUSPICIOUS, LARGEST_RATIO * stored):
        raise ValueError(
            f"it unpacks {stored} bytes to {unpacked}, more than the {LARGEST_RATIO} times allowed beyond "
            f"{UNSUSPICIOUS} bytes; store it with less compression"
        )


def reason_of(require: Callable[..., None], *values: int) -> str:
    """Why :func:`require_size` or :func:`require_ratio` refuses; empty where it doesn't."""
    try:
        require(*values)
    except ValueError as error:
        return str(error)
    return ""


def require_plain_packing(member: zipfile.ZipInfo) -> None:
    """Refuses a zip member that is packed by bzip2 or lzma, as Python unpacks these without a limit."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed by another method than deflate; pack it anew")


@contextmanager
def decoding(unpacked: int, stored: int) -> Iterator[None]:
    """Decodes an image when it has room beside those that other threads decode; refuses as :func:`require_size`."""
    global _taken
    require_size(unpacked, stored)
    with _room:
        _room.wait_for(lambda: _taken + unpacked <= LARGEST_IMAGE)
        _taken += unpacked
    try:
        yield
    finally:
        with _room:
            _taken -= unpacked
            _room.notify_all()


def _start_afresh_in_child() -> None:
    global _room, _taken
    _room, _taken = threading.Condition(), 0  # the threads that held it don't exist here


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_start_afresh_in_child)
