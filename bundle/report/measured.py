"""Measured figures as tables: each with its interval, its floor, a mark on a scale and a reading in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

READINGS = {
    "alike": "not told apart from real images",
    "better": "better than the floor",
    "worse": "worse than real images",
    "below": "lower than of real images",
    "above": "higher than of real images",
    "": "",
}
UNLIKE = ("worse", "below", "above")
COLUMNS = 5  # metrics side by side in a table by class; more would not fit on paper
MARK_WIDTH, MARK_MARGIN = 120, 6


@dataclass(frozen=True)
class Cell:
    """One figure in a table.

    Attributes:
        anchor: id of the cell, for links to it.
        figure: as of `bundle.evaluation.figures.figure`.
        texts: "value", "floor", "interval", "floor_interval", those that it has.
        reading: a key of `READINGS`.
        mark: places on the scale, 0 to `MARK_WIDTH`, of "value", "floor", "interval" and "floor_interval".
    """

    anchor: str
    figure: Mapping[str, Any]
    texts: Mapping[str, str]
    reading: str
    mark: Mapping[str, Any]

    @property
    def words(self) -> str:
        return READINGS[self.reading]

    @property
    def unlike(self) -> bool:
        """Whether the figure is worse than its floor, or away from it, beyond the intervals."""
        return self.reading in UNLIKE

    @property
    def label(self) -> str:
        """The mark in words, for those who don't see it."""
        names = {"value": "value", "interval": "95 % interval", "floor": "floor", "floor_interval": "of the floor"}
        return "; ".join(f"{title} {self.texts[name]}" for name, title in names.items() if name in self.texts)


def is_figure(found: Any) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get("value"), (int, float)) and "better" in found


def numbers(figure: Mapping[str, Any]) -> list[float]:
    """All numbers of a figure."""
    bounds = [*figure.get("interval", ()), *figure.get("floor_interval", ())]
    return [figure["value"], *([figure["floor"]] if "floor" in figure else []), *bounds]


def reading(figure: Mapping[str, Any]) -> str:
    """How a figure compares with its floor, a key of `READINGS`.

    "alike" where the 95 % interval of their difference, which both intervals give (Zou & Donner, Stat Med 27, 2008,
    section 2), holds 0: intervals that barely overlap tell a figure from its floor as well. A side without an interval
    counts with its value alone. "" where neither has one, as nothing then says how far chance goes.
    """
    if "floor" not in figure or not ("interval" in figure or "floor_interval" in figure):
        return ""
    value, floor = figure["value"], figure["floor"]
    sign = -1 if value < floor else 1
    # How far chance takes each towards the other; an interval of draws can lie beside its value.
    reach = max(0, *(sign * (value - end) for end in figure.get("interval", (value,))))
    floor_reach = max(0, *(sign * (end - floor) for end in figure.get("floor_interval", (floor,))))
    if abs(value - floor) <= math.hypot(reach, floor_reach):
        return "alike"
    if figure["better"] == "floor":
        return "below" if sign < 0 else "above"
    return "better" if (sign < 0) == (figure["better"] == "lower") else "worse"


def as_texts(figure: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a figure with as many decimals each, three significant digits of the largest."""
    every = numbers(figure)
    decimals = 0 if all(number == round(number) for number in every) else _decimals(max(map(abs, every)))
    found = {name: number_text(figure[name], decimals) for name in ("value", "floor") if name in figure}
    for name in ("interval", "floor_interval"):
        if name in figure:
            found[name] = " to ".join(number_text(bound, decimals) for bound in figure[name])
    return found


def number_text(number: float, decimals: int | None = None) -> str:
    """A number with a true minus sign; one that would be rounded to nothing keeps two digits."""
    decimals = _decimals(abs(number)) if decimals is None else decimals
    if not number:
        return "0"
    text = f"{number:,.{decimals}f}"
    if not float(text.replace(",", "")):
        text = f"{number:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def cell(figure: Mapping[str, Any], anchor: str, among: Iterable[Mapping[str, Any]] = ()) -> Cell:
    """One figure, on a scale that it shares with others of its metric.

    Args:
        among: the figures that share the scale.
    """
    every = [number for other in (figure, *among) for number in numbers(other)]
    low, high = min(every), max(every)
    span = (high - low) or abs(high) or 1.0

    def place(number: float) -> float:
        share = (number - low) / span if high > low else 0.5
        return round(MARK_MARGIN + share * (MARK_WIDTH - 2 * MARK_MARGIN), 1)

    mark: dict[str, Any] = {name: place(figure[name]) for name in ("value", "floor") if name in figure}
    for name in ("interval", "floor_interval"):
        if name in figure:
            start, end = map(place, figure[name])
            mark[name] = (start, round(max(end - start, 1.0), 1))
    return Cell(anchor, figure, as_texts(figure), reading(figure), mark)


def tables(section: Mapping[str, Any], name: str, classes: Sequence[str]) -> dict[str, Any]:
    """One section of an evaluation, or of one extractor's fidelity, as tables.

    Args:
        section: "overall", "classes", "metrics" and "notes", each of which may be missing.
        name: begins the anchors of its cells.
        classes: names in order.

    Returns:
        "overall": [(title, explanation, Cell)]; "by_class": tables of at most `COLUMNS` metrics, each "metrics"
        [(title, explanation)] and "rows" [(class, [Cell or None])]; "explanations" [(title, text)], also as "told"
        {title: text}; "notes" [str].
    """
    metrics = section.get("metrics", {})
    overall = {name: found for name, found in section.get("overall", {}).items() if is_figure(found)}
    of_class = section.get("classes", {})
    named = dict.fromkeys(metric for label in classes for metric in of_class.get(label, {}))
    by_metric = {
        metric: [of_class.get(label, {}).get(metric) for label in classes]
        for metric in named
        if any(is_figure(of_class.get(label, {}).get(metric)) for label in classes)
    }

    def title(metric: str) -> str:
        return metrics.get(metric, {}).get("title") or metric.replace("_", " ")

    wide = []
    names = list(by_metric)
    for start in range(0, len(names), COLUMNS):
        some = names[start : start + COLUMNS]
        rows = []
        for place, label in enumerate(classes):
            cells = []
            for metric in some:
                shared = [other for other in by_metric[metric] if is_figure(other)]
                found = by_metric[metric][place]
                anchor = figure_anchor(name, metric, place)
                cells.append(cell(found, anchor, shared) if is_figure(found) else None)
            if any(cells):
                rows.append((label, cells))
        wide.append({"metrics": [title(metric) for metric in some], "rows": rows})
    shown = dict.fromkeys([*overall, *by_metric])
    explanations = [(title(metric), metrics.get(metric, {}).get("explanation", "")) for metric in shown]
    return {
        "overall": [
            (title(metric), cell(found, figure_anchor(name, metric), _scale(found)))
            for metric, found in overall.items()
        ],
        "by_class": wide,
        "explanations": [(title, text) for title, text in explanations if text],
        "told": {title: text for title, text in explanations if text},
        "notes": list(section.get("notes", ())),
    }


def figure_anchor(section: str, metric: str, label: int | None = None) -> str:
    """The id of a figure's cell; a class by its number, as its name can hold anything."""
    text = f"{section}-{'all' if label is None else f'class{label}'}-{metric}"
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text)


def sections(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name that begins the anchors, section) of all that was measured, the extractors of fidelity one by one."""
    for number, found in enumerate(evaluation.get("fidelity", {}).values()):
        yield f"fidelity{number}", found
    for name in ("agreement", "stain", "nuclei", "copies"):
        if isinstance(evaluation.get(name), Mapping):
            yield name, evaluation[name]


def all_figures(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str, Mapping[str, Any]]]:
    """(section, class or None, metric, figure) of every figure."""
    for name, section in sections(evaluation):
        for metric, found in section.get("overall", {}).items():
            if is_figure(found):
                yield name, None, metric, found
        for label, of_class in section.get("classes", {}).items():
            for metric, found in of_class.items():
                if is_figure(found):
                    yield name, label, metric, found


def _scale(found: Mapping[str, Any]) -> list[dict[str, float]]:
    """What an overall figure's scale reaches besides its own numbers: zero, from which distances and shares start."""
    return [{"value": 0.0}] if min(numbers(found)) >= 0 else []


def _decimals(largest: float) -> int:
    for limit, decimals in ((100, 0), (10, 1), (1, 2), (0.01, 3), (0.001, 4)):
        if largest > limit:  # shares, up to 1, have three decimals all
            return decimals
    return 5 if largest else 0
