"""What a PatchStore says of what it found, and the refusal of patches that hardly can be tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.cache import NOT_CACHED
from bundle.data.looks import SHOWN, describe_looks, show_blank


def summarise(store: Any) -> str:
    """What a PatchStore found, for people, in several lines."""
    patches, total = len(store), len(store) + len(store.rejected)
    slides = [np.unique(store.slide_of[store.source_of == number]) for number in range(len(store.sources))]
    groups = sum(map(len, slides))
    lines = [f"{patches} patches from {len(store.sources)} source(s), {groups} group(s)"]
    for number, source in enumerate(store.sources):
        count = int((store.source_of == number).sum())
        ignored = store.passed_over[source]
        lines.append(
            f"  {source}: {count} patches, weight {store.weights[number]:.3f}, {len(slides[number])} group(s)"
            + f", ignored {ignored}" * bool(ignored)
        )
    sizes, counts = np.unique(store.sizes, axis=0, return_counts=True)
    (height, width), count = max(zip(sizes.tolist(), counts.tolist()), key=lambda size: (size[1], size[0]))
    smallest, largest = store.sizes.min(axis=0), store.sizes.max(axis=0)
    lines.append(
        f"sizes (height x width): {height} x {width} in {count} of {patches}; heights {smallest[0]} to "
        f"{largest[0]}, widths {smallest[1]} to {largest[1]}; resized to {store.patch_size} x {store.patch_size}"
    )
    enlarged = int((store.sizes.min(axis=1) < store.patch_size).sum())
    if enlarged:
        lines.append(f"smaller than the patch size, and so enlarged: {enlarged}")
    lines.append(f"rejected: {len(store.rejected)} of {total} ({len(store.rejected) / total:.2%})")
    if store.rejected:
        lines[-1] += f", listed in {store.rejected_file}"
    lines.append(f"duplicates (the same pixels as another patch): {store.duplicates}")
    lines.append(f"hardly tissue: {describe_looks(store.looks) or 'none'}")
    lines[-1] += f", shown in {store.blank_picture}" if store.looks.any() else ""
    clipped = int(((store.facts["unit"] != 0) & (store.facts["peak"] > 1)).sum())
    lines += [f"floats in [0, 1] that went above 1, clipped: {clipped}"] if clipped else []
    cached = int((store.facts["chunk"] != NOT_CACHED).sum())
    if cached == patches:
        lines.append(f"pixels: {patches * store.patch_bytes / 1e6:.1f} MB kept in {store.cache_dir}")
    else:
        lines.append(
            f"pixels: {total * store.patch_bytes / 1e9:.3g} GB is above cache_gigabytes = {store.cache_gigabytes}, "
            f"so {patches - cached} patches are decoded at each use"
        )
    lines.append(
        f"stain normalisation: {'Macenko' if store.normalise_stain else 'none'}; fingerprint {store.fingerprint}"
    )
    return "\n".join(lines)


def require_tissue(store: Any) -> None:
    """Shows some of the patches of a PatchStore that are hardly tissue.

    Raises:
        ValueError: they are more than `maximum_blank_share`.
    """
    blank = np.flatnonzero(store.looks)
    if not len(blank):
        return
    shown = blank[np.linspace(0, len(blank) - 1, min(len(blank), SHOWN)).round().astype(int)]
    show_blank(store.blank_picture, [store.image(index) for index in shown])
    if len(blank) > store.maximum_blank_share * len(store):
        first = Path(store.sources[store.source_of[blank[0]]]) / store.files[blank[0]]
        raise ValueError(
            f"{len(blank)} of {len(store)} patches are hardly tissue ({describe_looks(store.looks)}), such as {first}, "
            f"more than maximum_blank_share = {store.maximum_blank_share}; {store.blank_picture} shows {len(shown)} of "
            "them. If they are tissue, their files are not read as they were meant: save them as 8-bit RGB. If they "
            "are not, remove them, or raise --maximum_blank_share"
        )
