"""Grids of patches as PNG files, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bundle.data.marks import TRAINED_ALGORITHMIC_MEDIA, save_marked_png
from bundle.runs.files import write_atomically


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """RGB images [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], clipped and rounded."""
    values = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return values.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def tile(images: np.ndarray, columns: int, gap: int = 2, zoom: int = 2) -> np.ndarray:
    """Arranges uint8 images [B, H, W, 3] row by row on white, each pixel enlarged `zoom` times."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        sheet[row * (height + gap) :, column * (width + gap) :][:height, :width] = image
    return sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)


def save_grid(
    path: str | Path, images: torch.Tensor, columns: int = 8, synthetic: dict[str, str] | None = None
) -> None:
    """Saves images [B, 3, H, W] in [-1, 1] as one PNG, small patches enlarged to be seen.

    Args:
        synthetic: for pictures out of a trained model: what made them, written into the file beside the mark that
            they are synthetic.
    """
    sheet = tile(to_uint8(images), columns, zoom=max(1, 128 // images.shape[-1]))
    if synthetic is not None:
        save_marked_png(path, sheet, TRAINED_ALGORITHMIC_MEDIA, synthetic)
    else:
        write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary))


def save_labelled_grid(
    path: str | Path, images: np.ndarray, rows: Sequence[str], columns: Sequence[str], synthetic: dict[str, str]
) -> None:
    """Saves images as one PNG marked as synthetic, with names at the left of the rows and above the columns.

    Args:
        images: uint8 [rows * columns, H, W, 3], row by row.
        rows, columns: their names.
        synthetic: what made them, see :func:`save_grid`.
    """
    zoom, gap = max(1, 128 // images.shape[1]), 2
    height, width = ((side + gap) * zoom for side in images.shape[1:3])
    font = ImageFont.load_default(size=16)
    if not all(name.isascii() for name in (*rows, *columns)):  # Pillow's own font knows little else
        from matplotlib import get_data_path  # here, as it is slow to import and seldom needed

        font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size=16)
    left, top = max(int(font.getlength(name)) for name in rows) + 12, 26
    sheet = Image.new("RGB", (left + len(columns) * width, top + len(rows) * height), "white")
    sheet.paste(Image.fromarray(tile(images, len(columns), gap, zoom)), (left, top))
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(rows):
        draw.text((left - 6, top + (number + 0.5) * height), name, "black", font, anchor="rm")
    for number, name in enumerate(columns):
        draw.text((left + (number + 0.5) * width, top / 2), name, "black", font, anchor="mm")
    save_marked_png(path, np.asarray(sheet), TRAINED_ALGORITHMIC_MEDIA, synthetic)
