"""The study's table: results.csv, table.md, table.html and the plot of accuracy against ratio."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bundle.downstream.study.results import accuracy, gain, read_correct, stack
from bundle.downstream.study.rows import EQUAL_STEPS, REAL, Row
from bundle.runs.folder import RunFolder
from bundle.runs.plots import save_lines
from bundle.runs.tables import html_table, markdown_table, write_csv, write_html, write_markdown

TITLE = "What synthetic images are worth to a classifier"
VARIANT_TITLES = {"plain": "Images as they are", "normalised": "Macenko-normalised"}
PLOT = "accuracy_by_ratio.png"
PARTS = ("test", "unused")
FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "macro_sensitivity",
    "macro_specificity",
    "weighted_f1",
    "weighted_sensitivity",
    "weighted_specificity",
    "auroc",
    "ece",
)
HEADER = (
    "row",
    "accuracy, held-out slides",
    "gain over real only",
    "gain over its baseline",
    "of each seed",
    "gain over a random choice",
    "macro F1",
    "accuracy, same slides",
    "synthetic images",
    "steps",
    "runs",
)


def write_tables(
    folder: RunFolder, rows: Sequence[Row], variants: Sequence[str], runs: Sequence[dict[str, Any]], vary_split: bool
) -> None:
    """Writes all of it, from what has been run so far.

    Args:
        runs: of each run its "row", "variant", "seed", "name", "folder" and "facts", as in its run.json.
        vary_split: whether each seed has labelled images of its own, and so other unused tiles.

    Raises:
        ValueError: runs with the same labelled images were measured on different tiles.
    """
    runs = [{**run, "correct": correct(run)} for run in runs]
    write_csv(folder / "results.csv", [flat(run) for run in runs])
    plotted = plot(folder, rows, variants, runs, vary_split)
    pages = {"md": [], "html": []}
    for variant in variants:
        lines = table(rows, [run for run in runs if run["variant"] == variant], vary_split)
        pages["md"].append((VARIANT_TITLES[variant], markdown_table(HEADER, lines)))
        pages["html"].append((VARIANT_TITLES[variant], html_table(HEADER, lines)))
    if plotted:
        picture = base64.b64encode((folder / PLOT).read_bytes()).decode()
        picture = f'<img src="data:image/png;base64,{picture}" alt="accuracy against ratio">'
        pages["html"].append(("Accuracy against ratio", picture))
    notes = explain(runs, vary_split)
    write_markdown(folder / "table.md", TITLE, pages["md"], notes)
    write_html(folder / "table.html", TITLE, pages["html"], notes)


def flat(run: dict[str, Any]) -> dict[str, Any]:
    """One run as a line of results.csv."""
    row, facts = run["row"], run["facts"]
    line = {"row": row.name, "title": row.title, "variant": run["variant"], "seed": run["seed"]}
    line |= {"status": facts["status"], "pool": row.pool or "", "selection": row.selection if row.pool else ""}
    line |= {"ratio": row.ratio or "", "baseline": row.baseline or "", "split": facts.get("split", "")}
    measured = section(facts)
    line |= {name: measured.get(name, "") for name in ("real_images", "synthetic_images", "steps", "seconds")}
    for part in PARTS:
        line |= {f"{part}_{name}": measured.get(part, {}).get(name, "") for name in FIGURES}
    return line


def section(facts: dict[str, Any]) -> dict[str, Any]:
    """What the classifier of a run measured; {} where there is nothing."""
    metrics = facts.get("metrics", {})
    return metrics.get("classifier") or metrics.get("colour_control") or {}


def correct(run: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Part -> file -> whether it was classified right, of a run; {} of one without predictions."""
    measured = any(part in section(run["facts"]) for part in PARTS)
    return read_correct(run["folder"] / "predictions.csv") if is_done(run) and measured else {}


def is_done(run: dict[str, Any]) -> bool:
    return run["facts"]["status"] == "done"


def table(rows: Sequence[Row], runs: Sequence[dict[str, Any]], vary_split: bool = False) -> list[list[Any]]:
    """The lines of one variant's table."""
    of_row = {row.name: [run for run in runs if run["row"].name == row.name] for row in rows}
    lines = []
    for row in rows:
        own = of_row[row.name]
        if not own:  # trained elsewhere, with images of the other variant
            continue
        done = [run for run in own if is_done(run)]
        failed = [run["facts"]["status"] for run in own if run["facts"]["status"].startswith("failed")]
        if not done:
            status = failed[0] if failed else "not run yet"
            lines.append([row.title, status, *[""] * (len(HEADER) - 3), f"0 of {len(own)}"])
            continue
        measured = [section(run["facts"]) for run in done]
        lines.append(
            [
                row.title,
                in_words(measure(done, "test", vary_split), "no test tiles"),
                compare(done, of_row.get(REAL, []))[0],
                *compare(done, of_row.get(row.baseline, [])),
                compare(done, of_row.get(row.control, []))[0],
                mean(found.get("test", {}).get("macro_f1") for found in measured),
                in_words(measure(done, "unused", vary_split), "no unused tiles"),
                mean((found.get("synthetic_images") for found in measured), "{:.0f}"),
                mean((found.get("steps") for found in measured), "{:.0f}"),
                f"{len(done)} of {len(own)}" + (f", {len(failed)} failed" if failed else ""),
            ]
        )
    return lines


def mean(values: Iterable[float | None], form: str = "{:.3f}") -> str:
    present = [value for value in values if value is not None]
    return form.format(np.mean(present)) if present else ""


def in_words(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.3f}"


def measure(runs: Sequence[dict[str, Any]], part: str, vary_split: bool = False) -> float | None:
    """Accuracy on one part; None where a run has no tiles there."""
    found = [run["correct"].get(part, {}) for run in runs]
    # Which tiles are left unused depends on which are labelled.
    return accuracy(stack(found, same=part == "test" or not vary_split)) if all(found) else None


def compare(runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The gain on held-out tiles over a baseline, of the seeds that both have: the mean, and each seed's."""
    others = {run["seed"]: run for run in baseline if is_done(run)}
    pairs = [(run, others[run["seed"]]) for run in runs if run["seed"] in others]
    if not pairs or pairs[0][0] is pairs[0][1]:
        return "", ""
    found = [run["correct"].get("test", {}) for side in zip(*pairs) for run in side]
    if not all(found):
        return "", ""
    ours, theirs = np.split(stack(found), 2)
    seeds = 100 * (ours - theirs).mean(axis=1)
    return f"{100 * gain(ours, theirs):+.1f}", ", ".join(f"{points:+.1f}" for points in seeds)


def explain(runs: Sequence[dict[str, Any]], vary_split: bool) -> list[str]:
    """What the figures mean and what they don't."""
    seeds = sorted({run["seed"] for run in runs})
    failed = [f"{run['name']}: {run['facts']['status']}" for run in runs if run["facts"]["status"].startswith("failed")]
    splits = "a labelled subset of its own for each seed" if vary_split else "one labelled subset for all seeds"
    return [
        f"Means over seeds {', '.join(map(str, seeds))}; {splits}, so the seed varies "
        + ("everything from the choice of labels on." if vary_split else "the classifier alone."),
        "There are no intervals: tiles of a slide resemble each other, and few slides are tested. The gains of each "
        "seed show how far seeds vary. configs/proof.json has intervals over slides, and the controls that this table "
        "lacks.",
        "Gains are percentage points on held-out slides, paired by seed and tile. The baseline of a row is real images "
        "alone, trained for as many steps with the same augmentation; a random choice is as many images of the same "
        "pool.",
        *failed,
    ]


def plot(
    folder: RunFolder, rows: Sequence[Row], variants: Sequence[str], runs: Sequence[dict[str, Any]], vary_split: bool
) -> bool:
    """Accuracy on held-out slides against the ratio; whether there was anything to show."""
    lines, level = {}, None
    for variant in variants:
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            done = [run for run in runs if run["row"].name == row.name and run["variant"] == variant and is_done(run)]
            found = measure(done, "test", vary_split) if done else None
            if found is None:
                continue
            if row.name == EQUAL_STEPS and variant == variants[0]:
                level = (f"{row.title}, {variant}", found)
            if row.pool is not None:
                kind = f"{row.title.rsplit(', ' + row.selection, 1)[0]}, {row.selection}"
                points.setdefault(f"{kind}{', strong stain' if row.stain else ''}, {variant}", []).append(
                    (row.ratio, found)
                )
        lines |= {name: tuple(zip(*sorted(place))) for name, place in points.items()}
    if lines:
        labels = ("synthetic images, % of the labelled ones", "accuracy on held-out slides")
        save_lines(folder / PLOT, lines, labels, level)
    return bool(lines)
