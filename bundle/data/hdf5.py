"""Data sets of an HDF5 file: their shapes, and why one may not be read. Only what the file itself holds is read."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bundle.data.limits import reason_of, require_ratio, require_size

ELSEWHERE = "only what the file itself holds is read; copy them into it"


class StoredArray(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...] | None  # None for a link to another file
    dtype: np.dtype | None
    reason: str  # why its images may not be read; empty where they may


def list_sets(path: Path) -> tuple[dict[str, StoredArray], Counter]:
    """The data sets of an HDF5 file, and links to other files, by name; the number of other names, by kind."""
    import h5py

    sets: dict[str, StoredArray] = {}
    ignored: Counter = Counter()

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            if node.shape is None:
                ignored["array without data"] += 1
            else:
                sets[name] = StoredArray(node.shape, node.dtype, _why_refused(node, os.stat(path).st_size))

    def visit_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            sets[name] = StoredArray(None, None, _why_link_refused(link))
        elif isinstance(link, h5py.SoftLink):
            ignored["second name of an array"] += 1

    with h5py.File(path, "r") as archive:
        archive.visititems(visit)
        archive.visititems_links(visit_link)  # those that visititems passes over
    return sets, ignored


def _why_refused(dataset: Any, file_size: int) -> str:
    return _why_outside(dataset) or _why_too_large(dataset, file_size) or _why_not_stored(dataset, file_size)


def _why_link_refused(link: Any) -> str:
    return f"it is a link to {link.filename!r}; {ELSEWHERE}"


def _why_outside(dataset: Any) -> str:
    if dataset.is_virtual:
        return f"it is a virtual set, put together of others; {ELSEWHERE}"
    if dataset.external:
        names = sorted({name for name, _, _ in dataset.external})
        return f"its pixels lie in other files ({', '.join(names)}); {ELSEWHERE}"
    return ""


def _why_too_large(dataset: Any, file_size: int) -> str:
    largest = max(_image_bytes(dataset), math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)
    return reason_of(require_size, largest, file_size)


def _why_not_stored(dataset: Any, file_size: int) -> str:
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), file_size)
    if dataset.chunks is None:
        whole = stored >= declared
    else:
        needed = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks))
        whole = dataset.id.get_num_chunks() >= needed
    if not whole:
        return f"it declares {declared} bytes of which some were never written; it holds {stored}"
    return reason_of(require_ratio, declared, stored)


def _image_bytes(dataset: Any) -> int:
    return math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
