"""The patches of one slide in one file: a zip of JPEG or PNG, or HDF5; or no file, where coordinates suffice."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FORMATS = {"jpeg": ".zip", "png": ".zip", "hdf5": ".h5", "coordinates": ""}
BUFFER = 2**20  # bytes; a patch is larger than what Python buffers by itself
Add = Callable[[Image.Image, str, str], str]


@dataclasses.dataclass(frozen=True)
class Storage:
    """How patches are kept.

    Args:
        format: jpeg or png, a zip a slide; hdf5, a file a slide; or coordinates, which are read from the slides again.
        jpeg_quality: 1 to 100.
        jpeg_subsampling: of the colours: "4:4:4" keeps each pixel's, "4:2:0" one for four pixels.

    Raises:
        ValueError: a value that can't be meant.
    """

    format: str = "jpeg"
    jpeg_quality: int = 95
    jpeg_subsampling: str = "4:4:4"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format is {self.format!r}; it must be one of {', '.join(FORMATS)}")
        quality = self.jpeg_quality
        if not isinstance(quality, int) or isinstance(quality, bool) or not 1 <= quality <= 100:
            raise ValueError(f"--jpeg_quality is {quality!r}; it must be an integer from 1 to 100")
        if self.jpeg_subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
            raise ValueError(
                f"--storage#jpeg_subsampling is {self.jpeg_subsampling!r}; it must be 4:4:4, 4:2:2 or 4:2:0"
            )

    @property
    def suffix(self) -> str:
        """Of the file of a slide; '' for none."""
        return FORMATS[self.format]

    def fill(self, path: Path, work: Callable[[Add], Any], comment: str = "") -> None:
        """Writes the file of a slide: `work` is given a function of (patch, class, name), which adds a patch.

        That function gives what the patch is called within the file.

        Args:
            comment: written into each picture, of what is no tissue.
        """
        if self.format == "hdf5":
            import h5py

            with h5py.File(path, "w") as file:
                if comment:
                    file.attrs["comment"] = comment
                work(lambda patch, label, name: _append(file, np.asarray(patch), label))
            return
        with open(path, "wb", buffering=BUFFER) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            work(lambda patch, label, name: self._add(archive, patch, label, name, comment))

    def _add(self, archive: zipfile.ZipFile, patch: Image.Image, label: str, name: str, comment: str) -> str:
        stem = f"{label}/{name}" if label else name
        member = zipfile.ZipInfo(f"{stem}.jpg" if self.format == "jpeg" else f"{stem}.png")  # of 1980, so equal bytes
        archive.writestr(member, self.encode(patch, comment))
        return member.filename

    def encode(self, patch: Image.Image, comment: str = "") -> bytes:
        """A patch as the bytes of a JPEG or PNG."""
        content = io.BytesIO()
        if self.format == "png":
            chunks = PngInfo()
            if comment:
                chunks.add_text("Description", comment)
            patch.save(content, "PNG", pnginfo=chunks)
        else:
            further = {"comment": comment} if comment else {}
            patch.save(content, "JPEG", quality=self.jpeg_quality, subsampling=self.jpeg_subsampling, **further)
        return content.getvalue()


def _append(file: Any, rgb: np.ndarray, label: str) -> str:
    name = f"{label}/images" if label else "images"
    if name not in file:  # chunks of one image, which is what is read at a time
        shape = rgb.shape
        file.create_dataset(name, (0, *shape), "u1", maxshape=(None, *shape), chunks=(1, *shape), compression="lzf")
    images = file[name]
    images.resize(len(images) + 1, axis=0)
    images[-1] = rgb
    return f"{name}/{len(images) - 1}"
