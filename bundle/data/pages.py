"""Grey pages of one TIFF that are the channels of one picture, as exports of microscopes have them."""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image, ImageOps

from bundle.data.whole import require_whole

GREY = ("L", "I", "F")  # and 16 bits: I;16, I;16B
DESCRIPTION = 270  # the TIFF tag
# How OME-XML, ImageJ and tifffile say that a file has three channels, and one plane of each.
_OME = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_SIZE = re.compile(r'\bSize([CZT])="(\d+)"')
_IMAGEJ = re.compile(r"^(channels|slices|frames)=(\d+)\s*$", re.MULTILINE)


def channels_of(image: Image.Image, stream) -> np.ndarray | None:
    """R, G and B of an opened TIFF that holds them as grey pages, [H, W, 3]; None where its first page is the picture.

    So it is where there is one page, where it has colours, and where the others have another size (an overview).

    Raises:
        ValueError: a page ends early, or several grey pages are alike and nothing says that they are the channels of
            one picture.
    """
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" and _is_grey(image) else 1
    if count == 1:
        return None
    description = str(image.tag_v2.get(DESCRIPTION, ""))
    size, pages = image.size, []
    for number in range(count):
        image.seek(number)
        if image.size == size and _is_grey(image):
            pages.append(number)
    image.seek(0)
    if len(pages) == 1:
        return None
    if pages != [0, 1, 2] or count != 3 or not _says_three_channels(description):
        raise ValueError(
            f"it has {len(pages)} grey pages of one size, and nothing says that they are the red, green and blue of "
            "one picture; save it as one page in RGB"
        )
    channels = []
    for number in pages:
        image.seek(number)
        image.load()
        require_whole(image, stream)
        channels.append(np.asarray(ImageOps.exif_transpose(image)))
    return np.stack(channels, axis=-1)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in GREY or image.mode.startswith("I;16")


def _says_three_channels(description: str) -> bool:
    """Whether the description of a TIFF's first page says that its three pages are three channels."""
    if pixels := _OME.search(description):
        return {**dict.fromkeys("ZT", "1"), **dict(_SIZE.findall(pixels[0]))} == {"C": "3", "Z": "1", "T": "1"}
    if description.startswith("ImageJ="):
        return {name: int(number) for name, number in _IMAGEJ.findall(description) if number != "1"} == {"channels": 3}
    try:
        found = json.loads(description)
        return found["shape"][found["axes"].index("C")] == 3
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
