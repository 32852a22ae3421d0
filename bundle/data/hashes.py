"""Pixel hashes of all patches a pre-training saw, one a line: what keeps them out of a later test set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bundle.runs.files import write_atomically

HASHES_FILE = "image_hashes.txt"
SHA256 = re.compile("[0-9a-f]{64}")


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's pixels, uint8 [H, W, 3], row by row."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def write_hashes(path: str | Path, hashes: Iterable[str]) -> Path:
    """Writes hexadecimal SHA-256 (`PatchStore.sha256`), sorted, each once, atomically."""
    text = "".join(f"{digest}\n" for digest in sorted(set(hashes)))
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="ascii", newline="\n"))


def read_hashes(path: str | Path) -> set[str]:
    """What :func:`write_hashes` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no hash; the message names it.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not SHA256.fullmatch(line):
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} is not a SHA-256 of 64 lower-case hexadecimal digits. Take the "
                "file from the pre-training's folder again, or remove it to go on without the check"
            )
    return set(lines)
