"""Every measured figure of a report for a paper: SVG, PDF and CSV each, drawn from the numbers in the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.report.evaluation_folder import read_rows
from bundle.report.measured import READINGS, is_figure, reading
from bundle.report.spreads import PERCENTILES
from bundle.runs.plots import save_vectors, vector_axes
from bundle.runs.tables import write_rows

COLUMNS = ("class", "value", "low", "high", "floor", "floor_low", "floor_high", "reading")
STUDY = ("title", "variant", "selection", "ratio", "test_accuracy")


def write_figures(
    folder: Path,
    evaluation: Mapping[str, Any],
    study_dir: Path | None = None,
    trainings: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Writes NAME.svg, NAME.pdf and NAME.csv of each figure. The same files from the same numbers.

    Args:
        folder: where to; made where it is missing.
        evaluation: content of evaluation.json.
        study_dir: folder of a study, for its accuracy against the ratio.
        trainings: as of `bundle.report.training.read_training`, for their curves.

    Returns:
        the names.
    """
    classes, names = list(evaluation["compared"]), []
    for section, found in _named_sections(evaluation).items():
        overall, of_class = found.get("overall", {}), found.get("classes", {})
        metrics = dict.fromkeys([*overall, *(metric for label in classes for metric in of_class.get(label, {}))])
        for metric in metrics:
            rows = [("all", overall.get(metric)), *((label, of_class.get(label, {}).get(metric)) for label in classes)]
            rows = [(label, figure) for label, figure in rows if is_figure(figure)]
            if rows:
                title = found.get("metrics", {}).get(metric, {}).get("title") or metric.replace("_", " ")
                names.append(_intervals(folder, f"{section}-{metric}", title, rows))
        for view, of_sets in found.get("confusion", {}).items():
            for one, counts in of_sets.items():
                name = f"{section}-confusion-{view}-{one}"
                names.append(_confusion(folder, name, f"{one} images, {view}", found, counts))
        quantiles = found.get("quantiles", {})
        statistics = dict.fromkeys(name for of in quantiles.values() for one in of.values() for name in one)
        for statistic in statistics:
            rows = [
                (label, one, of[statistic])
                for label in ("overall", *classes)
                for one, of in quantiles.get(label, {}).items()
                if of.get(statistic)
            ]
            if rows:
                names.append(_spread(folder, f"{section}-spread-{statistic}", statistic.replace("_", " "), rows))
    for training in trainings:
        for stage, curves in training["curves"]:
            for curve in curves:
                names.append(_curve(folder, f"{training['title']}-{stage}-{curve['title']}", curve))
    if study_dir is not None:
        names += _study(folder, study_dir)
    return names


def _named_sections(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {f"fidelity-{name}": section for name, section in evaluation.get("fidelity", {}).items()}
    named = ("agreement", "stain", "nuclei", "copies")
    return found | {name: evaluation[name] for name in named if isinstance(evaluation.get(name), Mapping)}


def _file_name(text: str) -> str:
    """A name of any file system: what is neither an ASCII letter nor a digit is a dash."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in text)


def _intervals(folder: Path, name: str, title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A point and its interval for each class, the floor and its interval in grey behind it."""
    name = _file_name(name)
    lines = []
    figure, axes = vector_axes(5, 0.8 + 0.32 * len(rows))
    for place, (label, found) in enumerate(rows):
        interval, floor = found.get("interval", ("", "")), found.get("floor_interval", ("", ""))
        lines.append([label, found["value"], *interval, found.get("floor", ""), *floor, READINGS[reading(found)]])
        if "floor_interval" in found:
            axes.plot(found["floor_interval"], [place] * 2, color="#c9d3df", linewidth=9, solid_capstyle="butt")
        if "floor" in found:
            axes.plot([found["floor"]], [place], "|", color="#6d7a8a", markersize=11, label=None if place else "floor")
        if "interval" in found:
            axes.plot(found["interval"], [place] * 2, color="#24598c", linewidth=2)
        axes.plot([found["value"]], [place], "o", color="#24598c", markersize=5)
    _names(axes, [label for label, _ in rows])
    axes.set_xlabel(_plain(title))
    write_rows(folder / f"{name}.csv", [COLUMNS, *lines])
    save_vectors(folder / name, figure)
    return name


def _confusion(folder: Path, name: str, title: str, section: Mapping[str, Any], counts: Sequence[Sequence[int]]) -> str:
    name, asked, seen = _file_name(name), section["asked"], section["seen"]
    figure, axes = vector_axes(1.6 + 0.5 * len(seen), 1.4 + 0.5 * len(asked))
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, of in enumerate(counts):
        for column, count in enumerate(of):
            colour = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(seen)), map(_plain, seen), rotation=90)
    axes.set_yticks(range(len(asked)), map(_plain, asked))
    axes.set(xlabel="class seen", ylabel="class asked for", title=_plain(title))
    write_rows(folder / f"{name}.csv", [("asked", *seen), *([label, *of] for label, of in zip(asked, counts))])
    save_vectors(folder / name, figure)
    return name


def _spread(folder: Path, name: str, title: str, rows: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    name = _file_name(name)
    figure, axes = vector_axes(5, 0.8 + 0.2 * len(rows))
    for place, (_, one, five) in enumerate(rows):
        colour = "#24598c" if one == "synthetic" else "#93a1b3"
        axes.plot([five[0], five[4]], [place] * 2, color=colour, linewidth=1)
        axes.plot([five[1], five[3]], [place] * 2, color=colour, linewidth=6, solid_capstyle="butt")
        axes.plot([five[2]], [place], "|", color="black", markersize=8)
    _names(axes, [f"{'all' if label == 'overall' else label}, {one}" for label, one, _ in rows])
    axes.set_xlabel(_plain(title))
    header = ("class", "set", *(f"percentile_{percent}" for percent in PERCENTILES))
    write_rows(folder / f"{name}.csv", [header, *([label, one, *five] for label, one, five in rows)])
    save_vectors(folder / name, figure)
    return name


def _curve(folder: Path, name: str, curve: Mapping[str, Any]) -> str:
    name = _file_name(name)
    figure, axes = vector_axes(4, 2.4)
    axes.plot(*zip(*curve["values"]), color="#24598c")
    axes.set(xlabel="step", ylabel=_plain(curve["title"]), yscale="log" if curve["log"] else "linear")
    write_rows(folder / f"{name}.csv", [("step", "value"), *curve["values"]])
    save_vectors(folder / name, figure)
    return name


def _study(folder: Path, study_dir: Path) -> list[str]:
    """Accuracy against the ratio, means over seeds; nothing where results.csv lacks a column or has no ratio."""
    header, lines = read_rows(study_dir / "results.csv")
    if any(name not in header for name in STUDY):
        return []
    found: dict[str, dict[float, list[float]]] = {}
    for line in lines:
        title, variant, selection, ratio, accuracy = (line[header.index(name)] for name in STUDY)
        if ratio and accuracy:
            kind = f"{title.rsplit(f', {selection}', 1)[0]}, {selection}, {variant}"
            found.setdefault(kind, {}).setdefault(float(ratio), []).append(float(accuracy))
    if not found:
        return []
    figure, axes = vector_axes(5, 3.2 + 0.2 * len(found))
    rows = []
    for kind, of in found.items():
        points = [(ratio, sum(values) / len(values), len(values)) for ratio, values in sorted(of.items())]
        axes.plot(*list(zip(*points))[:2], marker="o", label=_plain(kind))
        rows += [(kind, *point) for point in points]
    axes.set(xlabel="synthetic images, % of the labelled ones", ylabel="accuracy on held-out slides")
    figure.legend(loc="outside lower center")
    write_rows(folder / "study-accuracy.csv", [("row", "ratio", "accuracy", "runs"), *rows])
    save_vectors(folder / "study-accuracy", figure)
    return ["study-accuracy"]


def _names(axes: Any, names: Sequence[str]) -> None:
    """Names at the rows, the first on top."""
    axes.set_yticks(range(len(names)), map(_plain, names))
    axes.set_ylim(len(names) - 0.5, -0.5)


def _plain(text: str) -> str:
    """A text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
