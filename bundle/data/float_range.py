"""Whether the floats of a set lie in [0, 1] or in [0, 255]: decided by all of its patches, not by each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from bundle.data.archives import array_of
from bundle.data.cache import Records, SourceCache
from bundle.data.sources import BEYOND_UNIT, Item
from bundle.data.texts import Texts


def reading_order(
    waiting: dict[str, list[Item]], names: Mapping[str, Texts], caches: Mapping[str, SourceCache]
) -> Iterator[tuple[str, list[Item], bool | None]]:
    """What is to be read of each source, then those of its floats whose range most others of their set contradict.

    Args:
        waiting: by source, the files to be read.
        names: by source, of all its files.
        caches: by source, what is known of them.
    """
    for source, items in waiting.items():
        yield source, items, None
        records = caches[source].records
        if records.facts["peak"].any():
            records = records.take(records.rows_of(names[source]))
            ranges = float_ranges(records)
            facts, files = records.facts, list(records.names)
            contradicted = [row for row, is_unit in ranges.items() if is_unit == (not facts["unit"][row])]
            for unit in (True, False):
                rows = [row for row in contradicted if ranges[row] is unit]
                yield source, [(files[row], *facts[["size", "mtime_ns"]][row].item()) for row in rows], unit


def float_ranges(records: Records) -> dict[int, bool]:
    """By row, for each image of floats, whether its set lies in [0, 1].

    A set is an array of several images, or all others of the source. Most decide; images of zeros do not count.

    Args:
        records: of one source, with the largest value of each.
    """
    peaks = records.facts["peak"]
    sets = [array_of(file) for file in records.names]
    sizes = Counter(sets)
    set_of = {row: sets[row] if sizes[sets[row]] > 1 else None for row in np.flatnonzero(peaks > 0).tolist()}
    total = Counter(set_of.values())
    beyond = Counter(name for row, name in set_of.items() if peaks[row] >= BEYOND_UNIT)
    return {row: 2 * beyond[name] < total[name] for row, name in set_of.items()}
