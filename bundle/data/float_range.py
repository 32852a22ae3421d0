"""Whether the floats of a set lie in [0, 1] or in [0, 255]: decided by all of its patches, not by each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from bundle.data.archives import array_of
from bundle.data.cache import Record, SourceCache
from bundle.data.sources import BEYOND_UNIT, Item, Listing


def reading_order(
    waiting: dict[str, list[Item]], listings: dict[str, Listing], caches: dict[str, SourceCache]
) -> Iterator[tuple[str, list[Item], bool | None]]:
    """What is to be read of each source, then those of its floats whose range most others of their set contradict."""
    for source, items in waiting.items():
        yield source, items, None
        records = caches[source].records
        ranges = float_ranges((file for file, _, _ in listings[source].items), records)
        contradicted = [item for item in listings[source].items if ranges.get(item[0]) == (not records[item[0]].unit)]
        for unit in (True, False):
            yield source, [item for item in contradicted if ranges[item[0]] is unit], unit


def float_ranges(files: Iterable[str], records: Mapping[str, Record]) -> dict[str, bool]:
    """By file, for each image of floats, whether its set lies in [0, 1].

    A set is an array of several images, or all others of the source. Most decide; images of zeros do not count.

    Args:
        files: of one source.
        records: of each, with its largest value.
    """
    files = list(files)
    peaks = {file: records[file].peak for file in files if records[file].peak > 0}
    if not peaks:
        return {}
    sizes = Counter(map(array_of, files))
    set_of = {file: array_of(file) if sizes[array_of(file)] > 1 else None for file in peaks}
    total = Counter(set_of.values())
    beyond = Counter(set_of[file] for file, peak in peaks.items() if peak >= BEYOND_UNIT)
    return {file: 2 * beyond[name] < total[name] for file, name in set_of.items()}
