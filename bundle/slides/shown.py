"""Pictures of a tiling: a thumbnail a slide with mask and fields, and one contact sheet of all slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bundle.runs.files import write_atomically
from bundle.slides.tissue import GREY, PEN, SPECK, TISSUE

STRIP = 10  # patches of a slide on the contact sheet
SIDE = 96  # pixels of each
SLIDES_SHOWN = 40
LARGEST = 2000  # pixels of the longer side of a thumbnail
COLOURS = {TISSUE: (0, 150, 0), PEN: (0, 60, 255), GREY: (120, 120, 120), SPECK: (230, 0, 0)}  # of the outlines


def small(patch: Image.Image) -> np.ndarray:
    """A patch as it is shown, uint8 [SIDE, SIDE, 3]."""
    return np.asarray(patch.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def save_strip(path: Path, shown: Sequence[np.ndarray]) -> None:
    """Some patches of a slide side by side, white where there are fewer."""
    sheet = np.full((SIDE, STRIP * (SIDE + 2), 3), 255, np.uint8)
    for number, patch in enumerate(shown[:STRIP]):
        sheet[:, number * (SIDE + 2) :][:, :SIDE] = patch
    write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary), durable=False)


def save_thumbnail(path: Path, overview: np.ndarray, found: np.ndarray, fields: np.ndarray) -> None:
    """A slide with the outlines of what was found, and the chosen fields as black squares.

    Args:
        overview: uint8 RGB [H, W, 3].
        found: uint8 [H, W], see :class:`bundle.slides.tissue.TissueRule`.
        fields: float [N, 3]: left, top and side on the overview.
    """
    zoom = LARGEST / max(overview.shape)
    zoom = zoom if zoom < 1 else max(1, 1200 // max(overview.shape))
    size = tuple(max(1, round(length * zoom)) for length in overview.shape[1::-1])
    picture = np.array(Image.fromarray(overview).resize(size, Image.Resampling.BICUBIC, reducing_gap=2))
    kinds = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.NEAREST))
    for kind, colour in COLOURS.items():
        mask = kinds == kind
        if mask.any():
            picture[mask & (ndimage.minimum_filter(mask.view(np.uint8), 3) == 0)] = colour
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for left, top, side in fields * zoom:
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline=(0, 0, 0))
    write_atomically(path, lambda temporary: image.save(temporary, quality=90), durable=False)


def save_contact_sheet(path: Path, strips: dict[str, Path], title: str) -> None:
    """The strips of slides below each other, each under its name; evenly chosen where there are many."""
    names = [name for name, strip in strips.items() if strip.is_file()]
    names = [names[at] for at in np.linspace(0, len(names) - 1, min(len(names), SLIDES_SHOWN)).round().astype(int)]
    font = ImageFont.load_default(size=14)
    if not all(name.isascii() for name in names):  # Pillow's own font knows little else
        from matplotlib import get_data_path  # here, as it is slow to import and seldom needed

        font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size=14)
    row = SIDE + 22
    sheet = Image.new("RGB", (STRIP * (SIDE + 2), 22 + len(names) * row), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 2), title, "black", font)
    for number, name in enumerate(names):
        draw.text((2, 22 + number * row), name, "black", font)
        with Image.open(strips[name]) as strip:
            sheet.paste(strip, (0, 40 + number * row))
    write_atomically(path, lambda temporary: sheet.save(temporary), durable=False)
