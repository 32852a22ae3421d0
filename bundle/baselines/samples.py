"""What is looked at while a baseline is trained: images of fixed seeds by its averaged generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bundle.data.labelled import LabelledPatches
from bundle.data.pictures import save_labelled_grid, to_uint8
from bundle.models.artefacts import build_alike
from bundle.models.ema import ExponentialMovingAverage
from bundle.runs.randomness import ImageNoise

SHOWN_IMAGES = 8  # of each class in a picture


def averaged_copy(network: torch.nn.Module, average: ExponentialMovingAverage) -> torch.nn.Module:
    """A copy with the averaged weights, on the device of the network, in evaluation mode and frozen."""
    copy = build_alike(network).to(next(network.parameters()).device)
    copy.load_state_dict(average.weights)
    return copy.eval().requires_grad_(False)


@torch.no_grad()
def draw_images(generator: torch.nn.Module, seeds: Sequence[int], labels: Sequence[int], batch_size: int) -> np.ndarray:
    """Images of seeds and classes, uint8 [N, S, S, 3].

    Args:
        generator: with a method `draw`, see `bundle.baselines.synthesis`.
        seeds, labels: [N].
        batch_size: images at once.
    """
    device = next(generator.parameters()).device
    made = []
    for start in range(0, len(seeds), batch_size):
        batch = slice(start, start + batch_size)
        noise = ImageNoise(list(seeds[batch]), device)
        made.append(to_uint8(generator.draw(noise, torch.as_tensor(labels[batch], device=device))))
    return np.concatenate(made)


def draw_classes(generator: torch.nn.Module, classes: int, count: int, batch_size: int) -> np.ndarray:
    """Images of the seeds from 0 on, `count` of each class, uint8 [classes * count, S, S, 3], class by class."""
    seeds = range(count)
    return np.concatenate([draw_images(generator, seeds, [label] * count, batch_size) for label in range(classes)])


def save_samples(path: str | Path, images: np.ndarray, labelled: LabelledPatches, model: str, step: int) -> None:
    """A grid of the first images of each class, of those of :func:`draw_classes`, marked as synthetic.

    Args:
        labelled: what the model was trained on.
        model: file name of its artefact.
        step: of its training.
    """
    by_class = images.reshape(len(labelled.classes), -1, *images.shape[1:])[:, :SHOWN_IMAGES]
    columns = [f"seed {seed}" for seed in range(by_class.shape[1])]
    origin = "built-in generated patches" if labelled.built_in else "patches given by the user"
    marks = {"Model": model, "Step": str(step), "TrainedOn": origin}
    save_labelled_grid(path, by_class.reshape(-1, *images.shape[1:]), labelled.classes, columns, marks)
