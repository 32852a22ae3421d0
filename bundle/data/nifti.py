"""One slice of a NIfTI file, read within the limits on size."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from bundle.data.limits import LARGEST_IMAGE, LARGEST_RATIO, UNSUSPICIOUS, decoding, require_size


def read_slice(path: Path) -> np.ndarray:
    """Values [H, W], [H, W, 1] or [H, W, 3] as stored and scaled, transposed and not flipped.

    Raises:
        ValueError: it is no single slice, too large, or holds less than it declares.
        Exception: whatever nibabel and gzip raise for a damaged file.
    """
    import nibabel  # here, as it is slow to import and seldom needed

    content = _unpacked(path)
    is_second = nibabel.Nifti2Header.may_contain_header(content[:540])
    image = (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(content)
    shape, voxel_bytes = image.shape, image.get_data_dtype().itemsize
    if len(shape) not in (2, 3) and not (len(shape) == 4 and shape[2] == 1):
        raise ValueError(f"its shape is {shape}; one slice is needed, (W, H), (W, H, 1), (W, H, 3) or (W, H, 1, 3)")
    declared, held = math.prod(shape) * voxel_bytes, len(content) - int(image.dataobj.offset)
    if declared > held:
        raise ValueError(f"it declares {declared} bytes of voxels and holds {held}")
    if (image.dataobj.slope, image.dataobj.inter) != (1, 0):
        voxel_bytes = max(8, voxel_bytes)  # scaled, they are float64
    with decoding(math.prod(shape) * voxel_bytes, path.stat().st_size):
        voxels = np.asanyarray(image.dataobj)
        if voxels.dtype.names is not None:
            voxels = np.stack([voxels[channel] for channel in "RGB"], axis=-1)
    is_flat = voxels.ndim == 4 and voxels.shape[2] == 1
    return (voxels[:, :, 0] if is_flat else voxels).swapaxes(0, 1)


def _unpacked(path: Path) -> bytes:
    stored = path.stat().st_size
    if not path.name.lower().endswith(".gz"):
        require_size(stored, stored)
        return path.read_bytes()
    allowed = min(LARGEST_IMAGE, max(UNSUSPICIOUS, LARGEST_RATIO * stored))
    with decoding(allowed, stored), gzip.open(path) as stream:
        content = stream.read(allowed + 1)  # what its last bytes say of its size may be wrong
    require_size(len(content), stored)
    return content
