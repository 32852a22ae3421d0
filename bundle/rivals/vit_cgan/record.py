"""What is looked at while the unified ViT-cGAN is trained: its images, and how they came to compare with real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle.pictures import save_labelled_grid, to_uint8
from bundle.randomness import ImageNoise

SHOWN_IMAGES = 8  # of each class in a picture


@torch.no_grad()
def draw_classes(
    generator: torch.nn.Module, classes: int, count: int, batch_size: int, device: torch.device
) -> np.ndarray:
    """Images of the seeds from 0 on, uint8 [classes * count, S, S, 3], class by class.

    Args:
        generator: with a method `draw`, see `bundle.rivals.synthesis`.
        classes: how many there are.
        count: images of each.
        batch_size: images at once.
        device: of the generator.
    """
    made = []
    for label in range(classes):
        for seeds in torch.arange(count).split(batch_size):
            labels = torch.full((len(seeds),), label, device=device)
            made.append(to_uint8(generator.draw(ImageNoise(seeds.tolist(), device), labels)))
    return np.concatenate(made)


def save_samples(path: str | Path, images: np.ndarray, classes: Sequence[str], step: int) -> None:
    """A grid of the first images of each class, of those of :func:`draw_classes`."""
    by_class = images.reshape(len(classes), -1, *images.shape[1:])[:, :SHOWN_IMAGES]
    columns = [f"seed {seed}" for seed in range(by_class.shape[1])]
    marks = {"Generator": "ViT-cGAN", "Step": str(step)}
    save_labelled_grid(path, by_class.reshape(-1, *images.shape[1:]), classes, columns, marks)


class History:
    """What was found along the way, kept through interruptions.

    Attributes:
        rows: of each comparison its "step" and figures.
        chosen: generated images for each real one that joined the classification loss, summed over steps.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.chosen = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.chosen = state["rows"], state["chosen"]
