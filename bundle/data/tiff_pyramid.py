"""Pyramidal TIFF read tile by tile with tifffile, for files that OpenSlide does not know, such as some OME-TIFF.

MONAI's `TiffFileWSIReader` decodes a whole level for each field, which no large slide allows.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

UNITS = {"INCH": 25400.0, "CENTIMETER": 10000.0, "MILLIMETER": 1000.0, "MICROMETER": 1.0}  # µm


class TiffPyramid:
    """The first series of a TIFF: tiled 8-bit RGB with any number of levels.

    Attributes:
        size: (width, height) of level 0. downsamples: of each level. properties: as OpenSlide names them.

    Raises:
        ValueError: it is not tiled, not 8-bit RGB, or packed as needs a package that is not there.
    """

    def __init__(self, path: Path) -> None:
        from tifffile import COMPRESSION, TiffFile  # here, as it is seldom needed

        self._file = TiffFile(path)
        self._lock = threading.Lock()  # the file has one offset
        self._pages = [level.keyframe for level in self._file.series[0].levels]
        first = self._pages[0]
        self.size = (first.imagewidth, first.imagelength)
        self.downsamples = tuple(first.imagelength / page.imagelength for page in self._pages)
        for page in self._pages:
            if not page.is_tiled:
                raise ValueError(f"it is no pyramid: {self.size[0]} x {self.size[1]} pixels that are not in tiles")
            if page.dtype != np.uint8 or page.samplesperpixel not in (3, 4) or page.planarconfig != 1:
                raise ValueError(
                    f"it holds {page.dtype} values, {page.samplesperpixel} to a pixel; a slide is 8-bit RGB, with the "
                    "colours of a pixel side by side"
                )
        plain = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
        if first.compression not in plain:
            try:
                import imagecodecs  # noqa: F401
            except ImportError:
                raise ValueError(
                    f"it is packed by {first.compression.name}, for which tifffile needs another package: pip install "
                    "imagecodecs"
                ) from None
        self.properties = {"tiff.ImageDescription": self._file.ome_metadata or first.description}
        tags, unit = first.tags, UNITS.get(getattr(first.resolutionunit, "name", ""))
        for axis in "xy" if unit else "":
            parts = tags[f"{axis.upper()}Resolution"].value
            if parts[0]:
                self.properties[f"openslide.mpp-{axis}"] = str(unit * parts[1] / parts[0])

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        """uint8 RGB [height, width, 3] of a level, from (x, y) in level 0; white outside."""
        page, factor = self._pages[level], self.downsamples[level]
        left, top = round(x / factor), round(y / factor)
        out = np.full((height, width, 3), 255, np.uint8)
        across = -(-page.imagewidth // page.tilewidth)
        right, bottom = min(left + width, page.imagewidth), min(top + height, page.imagelength)
        for row in range(max(top, 0) // page.tilelength, -(-bottom // page.tilelength)):
            for column in range(max(left, 0) // page.tilewidth, -(-right // page.tilewidth)):
                tile = self._tile(page, row * across + column)
                if tile is None:  # not stored, as nothing was scanned
                    continue
                x0, y0 = column * page.tilewidth - left, row * page.tilelength - top
                inner = out[max(y0, 0) : max(y0 + tile.shape[0], 0), max(x0, 0) : max(x0 + tile.shape[1], 0)]
                start_y, start_x = max(-y0, 0), max(-x0, 0)
                inner[:] = tile[start_y : start_y + inner.shape[0], start_x : start_x + inner.shape[1], :3]
        return out

    def _tile(self, page, index: int) -> np.ndarray | None:
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
        if len(data) < page.databytecounts[index]:
            raise ValueError(f"tile {index} is cut short")
        tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
        return None if tile is None else tile[0]
