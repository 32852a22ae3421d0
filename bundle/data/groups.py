"""Which slide a patch comes from, by the place of its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bundle.data.archives import split_member
from bundle.data.names import nfc
from bundle.data.texts import Texts


def groups_of(files: Texts, said: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """The slides in the order of their patches, and which of them each patch comes from, int [patches].

    A slide is what `said` has for a patch, as a tiling says it. Where that is None, it is the first folder under the
    source; for an image in an archive that lies at the top, the archive with its first folder or array
    (`tiles.zip#slide`); '' where there is no folder, or one image in the archive.
    """
    names = files.tolist()
    images = Counter(split_member(file)[0] for file in names if "#" in file)
    found = [slide or _slide(file, images) for file, slide in zip(names, said)]
    composed = {name: nfc(name) for name in dict.fromkeys(found)}
    numbers = {slide: number for number, slide in enumerate(dict.fromkeys(composed.values()))}
    return list(numbers), np.array([numbers[composed[name]] for name in found], np.int64)


def _slide(file: str, images: Counter) -> str:
    archive, member = split_member(file) if "#" in file else (file, None)
    if member is not None and images[archive] == 1 and "/" not in archive:  # one tile a file says nothing of its slide
        return ""
    if "/" in file:
        return file.split("/", 1)[0]
    return archive if member is not None else ""
