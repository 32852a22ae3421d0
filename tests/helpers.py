"""What several test files use."""

import numpy as np
import torch
from PIL import Image


def root_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def states(folder):
    files = ("autoencoder_checkpoint.pt", "diffusion_checkpoint.pt", "autoencoder.pt", "diffusion.pt")
    return {name: torch.load(folder / name, weights_only=True) for name in files if (folder / name).is_file()}


def assert_equal(left, right, place=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for name in left.keys() - {"seconds"}:
            assert_equal(left[name], right[name], f"{place}/{name}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), place
        for number, (one, other) in enumerate(zip(left, right)):
            assert_equal(one, other, f"{place}/{number}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{place} differs"
    else:
        assert left == right, place


def few_images(folder, count, first=0):
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
