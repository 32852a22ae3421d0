"""Which arrays of a file hold images, and how, told by shapes, types and names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bundle.data.names import MASKS, OTHER_ARRAYS, is_mask

SMALLEST_SIDE = 8  # below this an array such as [H, W, 3] would pass for a stack of images
LAYOUTS = (
    "numeric [N, H, W], [N, H, W, 1 or 3], [N, 1 or 3, H, W], [3, H, W] or [H, W, 3] with sides of "
    f"{SMALLEST_SIDE} or more"
)

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # of the arrays of a file, by name


class Layout(NamedTuple):
    """How an array holds images: how many, whether along its first axis, and whether their channels come first."""

    count: int
    stacked: bool
    channels_first: bool

    def image(self, array: np.ndarray, index: int) -> np.ndarray:
        """One image of the array, channels last.

        Raises:
            IndexError: there is none of this number.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"there is no image {index} among {self.count}")
        picture = array[index] if self.stacked else array[:]
        return picture.transpose(1, 2, 0) if self.channels_first else picture


def find_layouts(arrays: Shapes) -> dict[str, Layout]:
    """The layout of each array that may hold images: numeric, with sides of 8 or more, not named as masks.

    [N, H, W], [N, H, W, 1 or 3] and [N, 1 or 3, H, W] are stacks. In a file without any of these, [3, H, W] and
    [H, W, 3] are one RGB image each; beside them, [3, H, W] is three grey ones.
    """
    shapes = {
        name: shape
        for name, (shape, dtype) in arrays.items()
        if dtype.kind in "uif" and 0 not in shape and not is_mask(name)
    }
    stacks = {name: layout for name, shape in shapes.items() if (layout := _stack_layout(shape))}
    single = {
        name: Layout(1, False, shape[0] == 3)
        for name, shape in shapes.items()
        if len(shape) == 3 and 3 in (shape[0], shape[2]) and sorted(shape)[1] >= SMALLEST_SIDE
    }
    return stacks if stacks.keys() - single.keys() else single


def take_images(arrays: Shapes, file: str) -> tuple[dict[str, Layout], Counter]:
    """Of the arrays that may hold images, those that do by their names; and the number of what is left out, by kind.

    Args:
        file: name of the file without its suffix, which says what its only array is.
    """
    layouts = find_layouts(arrays)
    alone = len({name for name, (shape, _) in arrays.items() if _count(shape)} | layouts.keys()) < 2
    named_by = file if alone else None
    masks = {name for name in arrays if is_mask(name, named_by)}
    images = {name: layout for name, layout in layouts.items() if name not in masks}
    named = {name: layout for name, layout in images.items() if "image" in name.rsplit("/", 1)[-1].lower()}
    ignored = Counter({MASKS: sum(_count(arrays[name][0]) for name in masks)})
    ignored[OTHER_ARRAYS] = sum(images[name].count for name in images.keys() - (named or images).keys())
    for name in arrays.keys() - images.keys():
        shape, dtype = arrays[name]
        if name not in masks or not _count(shape):
            ignored[f"array {dtype} {list(shape)}"] += 1
    return named or images, +ignored


def _stack_layout(shape: tuple[int, ...]) -> Layout | None:
    if len(shape) == 4 and shape[3] in (1, 3) and min(shape[1:3]) >= SMALLEST_SIDE:
        return Layout(shape[0], True, False)
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= SMALLEST_SIDE:
        return Layout(shape[0], True, True)
    return Layout(shape[0], True, False) if len(shape) == 3 and min(shape[1:]) >= SMALLEST_SIDE else None


def _count(shape: tuple[int, ...]) -> int:
    """How many pictures an array of masks holds, of any number of channels; none where it is one of numbers."""
    return shape[0] if len(shape) > 2 and sorted(shape[1:])[-2] >= SMALLEST_SIDE else 0
