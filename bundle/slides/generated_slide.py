"""Built-in slides for users who have none: procedural pictures as a pyramidal TIFF, never to be passed off as tissue.

A piece of the procedural patches lies on glass, with specks of dust and a stroke of a blue pen, so that there is
something to be left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from bundle.data.generated import DESCRIPTION, generate_patch
from bundle.runs.files import write_atomically

MPP = 0.5
FIELD = 256  # pixels of a procedural patch, 128 µm
PIECE = (5, 7)  # rows and columns of patches
MARGIN = 2 * FIELD
GLASS = 243
BLUE = (40, 60, 170)
ARCHITECTURES = ("STR", "NORM", "NORM", "MUS")


def generated_slide(number: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB [H, W, 3] at 0.5 µm per pixel; the same arguments give the same slide."""
    random = np.random.default_rng([seed, number, 7])
    rows, columns = PIECE
    piece = np.concatenate(
        [
            np.concatenate(
                [
                    generate_patch(ARCHITECTURES[random.integers(4)], number, row * columns + column, FIELD, seed)
                    for column in range(columns)
                ],
                axis=1,
            )
            for row in range(rows)
        ]
    )
    height, width = piece.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ragged = ndimage.zoom(random.normal(0, 0.12, (rows + 1, columns + 1)), (height / (rows + 1), width / (columns + 1)))
    inside = np.clip((1 - np.hypot(x, y) + ragged) * 40, 0, 1)[:, :, None]
    slide = np.full((height + 2 * MARGIN, width + 2 * MARGIN, 3), GLASS, np.uint8)
    slide[MARGIN:-MARGIN, MARGIN:-MARGIN] = piece * inside + GLASS * (1 - inside)
    for top, left in random.integers(0, (slide.shape[0] - 40, MARGIN - 40), (6, 2)):
        slide[top : top + 30, left : left + 24] = (150, 60, 110)
    slide[60:360, MARGIN : MARGIN + 1200] = BLUE
    return slide


def write_generated_slide(path: Path, number: int, seed: int = 0) -> Path:
    """Writes a built-in slide, whose file says what it is; one that is there stays."""
    if path.is_file():
        return path
    from tifffile import TiffWriter  # here, as it is seldom needed

    def write(temporary: Path) -> None:
        level, mpp = generated_slide(number, seed), MPP
        with TiffWriter(temporary) as file:
            for reduced in (0, 1, 1):
                file.write(
                    level,
                    tile=(256, 256),
                    photometric="rgb",
                    compression="adobe_deflate",
                    resolution=(1e4 / mpp, 1e4 / mpp),
                    resolutionunit="CENTIMETER",
                    subfiletype=reduced,
                    description=DESCRIPTION,
                    metadata=None,
                )
                rows, columns = (length // 4 * 4 for length in level.shape[:2])
                blocks = level[:rows, :columns].reshape(rows // 4, 4, columns // 4, 4, 3)
                level, mpp = blocks.mean(axis=(1, 3)).round().astype(np.uint8), mpp * 4

    return write_atomically(path, write)
