"""What may name a class: a folder's name on every system, an item of a list with commas, and no other class's."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from bundle.data.names import nfc

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³")}


def parse_class_names(class_names: Sequence[str] | str | None) -> list[str] | None:
    """Names from a list, from text with commas between them, or from one name; None for None."""
    if class_names is None:
        return None
    if isinstance(class_names, (list, tuple)):
        return [nfc(str(name)) for name in class_names]
    return [nfc(name.strip()) for name in str(class_names).split(",")]  # a command line gives "7" as a number


def check_class_name(name: str, where: str) -> None:
    """Refuses a class name that can't be a folder name everywhere, or an item of a list with commas.

    Raises:
        ValueError: names it and says what is allowed.
    """
    kinds = [unicodedata.category(letter)[0] for letter in name]  # letter, mark (an accent), number, ...
    fit = all(kind in "LMN" or letter in " _.+-" for kind, letter in zip(kinds, name))
    if not fit or not name or kinds[0] not in "LN" or name[-1] in " .":
        raise ValueError(
            f"{where}: the class name {name!r} can't be used; it must begin with a letter or digit, hold only these, "
            "spaces and _ . + -, and not end with a space or '.'. Rename the folder, or for an array give others with "
            "--class_names"
        )
    if name.split(".")[0].strip().lower() in RESERVED:
        raise ValueError(
            f"{where}: the class name {name!r} can't be used; Windows keeps it for a device, so no folder may have it. "
            "Rename the folder, or for an array give others with --class_names"
        )


def check_class_names(names: Iterable[str], where: str) -> None:
    """:func:`check_class_name` of each; refuses two that are one folder where capitals do not count.

    Raises:
        ValueError: names what can't be used.
    """
    seen: dict[str, str] = {}
    for name in names:
        check_class_name(name, where)
        other = seen.setdefault(nfc(name).casefold(), name)
        if other != name:
            raise ValueError(
                f"{where}: the class names {other!r} and {name!r} differ in capitals alone, which Windows and macOS "
                "take for one folder. Rename one of them"
            )
