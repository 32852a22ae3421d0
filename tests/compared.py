"""Real images, a pool and a judge that an evaluation can take, made in seconds, for tests of it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from candidates import CLASSES, SIDE, fill_pool, keys
from monai.networks.nets import ResNet

from bundle.data.generated import write_generated_patches
from bundle.data.labelled import LabelledPatches
from bundle.data.views import VIEWS
from bundle.evaluation.sets import ImageSet
from bundle.models.artefacts import build, save_artefact


def write_real(folder, unused=12, test=12):
    """Procedural patches of three classes: two slides, a split with as many unused and test images of each class."""
    settings = {"group_by": "class", "classes": CLASSES, "progress": False}
    data = write_generated_patches(folder / "data", [6], 8 + unused, SIDE, **settings)
    tests = write_generated_patches(folder / "test", [9], test, SIDE, **settings)
    split = folder / "split.csv"
    LabelledPatches(data, tests, SIDE, folder / "cache", split, labels_per_class=8).prepare()
    return {"dataset_dir": str(data), "test_dir": str(tests), "split_file": str(split)}


def write_judge(folder, classes=CLASSES):
    """A judge with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, view in enumerate(VIEWS):
        shape = {"block": "basic", "layers": [1] * 4, "block_inplanes": [8] * 4, "spatial_dims": 2}
        shape |= {"n_input_channels": 3, "conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}
        network = build(functools.partial(ResNet, **shape, num_classes=len(classes)), seed)
        measured = {"same_slides": {"accuracy": 0.5}}
        save_artefact(
            folder / f"judge_{view}.pt", f"judge_{view}", network, classes=list(classes), measured=measured, view=view
        )
    return folder


def write_compared(folder, images=16):
    """All that the config needs to be given, with `images` synthetic ones of each class."""
    given = write_real(folder)
    given["pool_dir"] = str(fill_pool(folder / "pool", keys(images)))
    given["adapted_dir"] = str(write_judge(folder / "adapt"))
    return {**given, "cache_dir": str(folder / "cache")}


def image_set(name, counts, first=0, classes=CLASSES, side=8):
    """A set of noise; image `first + n` is the same in every set that has it."""
    labels = np.repeat(range(len(counts)), counts)
    pictures = [
        torch.from_numpy(np.random.default_rng(first + number).integers(0, 256, (3, side, side), np.uint8))
        for number in range(len(labels))
    ]
    files = [f"{name}/{number}.png" for number in range(len(labels))]
    return ImageSet(name, {"of": name}, classes, labels, files, pictures.__getitem__)
