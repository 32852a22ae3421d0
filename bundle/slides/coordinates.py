"""Fields that another program chose: `.h5` files of CLAM and of TRIDENT, taken as they are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bundle.data.archives import read_array
from bundle.data.names import nfc
from bundle.data.slides import Scale, Slide, SlideError

ENDINGS = ("", "_patches", "_coords")  # what the programs put after the name of the slide


class Coordinates(NamedTuple):
    """int64 [N, 2], (x, y) of level 0, and how each field is read."""

    places: np.ndarray
    scale: Scale


def coordinates_file(folder: str | Path, slide: str) -> Path:
    """The file of a slide.

    Raises:
        SlideError: there is none, or several.
    """
    names = {f"{slide}{ending}" for ending in ENDINGS}
    found = [path for path in Path(folder).expanduser().glob("*.h5") if nfc(path.stem) in names]
    if len(found) != 1:
        raise SlideError(
            f"--coordinates_dir {folder} has {len(found)} files for the slide {slide!r}; one named {slide}.h5 or "
            f"{slide}_patches.h5 is needed"
        )
    return found[0]


def read_coordinates(path: Path, slide: Slide) -> Coordinates:
    """The fields of a file, in its order.

    CLAM states `patch_size` at `patch_level`, TRIDENT `patch_size` and `patch_size_level0`. The patch has `patch_size`
    pixels a side. It is read from the coarsest level that is no coarser.

    Raises:
        SlideError: the file is none of these, or a field lies beyond the slide.
    """
    import h5py

    try:
        places = read_array(path, "coords")
        with h5py.File(path, "r") as file:
            stated = {name: np.asarray(value).item() for name, value in _numbers(file["coords"].attrs)}
    except Exception as error:  # h5py meets damage with nearly any
        raise SlideError(
            f"{path}: its array 'coords' can't be read ({error}); write it again by CLAM or TRIDENT"
        ) from error
    patch_size = int(stated.get("patch_size", 0))
    footprint = stated.get("patch_size_level0")
    if footprint is None and "patch_level" in stated and 0 <= stated["patch_level"] < len(slide.downsamples):
        footprint = patch_size * slide.downsamples[int(stated["patch_level"])]
    if patch_size < 1 or not footprint or places.ndim != 2 or places.shape[1] != 2 or places.dtype.kind not in "iu":
        raise SlideError(
            f"{path}: 'coords' must be integers [N, 2] with the attributes patch_size and patch_level of CLAM, or "
            f"patch_size and patch_size_level0 of TRIDENT; it is {places.dtype} {list(places.shape)} with "
            f"{sorted(stated)}"
        )
    places = places.astype(np.int64)
    beyond = (places < 0).any(axis=1) | (places + np.ceil(footprint * 0.99) > slide.size).any(axis=1)
    if beyond.any():
        x, y = places[beyond][0]
        raise SlideError(
            f"{path}: {int(beyond.sum())} of {len(places)} fields lie beyond the slide of {slide.size[0]} x "
            f"{slide.size[1]} pixels, such as ({x}, {y}); they are of another slide or scan: give its own file"
        )
    factor = footprint / patch_size
    level = max(
        (one for one, found in enumerate(slide.downsamples) if found <= factor * 1.01),
        key=lambda one: slide.downsamples[one],
        default=None,
    )
    if level is None:
        raise SlideError(f"{path}: its fields are finer than the slide, and nothing is enlarged; choose them anew")
    pixels = round(footprint / slide.downsamples[level])
    return Coordinates(places, Scale(level, pixels, patch_size, slide.mpp * factor, footprint))


def _numbers(attributes) -> list:
    return [
        (name, value)
        for name, value in attributes.items()
        if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
    ]
