"""How measured values are spread over images, set beside set: percentiles as boxes on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundle.report.measured import MARK_MARGIN, MARK_WIDTH, number_text

PERCENTILES = (5, 25, 50, 75, 95)


def spreads(quantiles: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A table a statistic.

    Args:
        quantiles: {"overall" or class: {set: {statistic: five percentiles, or none}}}, of a section of an evaluation.
        classes: names in order.

    Returns:
        each "title", "sets" (columns) and "rows" [(class, [box or None])]; a box has "median", "label" (all percentiles
        in words), and the places of "whisker" (start, length), "box" (likewise) and "line" on a scale of `MARK_WIDTH`.
    """
    rows = [name for name in ("overall", *classes) if name in quantiles]
    sets = list(dict.fromkeys(one for name in rows for one in quantiles[name]))
    statistics = dict.fromkeys(name for row in rows for one in quantiles[row].values() for name in one)
    found = []
    for statistic in statistics:
        values = {(row, one): quantiles[row].get(one, {}).get(statistic, []) for row in rows for one in sets}
        every = [number for five in values.values() for number in five]
        if not every:
            continue
        low, high = min(every), max(every)
        boxes = [
            ("all" if row == "overall" else row, [_box(values[row, one], low, (high - low) or 1.0) for one in sets])
            for row in rows
        ]
        found.append({"title": statistic.replace("_", " "), "sets": sets, "rows": boxes})
    return found


def _box(five: Sequence[float], low: float, span: float) -> dict[str, Any] | None:
    if not five:
        return None
    places = [round(MARK_MARGIN + (number - low) / span * (MARK_WIDTH - 2 * MARK_MARGIN), 1) for number in five]
    words = ", ".join(f"{percent}th {number_text(number)}" for percent, number in zip(PERCENTILES, five))
    return {
        "median": number_text(five[2]),
        "label": f"percentiles: {words}",
        "whisker": (places[0], round(places[4] - places[0], 1)),
        "box": (places[1], round(max(places[3] - places[1], 1.0), 1)),
        "line": places[2],
    }
