"""Patches that hardly can be tissue: nearly black, nearly white, of one colour or grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bundle.data.pictures import tile
from bundle.runs.files import write_atomically

LOOKS = ("tissue", "nearly black", "nearly white", "of one colour", "grey")
SHOWN = 16
SAMPLES = 32  # along the shorter side; a patch is judged by so many of its rows and columns
MOST = 0.99  # of the pixels
BLACK, WHITE = 25, 230  # grey levels that most pixels stay below, or above
ONE_COLOUR, GREY = 8, 4  # grey levels between all pixels of a channel, or between the channels of most pixels


def look_of(rgb: np.ndarray) -> int:
    """Place in `LOOKS` of a patch, uint8 [H, W, 3]; the first that fits."""
    step = max(1, min(rgb.shape[:2]) // SAMPLES)
    pixels = rgb[::step, ::step].reshape(-1, 3)
    red, green, blue = pixels.T
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    if np.mean(highest <= BLACK) >= MOST:
        return 1
    if np.mean(lowest >= WHITE) >= MOST:
        return 2
    if np.ptp(pixels, axis=0).max() <= ONE_COLOUR:
        return 3
    return 4 if np.mean(highest - lowest <= GREY) >= MOST else 0


def describe_looks(looks: np.ndarray) -> str:
    """ "3 nearly black, 2 grey" of an int array of places in `LOOKS`; empty where all may be tissue."""
    counts = np.bincount(looks, minlength=len(LOOKS))
    return ", ".join(f"{count} {name}" for name, count in zip(LOOKS[1:], counts[1:]) if count)


def show_blank(path: Path, images: Sequence[torch.Tensor]) -> None:
    """Saves patches, uint8 [3, S, S], eight in a row."""
    sheet = tile(torch.stack(list(images)).permute(0, 2, 3, 1).numpy(), 8, zoom=max(1, 128 // images[0].shape[-1]))
    write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary))
