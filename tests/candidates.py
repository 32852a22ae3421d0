"""Labelled images and pools whose right answers are known, for tests of the selection from them."""

from __future__ import annotations

from bundle.data.generated import generate_patch, write_generated_patches
from bundle.data.labelled import LabelledPatches
from bundle.synthesis.pool import Pool

CLASSES = ("ADI", "STR", "TUM")
SIDE = 32
IDENTITY = {"generator": "test", "model": "a" * 64, "settings": {"steps": 3}}


def write_labelled(folder, labels_per_class=8):
    """Procedural patches of three classes in `folder`/data and their split, of which some are labelled."""
    data = write_generated_patches(folder / "data", [6], 10, SIDE, group_by="class", classes=CLASSES, progress=False)
    split = folder / "split.csv"
    LabelledPatches(data, None, SIDE, folder / "cache", split, labels_per_class=labels_per_class).prepare()
    return {"dataset_dir": str(data), "split_file": str(split)}


def candidate(name, seed):
    """A patch of another slide, as another run of the generator would give it; every fourth shows another class."""
    shown = CLASSES[(CLASSES.index(name) + 1) % 3] if seed % 4 == 3 else name
    return generate_patch(shown, 7, seed, SIDE)


def fill_pool(folder, keys, **pool):
    with Pool(folder, IDENTITY, **pool) as made:
        for name, seed in keys:
            made.add(name, seed, candidate(name, seed))
    return folder


def keys(count, first=0):
    """Classes and seeds of `count` candidates of each class."""
    return [(name, seed) for name in CLASSES for seed in range(first, first + count)]
