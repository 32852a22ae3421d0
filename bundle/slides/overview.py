"""A slide seen at low power: read block by block, so that memory does not grow with the slide."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bundle.data.slides import Slide

BLOCK = 2048  # pixels a side that are read at a time
LARGEST = 4096  # pixels a side of an overview: what is computed of it takes 40 bytes a pixel


def read_overview(slide: Slide, mpp: float) -> tuple[np.ndarray, float]:
    """What was scanned of a slide, small.

    Args:
        slide: an open one.
        mpp: µm per pixel wanted; coarser where the slide is, or where a side would exceed :data:`LARGEST`.

    Returns:
        uint8 RGB [H, W, 3] from the corner of `slide.bounds`, and its pixels of level 0 to a pixel.
    """
    x, y, width, height = slide.bounds
    factor = max(mpp / slide.mpp, 1.0, max(width, height) / LARGEST)
    level = max(
        (one for one, found in enumerate(slide.downsamples) if found <= factor * 1.001),
        key=lambda one: slide.downsamples[one],
    )
    step = factor / slide.downsamples[level]  # pixels of the level to one of the overview
    overview = np.full((max(1, round(height / factor)), max(1, round(width / factor)), 3), 255, np.uint8)
    side = max(1, int(BLOCK / step))  # pixels of the overview that a block gives
    for top in range(0, overview.shape[0], side):
        for left in range(0, overview.shape[1], side):
            part = overview[top : top + side, left : left + side]
            size = tuple(max(1, round(length * step)) for length in part.shape[1::-1])
            block = slide.read(x + round(left * factor), y + round(top * factor), level, *size)
            part[:] = np.asarray(block.resize(part.shape[1::-1], Image.Resampling.BOX))
    return overview, factor
