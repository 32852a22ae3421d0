"""Zip files of bundles: the same bytes from the same files; unpacked only where every path stays in its folder."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from bundle.data.archives import leads_outside
from bundle.data.limits import LARGEST_RATIO, require_plain_packing
from bundle.runs.files import write_atomically
from bundle.runs.sums import SUMS, file_sha256, read_sums

EARLIEST = (1980, 1, 1, 0, 0, 0)  # of the zip format; a real time would differ with each packaging
MODE = stat.S_IFREG | 0o644
UNIX = 3
LARGEST_GIGABYTES = 10.0  # 10^9 bytes; the weights of a bundle take less than one
AGAIN = "get the zip again from where it was published"


def write_zip(folder: Path, path: Path) -> Path:
    """Writes all files of `folder`, under its name, in the order of their names, without times and modes of their own.

    Returns:
        `path`.
    """

    def write(temporary: Path) -> None:
        # Not compressed: weights don't get smaller, and what the rest becomes depends on the version of zlib.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted_files(folder):
                information = zipfile.ZipInfo((folder.name / file.relative_to(folder)).as_posix(), EARLIEST)
                information.file_size = file.stat().st_size  # by which zipfile knows those over 2 GB
                information.create_system = UNIX
                information.external_attr = MODE << 16
                with archive.open(information, "w") as target, open(file, "rb") as source:
                    shutil.copyfileobj(source, target)

    size = sum(file.stat().st_size for file in sorted_files(folder))
    return write_atomically(path, write, ", or give an --output_dir on another disk,", size=size)


def sorted_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, by their POSIX paths, so that the order does not depend on the system."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return iter(sorted(files, key=lambda path: path.relative_to(folder).as_posix()))


def unpack(
    path: Path,
    target: Path,
    sha256: str | None = None,
    largest_gigabytes: float = LARGEST_GIGABYTES,
    largest_ratio: float = LARGEST_RATIO,
) -> Path:
    """Unpacks the zip of a bundle into a new folder in `target` and checks its weights; on any failure nothing is left.

    Args:
        path: a zip with one folder in it.
        target: where that folder will be; made where it is missing.
        sha256: of the zip, as its publisher gives it; not checked where None.
        largest_gigabytes: that all files together may take unpacked, in 10^9 bytes.
        largest_ratio: of their size to that of the zip.

    Returns:
        the bundle's folder.

    Raises:
        FileNotFoundError: no such zip.
        FileExistsError: the folder is there already.
        ValueError: another SHA-256, a path that leaves the folder, a link, not one folder, a damaged file, or more than
            the limits allow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the zip of the bundle")
    if sha256 is not None and (found := file_sha256(path)) != sha256.lower():
        raise ValueError(f"{path} has the SHA-256 {found}, not the {sha256} that --sha256 gives: {AGAIN}")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a whole zip ({error}): {AGAIN}") from error
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            _require_harmless(path, member)
        _require_bounded(path, members, largest_gigabytes, largest_ratio)
        roots = sorted({member.filename.split("/")[0] for member in members})
        if len(roots) != 1 or any("/" not in member.filename for member in members):
            raise ValueError(f"{path} does not hold one folder but {', '.join(roots) or 'nothing'}: {AGAIN}")
        folder = target / roots[0]
        if folder.exists():
            raise FileExistsError(f"{folder} is there already: remove it, or unpack into another folder")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack.", dir=target) as temporary:
            try:
                archive.extractall(temporary, members)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ValueError(f"{path} is damaged ({error}). Nothing was unpacked: {AGAIN}") from error
            except RuntimeError as error:  # a password, or a way of compressing that this Python doesn't know
                raise ValueError(f"{path} is not a zip of a bundle ({error}). Nothing was unpacked: {AGAIN}") from error
            except OSError as error:
                raise ValueError(f"{path} can't be unpacked ({error}): free some space, or {AGAIN}") from error
            unpacked = Path(temporary) / roots[0]
            for sums in sorted(unpacked.rglob(SUMS)):
                for name, recorded in read_sums(sums).items():
                    file = sums.parent / name  # one that is missing is a large file, kept elsewhere
                    if file.is_file() and (found := file_sha256(file)) != recorded:
                        raise ValueError(
                            f"{path} holds {file.relative_to(temporary)}, whose SHA-256 is {found}, not the {recorded} "
                            f"that its {SUMS} records. Nothing was unpacked: {AGAIN}"
                        )
            os.replace(unpacked, folder)
    return folder


def _require_harmless(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    if leads_outside(name):
        raise ValueError(
            f"{path} holds {name!r}, a path that leaves the folder it is unpacked into. Nothing was unpacked: {AGAIN}"
        )
    mode = member.external_attr >> 16
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        raise ValueError(f"{path} holds {name!r}, a link or device rather than a file. Nothing was unpacked: {AGAIN}")
    try:
        require_plain_packing(member)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Nothing was unpacked") from error


def _require_bounded(path: Path, members: list[zipfile.ZipInfo], gigabytes: float, ratio: float) -> None:
    """Refuses a zip bomb by what its directory declares, as zipfile writes no more than that of each file."""
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    for found, allowed, flag in (
        (total / 1e9, gigabytes, "largest_gigabytes"),
        (total / packed, ratio, "largest_ratio"),
    ):
        if found > allowed:
            raise ValueError(
                f"{path} of {packed} bytes unpacks to {total}: {found:.4g} is more than --{flag} {allowed:g}. Nothing "
                f"was unpacked: raise --{flag} if you trust its publisher"
            )
