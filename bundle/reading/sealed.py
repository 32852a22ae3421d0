"""The two records of a reading: what a reader may know, and the key, which is kept apart and sealed by its hash.

`reading.json` lists the pictures by names that mean nothing, and holds the SHA-256 of the key's file. `key.json` says
what each picture is. It holds a random salt, so that nobody finds it by trying keys against the hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.runs.files import write_atomically

FORMAT = "histodiffusion-reading/1"
KEY_FORMAT = "histodiffusion-reading-key/1"
READING, KEY, PICTURES, ANSWERS = "reading.json", "key.json", "patches", "answers"
REAL, SYNTHETIC, THIRD = ARMS = ("real", "synthetic", "third")
NAME, SHA256 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")
MAKE = "python -m monai.bundle run training --config_file configs/read.json --output_dir"


@dataclass(frozen=True)
class Sealed:
    """What a reader's page may know of a reading.

    Attributes:
        folder: of the reading.
        classes: names, in order.
        side: pixels of a picture, each way.
        seed: of each reader's order.
        pictures: {name: SHA-256 of its file}.
        key_sha256: of the key's file.
        sha256: of `reading.json` itself.
    """

    folder: Path
    classes: list[str]
    side: int
    suffix: str
    seed: int
    pictures: dict[str, str]
    key_sha256: str
    sha256: str

    def picture(self, name: str) -> Path:
        """The file of one of the pictures."""
        return self.folder / PICTURES / f"{name}.{self.suffix}"


def encoded(content: dict[str, Any]) -> bytes:
    """A record as the bytes of its file."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def write_key(folder: Path, content: dict[str, Any]) -> str:
    """Writes the key, for its owner's eyes alone, and gives the SHA-256 of its file."""
    text = encoded({"format": KEY_FORMAT, **content})

    def write(temporary: Path) -> None:
        temporary.touch(mode=0o600)
        temporary.write_bytes(text)

    write_atomically(folder / KEY, write)
    return hashlib.sha256(text).hexdigest()


def write_sealed(folder: Path, content: dict[str, Any]) -> None:
    """Writes `reading.json`, the last file of a preparation."""
    text = encoded({"format": FORMAT, **content})
    write_atomically(folder / READING, lambda temporary: temporary.write_bytes(text))


def read_sealed(folder: Path) -> Sealed:
    """A prepared reading, its pictures as they were prepared.

    Raises:
        FileNotFoundError: it was not prepared, or a picture is gone.
        ValueError: a record of another form, or a picture that was changed.
    """
    path = folder / READING
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {folder} is no prepared reading. Prepare one ({MAKE} {folder})")
    raw = path.read_bytes()
    content = _parsed(raw, path, FORMAT)
    try:
        found = Sealed(folder, sha256=hashlib.sha256(raw).hexdigest(), **content)
        whole = all(map(NAME.fullmatch, found.pictures)) and all(map(SHA256.fullmatch, found.pictures.values()))
        whole = whole and found.suffix in ("jpg", "png") and all(isinstance(name, str) for name in found.classes)
        whole = whole and bool(SHA256.fullmatch(found.key_sha256)) and type(found.seed) is type(found.side) is int
    except (AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is not as it was written: put it back, or prepare the reading anew in another folder")
    for name, digest in found.pictures.items():
        picture = found.picture(name)
        if not picture.is_file():
            raise FileNotFoundError(f"{picture} is missing: put it back, or prepare the reading anew in another folder")
        if hashlib.sha256(picture.read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{picture} was changed after the reading was prepared: put it back, or prepare the reading anew in "
                "another folder"
            )
    return found


def read_key(folder: Path, expected: str) -> dict[str, Any]:
    """The key of a reading.

    Args:
        folder: where it lies.
        expected: the hash that was sealed before the first answer.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another one, or was changed.
    """
    path = folder / KEY
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: name the folder of the key with --key_dir")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{path} is not the key that was sealed before the first answer: its SHA-256 is {digest}, expected "
            f"{expected}. Put the right one there, or name its folder with --key_dir"
        )
    return _parsed(raw, path, KEY_FORMAT)


def key_folder(folder: Path) -> Path:
    """Where the key of a reading lies unless it is said: beside the folder that is served from, not in it."""
    return folder.with_name(f"{folder.name}_key")


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _parsed(raw: bytes, path: Path, expected: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
        found = content.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} can't be read ({error!r}): put it back as it was written") from error
    if found != expected:
        raise ValueError(f"{path} has the format {found!r}, expected {expected!r}: name the folder of a reading")
    return content
