"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[Path], Any], remedy: str = "", durable: bool = True) -> Path:
    """Calls `write(temporary_path)` and renames the result to `path`; on any failure `path` stays as it was.

    Args:
        path: where the file will be; missing folders are made.
        write: fills the file at the path it is given.
        remedy: what a user may do about a full disk, besides freeing space.
        durable: whether to wait until the content is on the disk; not worth it for thousands of small pictures.

    Raises:
        OSError: the disk is full (the message names the file and the free space) or the folder can't be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers apart; the suffix stays, because some writers choose a format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if is_disk_full(error, path):
            free = shutil.disk_usage(path.parent).free / 2**20
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: {path} could not be written, {free:.0f} MiB are free in {path.parent}. "
                f"What was saved before is untouched: free some space{remedy} and give the same command again",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether a failed write is explained by a full disk.

    torch.save reports it as a RuntimeError of its zip writer, without an error number, so the free space decides there.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "writing" in str(error) and shutil.disk_usage(path.parent).free < 2**20


def write_json(path: str | Path, content: Any) -> Path:
    """Writes `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
