"""Finding the images of one or several sources and decoding any of them to 8-bit RGB."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bundle.data.archives import (
    ARCHIVE_SUFFIXES,
    IMAGE_SUFFIXES,
    list_contents,
    list_members,
    read_member,
    split_member,
)
from bundle.data.limits import decoding
from bundle.data.listing import Item, Listing
from bundle.data.names import MASKS, left_out, mask_folders
from bundle.data.nifti import read_slice
from bundle.data.pages import channels_of
from bundle.data.slide_patches import ARCHIVES, FIELD_SUFFIX, is_tiling, list_fields, read_listed_field
from bundle.data.whole import require_whole
from bundle.runs.files import OUT_OF_FILES

NIFTI_SUFFIXES = (".nii", ".nii.gz")
# Pillow opens these and nothing else, so that a file's content cannot call for a decoder its suffix does not promise.
PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
BEYOND_UNIT = 2  # floats in [0, 1] end below it, also where a resize took some above 1
SUFFIXES = (*IMAGE_SUFFIXES, *NIFTI_SUFFIXES, *ARCHIVE_SUFFIXES)
SUPPORTED = ", ".join(SUFFIXES)
SIXTEEN_TO_EIGHT_BITS = np.rint(np.arange(2**16) / 257).astype(np.uint8)  # a table takes less memory than floats


class UnreadableImage(ValueError):
    """A file that cannot be decoded; `file` names it and `reason` says why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)  # both, so that it can be pickled out of a worker process
        self.file = file
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def parse_sources(dataset_dir: object) -> dict[str, float | None]:
    """Folders or archives with their weights, from the ways a command line or a configuration may give them.

    Args:
        dataset_dir: a path; paths with commas between them (where the whole is not itself a path that exists); a
            list or tuple of paths; or a mapping path -> weight.

    Returns:
        path -> weight, in the order given. Weights of a mapping are scaled to sum to 1; None throughout otherwise (or
        where a mapping gives None throughout), meaning in proportion to the number of patches.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: no path, a path given twice, or a weight that is not a positive number.
    """
    weights: list[object]
    if isinstance(dataset_dir, Mapping):
        paths, weights = list(dataset_dir), list(dataset_dir.values())
    else:
        if isinstance(dataset_dir, str) and "," in dataset_dir and not Path(dataset_dir).expanduser().exists():
            paths = [part.strip() for part in dataset_dir.split(",") if part.strip()]
        elif isinstance(dataset_dir, (list, tuple)):
            paths = list(dataset_dir)
        else:
            paths = [dataset_dir]
        weights = [None] * len(paths)
    sources: dict[str, float | None] = {}
    for path, weight in zip(paths, weights):
        if not isinstance(path, (str, os.PathLike)) or not str(path).strip():
            raise ValueError(
                f"dataset_dir holds {path!r}, which is not a path. Give a folder, e.g. --dataset_dir tiles"
            )
        name = str(Path(path).expanduser())
        if not Path(name).exists():
            raise FileNotFoundError(f"dataset_dir: there is no folder or archive {name!r}. Check --dataset_dir")
        if name in sources:
            raise ValueError(
                f"dataset_dir names {name!r} twice. Give it once, with a larger weight if it should count more"
            )
        if weight is not None:
            is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not is_number or not math.isfinite(weight) or weight <= 0:
                raise ValueError(f"dataset_dir: the weight of {name!r} is {weight!r}; it must be a positive number")
        sources[name] = weight
    if not sources:
        raise ValueError("dataset_dir is empty. Give at least one folder, e.g. --dataset_dir tiles")
    given = [weight for weight in sources.values() if weight is not None]
    if given and len(given) < len(sources):
        raise ValueError(f"dataset_dir gives a weight to some sources only: {sources}. Give one to each, or to none")
    return {name: weight / sum(given) for name, weight in sources.items()} if given else sources


def find_items(root: str | os.PathLike) -> list[Item]:
    """Every image under a folder of any depth, or in one archive file, sorted by name.

    Returns:
        (file, size_bytes, mtime_ns) each. `file` is a posix path relative to `root` (to its folder, where `root` is an
        archive), with `#member` for an image in an archive; size and time are those of the file on disk. An archive
        that cannot be opened is listed under its own name, and :func:`read_rgb` then says what is wrong with it.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the folder is empty or has no images in it.
    """
    return list_source(root).items


def list_source(root: str | os.PathLike) -> Listing:
    """As :func:`find_items`, with the count of what is ignored: hidden, made by a system, masks, no images.

    Of the output of a tiling the patches alone are listed, each with its slide as its group.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"dataset_dir: there is no folder or archive {str(root)!r}. Check --dataset_dir")
    tiling = is_tiling(root)
    if tiling and (fields := list_fields(root)) is not None and fields.items:
        return fields
    listing = Listing()
    if root.is_file():
        _add(listing, root.name, str(root))
    elif tiling:
        _walk(listing, root / ARCHIVES, f"{ARCHIVES}/")
        listing.groups = {file: Path(split_member(file)[0]).stem for file, _, _ in listing.items}
    else:
        _walk(listing, root)
    if not listing.items:
        found = listing.passed_over()
        raise ValueError(
            f"dataset_dir: {str(root)!r} "
            + (f"has no images in it (found only: {found})" if found else "is empty")
            + f". Put images there ({SUPPORTED}) or give another folder"
        )
    listing.items.sort()
    return listing


def _walk(listing: Listing, root: Path, prefix: str = "") -> None:
    folders, visited = [(prefix, str(root))], set()
    while folders:
        prefix, folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
                listing.ignored["(folder linked again)"] += 1
                continue
            visited.add((status.st_dev, status.st_ino))
            below = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    if kind := left_out([entry.name]):
                        listing.ignored[kind] += 1
                        continue
                    try:
                        if entry.is_dir():
                            below.append(entry)
                        else:
                            _add(listing, prefix + entry.name, entry.path)
                    except OSError as error:
                        listing.note(prefix + entry.name, error)
            masks = mask_folders(entry.name for entry in below)
            for entry in below:
                if entry.name in masks:
                    listing.ignored[MASKS] += sum(len(files) for _, _, files in os.walk(entry.path))
                else:
                    folders.append((f"{prefix}{entry.name}/", entry.path))
        except OSError as error:
            listing.note(prefix or ".", error)


def _add(listing: Listing, file: str, path: str) -> None:
    name = file.lower()
    if not name.endswith(SUFFIXES):
        listing.ignored[os.path.splitext(name)[1] or "(no suffix)"] += 1
        return
    try:
        status = os.stat(path)
    except FileNotFoundError:  # a dangling link: listed, so that reading it says so by name
        listing.items.append((file, 0, 0))
        return
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block whoever opens it
        listing.ignored["(not a file)"] += 1
        return
    if not name.endswith(ARCHIVE_SUFFIXES):
        listing.items.append((file, status.st_size, status.st_mtime_ns))
        return
    try:
        members, ignored = list_contents(Path(path))
    except Exception:  # a damaged archive; read_rgb opens it again and reports why
        listing.items.append((file, status.st_size, status.st_mtime_ns))
        return
    listing.ignored.update(ignored)
    if not members and not ignored:
        listing.ignored[f"{os.path.splitext(name)[1]} without images"] += 1
    listing.items.extend((f"{file}#{member}", status.st_size, status.st_mtime_ns) for member in members)


def read_rgb(root: str | os.PathLike, file: str, unit: bool | None = None) -> np.ndarray:
    """Decode one image to uint8 RGB, [H, W, 3]. The rules, the same for every format:

    - the EXIF (or TIFF) orientation is applied;
    - greyscale and 1-bit are repeated in the three channels; a palette goes through its table; CMYK is converted by
      Pillow without a colour profile;
    - transparency (alpha channel or transparent colour) is composited on white, the colour of empty glass;
    - 16-bit unsigned is divided by 257 and rounded, so that the full range becomes the full range; 16-bit colour
      PNG and TIFF, which Pillow reads as the upper byte, may differ from that by one level;
    - float values must lie in [0, 1] (then x 255) or [0, 255], and are rounded. Those that end below 2 lie in [0, 1],
      and what a resize took above 1 is clipped; `PatchStore` decides for the whole set. Other integers must lie in
      [0, 255]; anything else is an error;
    - of a file of several frames, the first; R, G and B as grey pages of one TIFF are joined (`bundle.data.pages`);
    - NIfTI, of shape (W, H), (W, H, 1), (W, H, 3), (W, H, 1, 3) or with RGB voxels, is transposed to [H, W, 3] and not
      flipped.

    Args:
        root: the source, a folder or an archive.
        file: a name from :func:`find_items`.
        unit: whether floats lie in [0, 1]; None to decide by this image alone.

    Raises:
        UnreadableImage: a file that is missing, damaged, truncated, unsafe, too large (by `bundle.data.limits`, and by
            Pillow's limit on pixels), or whose values follow none of the rules.
    """
    return read_image(root, file, unit)[0]


def read_image(root: str | os.PathLike, file: str, unit: bool | None = None) -> tuple[np.ndarray, float]:
    """As :func:`read_rgb`, with the largest value of an image of floats; 0 for any other."""
    root = Path(root).expanduser()
    name, member = split_member(file)
    path = (root.parent if root.is_file() else root) / name
    try:
        if member is not None:
            content = read_member(path, member)
            return _decode(BytesIO(content), unit) if isinstance(content, bytes) else _array_to_rgb(content, unit)
        if name.lower().endswith(ARCHIVE_SUFFIXES):  # listed whole because it could not be opened
            list_members(path)
            raise ValueError("it is an archive; name an image in it, as archive#member")
        if name.endswith(FIELD_SUFFIX):
            return read_listed_field(root, name), 0.0
        if name.lower().endswith(NIFTI_SUFFIXES):
            return _array_to_rgb(read_slice(path), unit)
        with open(path, "rb") as stream:
            return _decode(stream, unit)
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damage with nearly any exception
        if getattr(error, "errno", None) in OUT_OF_FILES:  # which says nothing of this one
            raise OSError(error.errno, f"{path}: {error.strerror}; allow more open files (ulimit -n)") from error
        raise UnreadableImage(str(root.parent / file if root.is_file() else root / file), _reason(error)) from error


def _reason(error: Exception) -> str:
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return " ".join(text.split())  # one line, for the list of rejected files


def _decode(stream, unit: bool | None) -> tuple[np.ndarray, float]:
    stored = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=PILLOW_FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(_why_unidentified(stream)) from error
    with image, decoding(4 * image.width * image.height, stored):  # Pillow keeps colours in four bytes
        if (channels := channels_of(image, stream)) is not None:
            return _to_rgb(channels, unit)
        image.load()  # the whole of it: a truncated file is noticed here
        require_whole(image, stream)
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _to_rgb(np.asarray(image), unit)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(image.convert("RGB")), 0.0


def _why_unidentified(stream) -> str:
    """Why Pillow opens none of its formats; it says so of damaged headers and unknown layouts of a format too."""
    stream.seek(0)
    prefix = stream.read(16)
    for name in PILLOW_FORMATS:
        factory, accept = Image.OPEN[name]
        if accept(prefix):
            try:
                stream.seek(0)
                factory(stream, "")
            except Exception as error:
                return (
                    f"it is a {name} file of a layout that is not supported, or with a damaged header ({error}); "
                    "8-bit grey, palette, RGB, RGBA and CMYK, 16-bit and float grey are"
                )
    return f"it is empty or not a {', '.join(PILLOW_FORMATS)} image, whatever its suffix"


def _array_to_rgb(values: np.ndarray, unit: bool | None) -> tuple[np.ndarray, float]:
    with decoding(values.nbytes, values.nbytes):
        return _to_rgb(values, unit)


def _to_rgb(values: np.ndarray, unit: bool | None) -> tuple[np.ndarray, float]:
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or 0 in values.shape:
        raise ValueError(f"its shape is {values.shape}; [H, W], [H, W, 1] or [H, W, 3] is needed")
    peak = float(values.max()) if values.dtype.kind == "f" else 0.0
    values = _to_uint8(values, unit)
    return np.ascontiguousarray(values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)), peak


def _to_uint8(values: np.ndarray, unit: bool | None) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return SIXTEEN_TO_EIGHT_BITS[values]
    low, high = values.min(), values.max()  # a NaN anywhere makes both NaN, and the comparison below false
    if not (low >= 0 and high <= 255):
        raise ValueError(f"its {values.dtype} values span [{low}, {high}]; [0, 255] is needed, or [0, 1] for floats")
    if values.dtype.kind != "f":
        return values.astype(np.uint8)
    if not (high < BEYOND_UNIT if unit is None else unit):
        return np.rint(values).astype(np.uint8)
    if high >= BEYOND_UNIT:
        raise ValueError(f"its {values.dtype} values span [{low}, {high}], and [0, 1] in most others of its set")
    return np.rint(np.minimum(values, 1) * 255.0).astype(np.uint8)
