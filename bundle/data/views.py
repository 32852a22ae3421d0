"""Pictures with all of their colour, or with less of it: what a judge or a scorer is given to see."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from bundle.data.stain import macenko_normalise

# "normalised" brings every tile to one pair of stains (Macenko et al., ISBI 2009).
VIEWS = ("colour", "grey", "normalised")
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def require_view(view: str) -> str:
    """The view, if it is one.

    Raises:
        ValueError: an unknown view.
    """
    if view not in VIEWS:
        raise ValueError(f"a view is {view!r}; it must be one of {', '.join(VIEWS)}")
    return view


def look(rgb: np.ndarray, view: str) -> np.ndarray:
    """One picture in a view; uint8 [H, W, 3] in and out.

    Raises:
        ValueError: an unknown view.
    """
    if view == "colour":
        return rgb
    if view == "grey":
        return np.rint(rgb @ LUMINANCE).astype(np.uint8)[..., None].repeat(3, axis=-1)
    require_view(view)
    return macenko_normalise(rgb)


def look_at(images: torch.Tensor, view: str) -> torch.Tensor:
    """Pictures in a view; uint8 [N, 3, H, W] in and out, on the CPU."""
    if view == "colour" or not len(images):
        return images
    seen = [look(image, view) for image in images.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).contiguous()


class Viewd(MapTransform):
    """uint8 [3, H, W] -> the same picture in a view.

    Args:
        keys: of the pictures.
        view: one of `VIEWS`.

    Raises:
        ValueError: an unknown view.
    """

    def __init__(self, keys: KeysCollection, view: str) -> None:
        super().__init__(keys)
        self.view = require_view(view)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = look_at(result[key][None], self.view)[0]
        return result
