"""Tiles of a study without files: classes, slides and sets are all that splits and scores need."""

from types import SimpleNamespace

import numpy as np

from bundle.downstream.proof.tiles import LABELLED, Tile


def tiles_of(*groups, offered=None):
    """Groups are (set, class, slide, number)."""
    made = [
        Tile(part, f"{label}/{slide}_{number}.png", label, slide, f"{part}{label}{slide}{number}", 0)
        for part, label, slide, count in groups
        for number in range(count)
    ]
    classes = sorted({tile.label for tile in made})
    parts = np.array([tile.part for tile in made])
    return SimpleNamespace(
        tiles=made,
        classes=classes,
        labels=np.array([classes.index(tile.label) for tile in made]),
        slides=np.array([tile.slide for tile in made]),
        parts=parts,
        offered=parts == LABELLED if offered is None else offered,
    )
