"""Plots of measured figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.runs.files import write_atomically


def save_lines(
    path: str | Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    labels: tuple[str, str],
    level: tuple[str, float] | None = None,
    title: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> None:
    """Saves named lines (x, y) in one plot.

    Args:
        bands: lower and upper bounds around lines, by their names.
        labels: of the two axes.
        level: name and height of a dashed line, such as chance.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it is slow to import and seldom needed
    from matplotlib.figure import Figure

    names = len(lines) + (level is not None)
    figure = Figure(figsize=(6, 4 + 0.25 * names), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, (x, y) in lines.items():
        (line,) = axes.plot(x, y, marker="o", label=name)
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=line.get_color(), alpha=0.15, linewidth=0)
    if level is not None:
        axes.axhline(level[1], linestyle="--", color="grey", label=level[0])
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    figure.legend(loc="outside lower center")  # below: within the axes it would hide lines
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))


def save_confusion(path: str | Path, confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> None:
    """Saves counts [K, K], a row a true class, each coloured by its share of its row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it is slow to import and seldom needed
    from matplotlib.figure import Figure

    side = 2 + 0.6 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            colour = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="class", title=title)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))


def vector_axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes for :func:`save_vectors`, sizes in inches."""
    from matplotlib.figure import Figure  # here, as it is slow to import and seldom needed

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_vectors(stem: str | Path, figure: Any) -> None:
    """Saves a figure of matplotlib as STEM.svg and STEM.pdf, with text as text; the same bytes from the same figure."""
    from matplotlib import rc_context

    stem = Path(stem)
    for suffix, date in ((".svg", "Date"), (".pdf", "CreationDate")):
        with rc_context({"svg.hashsalt": "histodiffusion", "svg.fonttype": "none", "pdf.fonttype": 42}):
            write = functools.partial(figure.savefig, metadata={date: None}, format=suffix[1:])
            write_atomically(stem.with_name(stem.name + suffix), write, durable=False)
