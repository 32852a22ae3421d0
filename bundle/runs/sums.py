"""SHA-256 of plain data and of files; the latter are recorded when packaged and checked before they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bundle.runs.files import write_atomically

SUMS = "SHA256SUMS"
CHUNK = 2**20


def content_hash(content: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def require_sha256(path: str | Path, given: str | None, whose: str) -> str:
    """SHA-256 of a file, which must be the one given; of any file where that is None.

    Args:
        path: the file.
        given: what a user says that it is.
        whose: what the file is of, for the message.

    Raises:
        ValueError: it is another; both are named.
    """
    found = file_sha256(path)
    if given is not None and str(given).lower() != found:
        raise ValueError(
            f"{whose}: {path} has the SHA-256 {found}, and {given} was given. It is another file, or damaged; it was "
            "not opened"
        )
    return found


def write_sums(folder: Path) -> Path:
    """Writes `SHA256SUMS` of the files in a folder, not of those below it, as `sha256sum --check` reads it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    text = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)
    return write_atomically(folder / SUMS, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name.

    Raises:
        ValueError: a line that is not one of `write_sums`.
    """
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise ValueError(f"{path} has the line {line!r}, which is not a SHA-256 and a file name: unpack it again")
        found[name] = digest
    return found


def check_sum(path: str | Path) -> None:
    """Refuses a file that is not the one which the `SHA256SUMS` of its folder records; without that file, does nothing.

    Raises:
        ValueError: its SHA-256 is another, or is not recorded.
    """
    path = Path(path)
    if not (path.parent / SUMS).is_file():
        return
    expected, found = read_sums(path.parent / SUMS).get(path.name), file_sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} is not the file that was packaged: its SHA-256 is {found}, {path.parent / SUMS} records "
            f"{expected or 'none'}. Unpack the bundle again (python scripts/unpack.py ZIP FOLDER), or keep weights of "
            "your own in another folder and name that (--adapted_dir, --pretrained_dir)"
        )
