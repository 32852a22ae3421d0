"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
# As numpy and safetensors say it, without the number.
FULL_IN_WORDS = re.compile(r"no space left|not enough free space|\d+ requested and \d+ written", re.IGNORECASE)
MOVE = ", or move that folder to a larger disk and name it there,"
TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")  # as `write_atomically` names them


def write_atomically(
    path: str | Path, write: Callable[[Path], Any], remedy: str = MOVE, durable: bool = True, size: int = 0
) -> Path:
    """Calls `write(temporary_path)` and renames the result to `path`; on any failure `path` stays as it was.

    Args:
        path: where the file will be; missing folders are made.
        write: fills the file at the path it is given.
        remedy: what a user may do about a full disk, besides freeing space.
        durable: whether to wait until the content is on the disk; not worth it for pictures to look at.
        size: bytes that the file will have, of a large one: nothing is written where they are not free.

    Raises:
        OSError: the disk is full (the message names the file and the free space) or the folder can't be written to.
    """
    path = Path(path)
    # The process number keeps two writers apart; the suffix stays, because some writers choose a format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with explain_full_disk(path, remedy, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_space(path, size, remedy)
            write(temporary)
            if durable:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def explain_full_disk(path: Path, remedy: str = MOVE, size: int = 0) -> Iterator[None]:
    """Around the writing of a file or folder: a full disk is a DiskFull, whatever a library makes of it."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error) and not isinstance(error, DiskFull):
            raise DiskFull(path, size, remedy) from error
        raise


class DiskFull(OSError):
    """Says which file could not be written, how much it needs and has, and what to do.

    Args:
        path: of the file, or of the folder of many.
        size: bytes that are needed; 0 where unknown.
        remedy: what a user may do besides freeing space.
    """

    def __init__(self, path: Path, size: int = 0, remedy: str = MOVE) -> None:
        folder = _existing(path)
        free = shutil.disk_usage(folder).free
        needs = f"it needs {size / 2**20:.1f} MiB and " if size else ""
        lacking = f"{(size - free) / 2**20:.1f} MiB" if size > free else "some space"
        super().__init__(
            errno.ENOSPC,
            f"the disk is full: {path} could not be written, {needs}{free / 2**20:.1f} MiB are free in {folder}. What "
            f"was saved before is untouched: free {lacking}{remedy} and give the same command again",
        )


def require_space(path: str | Path, size: int, remedy: str = MOVE) -> None:
    """Refuses a large write before it begins.

    Args:
        path: where to; a file or folder that need not be there yet.
        size: bytes to be written.
        remedy: see :func:`write_atomically`.

    Raises:
        DiskFull: less is free.
    """
    if size:
        usage = shutil.disk_usage(_existing(Path(path)))
        if usage.total and usage.free < size:  # some network disks tell of no size at all
            raise DiskFull(Path(path), size, remedy)


def _existing(path: Path) -> Path:
    """The nearest folder above a path, or itself, that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write is explained by a full disk.

    Libraries hide the system's error behind one of their own, as torch does, or say it without its number.
    """
    return bool(FULL_IN_WORDS.search(str(error))) or any(
        getattr(found, "errno", None) in FULL for found in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def write_json(path: str | Path, content: Any) -> Path:
    """Writes `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
