"""MONAI dictionary transforms that take a patch from its file to float RGB in [-1, 1].

Images are channel-first tensors, [3, H, W], uint8 until :class:`ScalePatchd`. Random transforms draw from `self.R`
only (MONAI's `set_random_state`), so a caller can seed them per patch, and draw once for all keys of a dictionary.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandCoarseDropoutd, RandomizableTransform
from PIL import Image

from bundle.data.sources import read_rgb
from bundle.data.stain import macenko_normalise, scale_density, vary_stains


def resize_patch(rgb: np.ndarray, patch_size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [patch_size, patch_size, 3]: the shorter side to `patch_size`, then the centre is cropped.

    Pillow's bicubic filter, whose support grows with the reduction, so that every source pixel counts (no aliasing).
    The centre square is resized alone, which is the same and leaves out the pixels that would be cut away.
    """
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if side == patch_size:
        return rgb[top : top + side, left : left + side]
    square = Image.fromarray(rgb).crop((left, top, left + side, top + side))
    return np.asarray(square.resize((patch_size, patch_size), Image.Resampling.BICUBIC))


class LoadPatchd(MapTransform):
    """File name -> uint8 [3, H, W], by the rules of :func:`bundle.data.sources.read_rgb`.

    Args:
        keys: keys that hold file names as of `find_items`.
        root: the source they are relative to; None where they are relative to the working folder, or absolute.
    """

    def __init__(self, keys: KeysCollection, root: str | os.PathLike | None = None) -> None:
        super().__init__(keys)
        self.root = root

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _to_tensor(read_rgb("." if self.root is None else self.root, str(result[key])))
        return result


class ResizePatchd(MapTransform):
    """uint8 [3, H, W] -> [3, patch_size, patch_size], by :func:`resize_patch`."""

    def __init__(self, keys: KeysCollection, patch_size: int) -> None:
        super().__init__(keys)
        self.patch_size = patch_size

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _to_tensor(resize_patch(_to_array(result[key]), self.patch_size))
        return result


def orient(images: torch.Tensor, orientation: int) -> torch.Tensor:
    """One of the eight flips and rotations of a square [..., S, S], numbered 0 (unchanged) to 7."""
    images = torch.rot90(images, orientation % 4, (-2, -1))
    return images.flip(-1) if orientation >= 4 else images


class RandOrientationd(RandomizableTransform, MapTransform):
    """One of the eight flips and rotations of the square, each as likely; [C, H, W] with H = W keeps its shape."""

    def __init__(self, keys: KeysCollection) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)

    def randomize(self, data: object = None) -> None:
        self.orientation = int(self.R.randint(8))

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        self.randomize()
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = orient(result[key], self.orientation).contiguous()
        return result


class RandStaind(RandomizableTransform, MapTransform):
    """Vary the density of haematoxylin and of eosin, per image, in optical density; uint8 [3, H, W] in and out.

    Each stain's density c becomes `scale * c + shift * t`, where t rises from 0 at white to 1 in tissue (see
    :func:`bundle.data.stain.vary_stains`), so that white stays white.

    Args:
        keys: keys of uint8 RGB images.
        prob: share of images varied.
        scale: the factor of each stain is drawn uniformly from [1 - scale, 1 + scale]; scale in [0, 1).
        shift: the shift of each stain is drawn uniformly from [-shift, shift], in units of optical density; >= 0.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, scale: float = 0.2, shift: float = 0.05) -> None:
        for name, value, valid in (
            ("prob", prob, 0 <= prob <= 1),
            ("scale", scale, 0 <= scale < 1),
            ("shift", shift, shift >= 0),
        ):
            if not valid:
                raise ValueError(f"RandStaind: {name} is {value}; it must be " + _STAIN_RANGES[name])
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.scale = scale
        self.shift = shift

    def randomize(self, data: object = None) -> None:
        super().randomize(None)
        # Drawn in any case, so that the stream does not depend on which images are varied.
        self.factors = self.R.uniform(1 - self.scale, 1 + self.scale, size=2)
        self.shifts = self.R.uniform(-self.shift, self.shift, size=2)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        self.randomize()
        result = dict(data)
        if self._do_transform:
            for key in self.key_iterator(result):
                result[key] = _to_tensor(vary_stains(_to_array(result[key]), self.factors, self.shifts))
        return result


_STAIN_RANGES = {"prob": "in [0, 1]", "scale": "in [0, 1)", "shift": "0 or more"}


class RandDensityd(RandomizableTransform, MapTransform):
    """Scale the optical density of each colour channel, per image; uint8 [3, H, W] in and out, white stays white.

    What slides of other laboratories differ by, hue included; :class:`RandStaind` keeps to the two stains.

    Args:
        keys: keys of uint8 RGB images.
        prob: share of images varied.
        scale: the factor of each channel is drawn uniformly from [1 - scale, 1 + scale]; scale in [0, 1).

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, keys: KeysCollection, prob: float = 1.0, scale: float = 0.5) -> None:
        for name, value, valid in (("prob", prob, 0 <= prob <= 1), ("scale", scale, 0 <= scale < 1)):
            if not valid:
                raise ValueError(f"RandDensityd: {name} is {value}; it must be {_STAIN_RANGES[name]}")
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.scale = scale

    def randomize(self, data: object = None) -> None:
        super().randomize(None)
        # Drawn in any case, so that the stream does not depend on which images are varied.
        self.factors = self.R.uniform(1 - self.scale, 1 + self.scale, size=3)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        self.randomize()
        result = dict(data)
        if self._do_transform:
            for key in self.key_iterator(result):
                result[key] = _to_tensor(scale_density(_to_array(result[key]), self.factors))
        return result


class RandErased(RandCoarseDropoutd):
    """Fill a rectangle with noise, uniform in [-1, 1], per image; [3, S, S] in [-1, 1] in and out.

    Random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896): sides are drawn from 0.14 S to 0.57 S, which as areas
    are the paper's 0.02 to 0.33; their ratio is between 0.25 and 4 (0.3 to 3.3 there).

    Args:
        keys: keys of images.
        side: S.
        prob: share of images, in [0, 1].

    Raises:
        ValueError: a share out of its range.
    """

    def __init__(self, keys: KeysCollection, side: int, prob: float = 0.0) -> None:
        if not 0 <= prob <= 1:  # MONAI would take the nearest of the two
            raise ValueError(f"--erasing_probability is {prob}; it must be {_STAIN_RANGES['prob']}")
        smallest, largest = (max(1, round(share * side)) for share in (0.14, 0.57))
        super().__init__(keys, 1, smallest, max_spatial_size=largest, fill_value=(-1.0, 1.0), prob=prob)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        # Cloned, since MONAI writes into what it is given.
        result = super().__call__({**data, **{key: data[key].clone() for key in self.key_iterator(data)}})
        return {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in result.items()}


class MacenkoNormalized(MapTransform):
    """Bring the stains of uint8 [3, H, W] to a fixed reference, by :func:`bundle.data.stain.macenko_normalise`.

    An image with too little tissue to estimate its stains is left as it is.
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _to_tensor(macenko_normalise(_to_array(result[key])))
        return result


def scale_patch(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float32 [-1, 1], by v / 127.5 - 1; `bundle.data.pictures.to_uint8` is the way back."""
    return images.to(torch.float32) / 127.5 - 1.0


class ScalePatchd(MapTransform):
    """:func:`scale_patch` of each key."""

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = scale_patch(result[key])
        return result


def _to_array(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _to_tensor(rgb: np.ndarray) -> torch.Tensor:
    # Copied, as Pillow's arrays are read-only and torch would share their memory.
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))
