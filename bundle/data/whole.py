"""Whether a file holds the whole of the picture that its header declares; where it ends early, Pillow leaves the rest
black (PNG, TIFF) or grey (JPEG) and says nothing."""

from __future__ import annotations

import math
import struct
import zlib
from io import BytesIO

from PIL import Image, TiffImagePlugin

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
END_OF_JPEG = b"\xff\xd9"
MORE_JPEG = bytes(range(1, 255)) * 8  # any data that is no marker and not all zero


def require_whole(image: Image.Image, stream) -> None:
    """Refuses a picture that ends before its last row.

    Args:
        image: as Pillow opened it, loaded and not yet changed.
        stream: what it was read from.

    Raises:
        ValueError: rows are missing.
    """
    missing = {"PNG": _png_ends_early, "JPEG": _jpeg_ends_early, "TIFF": _tiff_ends_early}.get(image.format)
    if missing and missing(image, stream):
        raise ValueError(f"its header declares {image.width} x {image.height} pixels and its data end before the last")


def _png_ends_early(image: Image.Image, stream) -> bool:
    """Counts the unpacked bytes, where the last pixel is black or the rows are interlaced."""
    stream.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    if not interlaced and not _last_pixel_in(image, 0, 0):
        return False
    passes = PNG_PASSES if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + math.ceil(columns * depth * PNG_CHANNELS[colour] / 8))
    unpack, found = zlib.decompressobj(), 0
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and found < expected and not unpack.eof:
        length, kind = struct.unpack(">I4s", head)
        content = stream.read(length) if kind == b"IDAT" else b""
        stream.seek(length - len(content) + 4, 1)
        while content and found < expected:
            found += len(unpack.decompress(content, 2**20))
            content = unpack.unconsumed_tail
    return found < expected


def _jpeg_ends_early(image: Image.Image, stream) -> bool:
    """Tells a picture that ends early from one with a grey last pixel: more data before the end changes it.

    libjpeg fills all missing blocks but the first with grey, so a picture that lacks only its last one passes.
    """
    if not _last_pixel_in(image, 127, 129):
        return False
    stream.seek(0)
    content = stream.read()
    end = content.rfind(END_OF_JPEG)
    with Image.open(BytesIO(content[:end] + MORE_JPEG + content[end:]), formats=["JPEG"]) as other:
        other.load()
        return other.tobytes() != image.tobytes()


def _tiff_ends_early(image: Image.Image, stream) -> bool:
    """Compares the number of strips or tiles with that which the size needs."""
    tags = image.tag_v2
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    if TiffImagePlugin.TILEOFFSETS in tags:
        offsets = tags[TiffImagePlugin.TILEOFFSETS]
        across, down = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
        needed = math.ceil(width / across) * math.ceil(height / down)
    else:
        offsets = tags.get(TiffImagePlugin.STRIPOFFSETS, ())
        needed = math.ceil(height / tags.get(TiffImagePlugin.ROWSPERSTRIP, height))
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2:
        needed *= tags[TiffImagePlugin.SAMPLESPERPIXEL]
    return len(offsets) < needed


def _last_pixel_in(image: Image.Image, low: int, high: int) -> bool:
    pixel = image.getpixel((image.width - 1, image.height - 1))
    return all(low <= value <= high for value in (pixel if isinstance(pixel, tuple) else (pixel,)))
