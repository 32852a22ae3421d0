"""What the names of files and arrays say: left by a system, hidden, masks or labels beside the pictures."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# What file servers, cloud drives and desktops put among a user's files, and often thumbnails of these.
SYSTEM_NAMES = {
    "@eadir", "@synoresource", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
    "$recycle.bin", "recycler", "recycled", "system volume information", "__macosx", "network trash folder",
    "temporary items", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__",
}  # fmt: skip
SYSTEM, HIDDEN, MASKS, OTHER_ARRAYS = "(made by a system)", "(hidden)", "(masks or labels)", "(other arrays)"
_PICTURES = {"image", "images", "img", "imgs", "patch", "patches", "tile", "tiles"}
_MASKS = {
    "mask", "masks", "label", "labels", "segmentation", "segmentations", "seg", "annotation", "annotations", "gt",
    "groundtruth",
}  # fmt: skip


def nfc(name: str) -> str:
    """The composed form of a name: macOS hands out 'ä' as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def left_out(parts: Iterable[str]) -> str | None:
    """How a file is counted that lies under, or has, a name that no user gives; None for any other.

    Args:
        parts: the names of its folders and its own.
    """
    for part in parts:
        if part.lower() in SYSTEM_NAMES:
            return SYSTEM
        if part.startswith(".") and part not in (".", ".."):
            return HIDDEN
    return None


def is_mask(array: str, file: str | None = None) -> bool:
    """Whether an array is named as masks or labels; `tile_7_mask` is one, `tile_7_label_2` an image.

    Args:
        array: its name, with the groups it lies in; only the last part counts.
        file: name of its file without the suffix, which is asked where the array's own says nothing.
    """
    for name in (array.rsplit("/", 1)[-1].lower(), (file or "").lower()):
        words = set(re.findall("[a-z]+", name))
        if words & (_PICTURES | _MASKS):
            return not words & _PICTURES or re.search("[a-z]*$", name)[0] in _MASKS
    return False


def mask_folders(names: Iterable[str]) -> set[str]:
    """Of folders that lie beside each other, those of masks or labels of the images in another, `masks` by `images`."""
    names = set(names)
    return {name for name in names if name.lower() in _MASKS} if {name.lower() for name in names} & _PICTURES else set()
