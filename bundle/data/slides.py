"""Whole slides: opening one, and reading square fields of it at a wanted number of micrometres per pixel.

MONAI's `WSIReader` opens a slide and knows its levels, with OpenSlide or cuCIM behind it. OpenSlide is asked directly
for two things. For the µm per pixel, since MONAI takes a TIFF without a unit for one in micrometres. And for the
pixels, since in MONAI's RGB what was not scanned is black, and its RGBA costs a tenth of the throughput in copies.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bundle.data.limits import decoding
from bundle.data.tiff_pyramid import TiffPyramid

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".qptiff", ".svslide", ".czi",
)  # fmt: skip
TIFF_SUFFIXES = (".tif", ".tiff", ".qptiff")
READERS = ("auto", "openslide", "cucim", "tifffile")
# A level that is off by so much is taken as it is, as MONAI does (`mpp_rtol`): scanners say 0.2527 and 0.5016.
TOLERANCE = 0.05
POSSIBLE = (0.02, 20.0)  # µm per pixel; a scan of 72 dots an inch, which a program wrote unasked, says 353
CONVERT = "vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --xres PIXELS_PER_MM --yres PIXELS_PER_MM"
HOLE = 60  # pixels a side; no scanner has smaller tiles
_OME_SIZE = re.compile(r'PhysicalSize([XY])(Unit)?="([^"]*)"')
_SLIDES_KEPT_OPEN = 8
_open_slides: OrderedDict[tuple, Slide] = OrderedDict()
_lock = threading.RLock()


class SlideError(ValueError):
    """A slide that can't be used: a sentence with its file and what to do."""


class Scale(NamedTuple):
    """How fields of one size are read from a slide."""

    level: int
    pixels: int  # a side, at that level
    patch_size: int  # a side of what comes out
    mpp: float  # µm per pixel of what comes out
    footprint: float  # a side in pixels of level 0


class Slide:
    """An open slide. Several threads may read.

    Args:
        path: the file; of DICOM the folder.
        assume_mpp: µm per pixel of level 0 where the file does not say it.
        reader: one of :data:`READERS`. "auto" takes OpenSlide, and tifffile for a TIFF that OpenSlide does not know.

    Attributes:
        mpp: µm per pixel of level 0. size: (width, height) of level 0. downsamples: of each level.
        bounds: (x, y, width, height) in level 0 of what was scanned.

    Raises:
        SlideError: it can't be opened, is no slide, or its µm per pixel is unknown.
        ImportError: the reader is not installed.
    """

    def __init__(self, path: str | Path, assume_mpp: float | None = None, reader: str = "auto") -> None:
        self.path = Path(path)
        require_reader(reader)
        file = dicom_file(self.path) if self.path.is_dir() else self.path
        properties = self._open(file, reader)
        stated = stated_mpp(properties)
        if stated is None and assume_mpp is None:
            raise SlideError(f"{self.path}: it does not say its µm per pixel; give it, such as --assume_mpp 0.25")
        self.mpp = assume_mpp if stated is None else self._one(stated)
        width, height = self.size
        places = [int(properties.get(f"openslide.bounds-{name}", 0)) for name in ("x", "y", "width", "height")]
        self.bounds = (*places[:2], places[2] or width, places[3] or height)

    def _open(self, file: Path, reader: str) -> dict[str, str]:
        """Opens the file and gives its properties."""
        if not file.is_file() or not file.stat().st_size:
            raise SlideError(f"{self.path}: it is {'empty' if file.is_file() else 'no file'}; copy it again")
        self._tiff = None
        if reader in ("auto", "openslide"):
            import openslide

            try:
                self._open_by_monai(file, "openslide")
                return dict(self._slide.properties)
            except openslide.OpenSlideUnsupportedFormatError as error:
                if reader == "openslide" or not file.name.lower().endswith(TIFF_SUFFIXES):
                    raise SlideError(
                        f"{self.path}: OpenSlide knows no such slide; it is truncated, or of another kind than its "
                        "name says: copy it again, or convert it"
                    ) from error
            except openslide.OpenSlideError as error:
                raise SlideError(f"{self.path}: it is damaged or truncated ({error}); copy it again") from error
        if reader == "cucim":
            try:
                self._open_by_monai(file, "cucim")
            except Exception as error:  # cuCIM has none of its own
                raise SlideError(f"{self.path}: cuCIM can't read it ({error}); try --slides#reader auto") from error
            x, y = self._reader.get_mpp(self._slide, 0)[::-1]
            return {"openslide.mpp-x": str(x), "openslide.mpp-y": str(y)}
        try:
            self._tiff = TiffPyramid(file)
        except Exception as error:  # tifffile meets damage with nearly any
            reason = str(error) if type(error) is ValueError else f"it is damaged or truncated ({error}); copy it again"
            remedy = f"; convert it: {CONVERT}" if type(error) is ValueError else ""
            raise SlideError(f"{self.path}: {reason}{remedy}") from error
        self.size, self.downsamples = self._tiff.size, self._tiff.downsamples
        return self._tiff.properties

    def _open_by_monai(self, file: Path, backend: str) -> None:
        from monai.data.wsi_reader import WSIReader  # here, as MONAI is slow to import

        # With the alpha channel, which says where nothing was scanned; cuCIM gives none.
        self._reader = WSIReader(backend=backend, mode="RGBA" if backend == "openslide" else "RGB", channel_dim=-1)
        self._slide = self._reader.read(str(file))
        levels = range(self._reader.get_level_count(self._slide))
        self.size = tuple(map(int, self._reader.get_size(self._slide, 0)[::-1]))
        self.downsamples = tuple(float(self._reader.get_downsample_ratio(self._slide, level)) for level in levels)

    def _one(self, stated: tuple[float, float]) -> float:
        if abs(stated[0] / stated[1] - 1) > TOLERANCE:
            raise SlideError(
                f"{self.path}: its pixels are not square, {stated[0]:g} x {stated[1]:g} µm; resample it to square ones"
            )
        return math.sqrt(stated[0] * stated[1])

    def scale(self, mpp: float, patch_size: int) -> Scale:
        """How to read fields of `patch_size` pixels a side at `mpp`.

        A level within :data:`TOLERANCE` is taken as it is; else the coarsest finer one is reduced.

        Raises:
            SlideError: the slide is coarser.
        """
        levels = [self.mpp * factor for factor in self.downsamples]
        nearest = min(range(len(levels)), key=lambda level: abs(math.log(levels[level] / mpp)))
        if abs(levels[nearest] / mpp - 1) <= TOLERANCE:
            found = levels[nearest]
            return Scale(nearest, patch_size, patch_size, found, patch_size * found / self.mpp)
        finer = [level for level, found in enumerate(levels) if found < mpp]
        if not finer:
            raise SlideError(
                f"{self.path}: its finest level has {self.mpp:g} µm per pixel, coarser than the {mpp:g} asked for, and "
                f"nothing is enlarged; give --mpp {self.mpp:g} or more, or leave the slide out"
            )
        level = max(finer, key=lambda one: levels[one])
        return Scale(level, round(patch_size * mpp / levels[level]), patch_size, mpp, patch_size * mpp / self.mpp)

    def read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        """RGB of a level, from (x, y) in level 0; white where nothing was scanned.

        Raises:
            SlideError: the file is damaged there.
        """
        try:
            if self._tiff is not None:
                return Image.fromarray(self._tiff.read(x, y, level, width, height))
            if self._reader.mode == "RGB":
                pixels = self._reader.get_data(self._slide, (y, x), (height, width), level)[0]
                return Image.fromarray(np.ascontiguousarray(pixels))
            image = self._slide.read_region((x, y), level, (width, height))
        except Exception as error:
            raise SlideError(
                f"{self.path}: it can't be read at ({x}, {y}) of level {level} ({error}); it is damaged or truncated: "
                "copy it again"
            ) from error
        # What was not scanned is missing in whole tiles, or beyond an edge, so that a few points show it.
        at = image.load()
        columns, rows = ((*range(0, length, HOLE), length - 1) for length in image.size)
        if all(at[column, row][3] == 255 for row in rows for column in columns):
            return image.convert("RGB")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white

    def read_field(self, x: int, y: int, level: int, pixels: int, patch_size: int) -> Image.Image:
        """RGB, `patch_size` a side, of a field of `pixels` a side of a level, from (x, y) in level 0."""
        with decoding(4 * pixels**2, 4 * pixels**2):
            image = self.read(x, y, level, pixels, pixels)
        # Pillow's filters grow with the reduction, so that every pixel counts.
        return image if pixels == patch_size else image.resize((patch_size, patch_size), Image.Resampling.BICUBIC)


def require_reader(reader: str) -> None:
    """Refuses a reader that there is not.

    Raises:
        ValueError: unknown.
        ImportError: not installed; says how to.
    """
    if reader not in READERS:
        raise ValueError(f"--slides#reader is {reader!r}; it must be one of {', '.join(READERS)}")
    module = {"auto": "openslide"}.get(reader, reader)
    if importlib.util.find_spec(module) is None:
        how = "pip install .[slides]" if reader != "cucim" else "pip install cucim-cu12, on Linux with an NVIDIA GPU"
        raise ImportError(f"slides are read by {module}, which is not installed: {how}")


def dicom_file(folder: Path) -> Path:
    """A file of a DICOM slide, of which OpenSlide finds the others.

    Raises:
        SlideError: the folder holds none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm")
    if not files:
        raise SlideError(f"{folder}: it is a folder without .dcm files, so no slide")
    return files[0]


def stated_mpp(properties: dict[str, str]) -> tuple[float, float] | None:
    """µm per pixel (x, y) of level 0 that a file states; None where it states none, or none that a scan can have."""
    stated = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    sizes, units = {}, {}
    for axis, is_unit, value in _OME_SIZE.findall(properties.get("tiff.ImageDescription", "")[:100_000]):
        (units if is_unit else sizes)[axis] = value
    if {"X", "Y"} <= sizes.keys():
        factors = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
        if all(units.get(axis, "µm") in factors for axis in "XY"):
            stated = [float(sizes[axis]) * factors[units.get(axis, "µm")] for axis in "XY"]
    try:
        x, y = map(float, stated)
    except (TypeError, ValueError):
        return None
    return (x, y) if all(POSSIBLE[0] <= value <= POSSIBLE[1] for value in (x, y)) else None


def opened_slide(path: Path, assume_mpp: float | None = None, reader: str = "auto") -> Slide:
    """A slide that stays open in this process for further readers, with a few others."""
    key = (str(path), assume_mpp, reader)
    with _lock:
        if key not in _open_slides:
            _open_slides[key] = Slide(path, assume_mpp, reader)
            if len(_open_slides) > _SLIDES_KEPT_OPEN:
                _open_slides.popitem(last=False)  # closes when its last reader is done
        _open_slides.move_to_end(key)
        return _open_slides[key]


def _start_afresh_in_child() -> None:
    """A forked process shares file offsets with its parent."""
    global _lock
    _lock = threading.RLock()
    _open_slides.clear()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_start_afresh_in_child)
