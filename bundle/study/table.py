"""The study's table: results.csv, table.md, table.html and the plot of accuracy against ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bundle.report.plots import save_lines
from bundle.report.tables import html_table, markdown_table, write_csv, write_html, write_markdown
from bundle.run_folder import RunFolder
from bundle.study.results import Interval, accuracy, gain, read_correct, stack
from bundle.study.rows import EQUAL_STEPS, Row

TITLE = "What synthetic images are worth to a classifier"
PARTS = {"test": "held-out slides", "unused": "same slides"}
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_sensitivity", "macro_specificity", "auroc", "ece")
PAPERS_BASELINE = "real"
HEADER = (
    "row",
    "accuracy, held-out slides",
    "gain over real only",
    "gain over its baseline",
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
        runs: of each run its "row", "variant", "seed", "folder" and "facts", as in its run.json.
    """
    write_csv(folder / "results.csv", [flat(run) for run in runs])
    pages = {"md": [], "html": []}
    for variant in variants:
        lines = table(rows, [run for run in runs if run["variant"] == variant])
        name = {"plain": "Images as they are", "normalised": "Macenko-normalised"}[variant]
        pages["md"].append((name, markdown_table(HEADER, lines)))
        pages["html"].append((name, html_table(HEADER, lines)))
    notes = explain(runs, vary_split)
    write_markdown(folder / "table.md", TITLE, pages["md"], notes)
    picture = '<img src="accuracy_by_ratio.png" alt="accuracy against ratio">'
    write_html(folder / "table.html", TITLE, [*pages["html"], ("Accuracy against ratio", picture)], notes)
    plot(folder, rows, variants, runs)


def flat(run: dict[str, Any]) -> dict[str, Any]:
    """One run as a line of results.csv."""
    row, facts = run["row"], run["facts"]
    line = {
        "row": row.name,
        "title": row.title,
        "variant": run["variant"],
        "seed": run["seed"],
        "status": facts["status"],
    }
    measured = section(facts)
    line |= {name: measured.get(name, "") for name in ("synthetic_images", "steps", "seconds")}
    for part in PARTS:
        line |= {f"{part}_{name}": measured.get(part, {}).get(name, "") for name in FIGURES}
    return line


def section(facts: dict[str, Any]) -> dict[str, Any]:
    """What the classifier of a run measured; {} where there is nothing."""
    metrics = facts.get("metrics", {})
    return metrics.get("classifier") or metrics.get("colour_control") or {}


def table(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """The lines of one variant's table."""
    of_row = {row.name: [run for run in runs if run["row"].name == row.name] for row in rows}
    lines = []
    for row in rows:
        done = [run for run in of_row[row.name] if run["facts"]["status"] == "done"]
        failed = [run for run in of_row[row.name] if run["facts"]["status"].startswith("failed")]
        if not done:
            status = failed[0]["facts"]["status"] if failed else "not run yet"
            lines.append([row.title, status, *[""] * (len(HEADER) - 3), f"0 of {len(of_row[row.name])}"])
            continue
        measured = [section(run["facts"]) for run in done]
        lines.append(
            [
                row.title,
                measure(done, "test") or "no test tiles",
                compare(done, of_row.get(PAPERS_BASELINE, [])),
                compare(done, of_row.get(row.baseline, [])),
                mean(found.get("test", {}).get("macro_f1") for found in measured),
                measure(done, "unused") or "no unused tiles",
                mean((found.get("synthetic_images") for found in measured), "{:.0f}"),
                mean((found.get("steps") for found in measured), "{:.0f}"),
                f"{len(done)} of {len(of_row[row.name])}" + (f", {len(failed)} failed" if failed else ""),
            ]
        )
    return lines


def mean(values: Any, form: str = "{:.3f}") -> str:
    present = [value for value in values if value is not None]
    return form.format(np.mean(present)) if present else ""


def correct(runs: Sequence[dict[str, Any]], part: str) -> np.ndarray | None:
    """[runs, tiles] of one part; None where it has no tiles."""
    found = [read_correct(run["folder"] / "predictions.csv", part) for run in runs]
    return stack(found) if found and found[0] else None


def measure(runs: Sequence[dict[str, Any]], part: str) -> Interval | None:
    found = correct(runs, part)
    return None if found is None else accuracy(found)


def compare(runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> str:
    """The gain on held-out tiles over a baseline, of the seeds that both have."""
    others = {run["seed"]: run for run in baseline if run["facts"]["status"] == "done"}
    pairs = [(run, others[run["seed"]]) for run in runs if run["seed"] in others]
    if not pairs or pairs[0][0] is pairs[0][1]:
        return ""
    one, other = (correct(side, "test") for side in zip(*pairs))
    return "" if one is None or other is None else gain(one, other).points()


def explain(runs: Sequence[dict[str, Any]], vary_split: bool) -> list[str]:
    """What the figures mean and what they don't."""
    seeds = sorted({run["seed"] for run in runs})
    failed = [f"{run['name']}: {run['facts']['status']}" for run in runs if run["facts"]["status"].startswith("failed")]
    splits = "a labelled subset of its own for each seed" if vary_split else "one labelled subset for all seeds"
    return [
        f"Means over seeds {', '.join(map(str, seeds))}; {splits}, so the seed varies "
        + ("everything from the choice of labels on." if vary_split else "the classifier alone."),
        "In brackets 95 % bootstrap intervals over tiles. They cover other tiles of these slides, not new slides, and "
        "are too narrow where tiles of a slide resemble each other.",
        "Gains are percentage points on held-out slides, paired by seed and tile. The baseline of a row is real images "
        "alone, trained for as many steps with the same augmentation.",
        *failed,
    ]


def plot(folder: RunFolder, rows: Sequence[Row], variants: Sequence[str], runs: Sequence[dict[str, Any]]) -> None:
    """Accuracy on held-out slides against the ratio, for pools with several ratios."""
    lines, level = {}, None
    for variant in variants:
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            done = [
                run
                for run in runs
                if run["row"].name == row.name and run["variant"] == variant and run["facts"]["status"] == "done"
            ]
            found = measure(done, "test") if done else None
            if found is None:
                continue
            if row.name == EQUAL_STEPS and variant == variants[0]:
                level = (f"{row.title}, {variant}", found.value)
            if row.pool is not None:
                kind = f"{row.title.rsplit(', ' + row.selection, 1)[0]}, {row.selection}"
                points.setdefault(f"{kind}{', strong stain' if row.stain else ''}, {variant}", []).append(
                    (row.ratio, found.value)
                )
        lines |= {name: tuple(zip(*sorted(place))) for name, place in points.items()}
    if lines:
        labels = ("synthetic images, % of the labelled ones", "accuracy on held-out slides")
        save_lines(folder / "accuracy_by_ratio.png", lines, labels, level)
