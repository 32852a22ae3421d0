"""What a report says beside its evaluation: the study's table, and the selection that chose the images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bundle.report.evaluation_folder import Picture, flatten, read_picture, read_rows
from bundle.runs.tables import read_markdown
from bundle.selection.table import read_selection

PLOT = "accuracy_by_ratio.png"  # as bundle.downstream.study.table calls it, which is slow to import
RUNS = ("title", "variant", "seed", "status", "test_accuracy", "unused_accuracy", "synthetic_images", "steps")


def read_study(folder: Path) -> dict[str, Any]:
    """A study's table with its notes, its runs and its plot.

    Returns:
        "sections" [(title, header, rows)], "notes", "runs" (header, rows), "plot" (a Picture).

    Raises:
        FileNotFoundError: the folder has no `table.md` or no `results.csv`.
        ValueError: one of them is not as the study writes it.
    """
    for name in ("table.md", "results.csv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {folder / name}: {folder} is not the folder of a study. Name one")
    sections, notes = read_markdown(folder / "table.md")
    header, rows = read_rows(folder / "results.csv")
    columns = [header.index(name) for name in RUNS if name in header]
    runs = [header[column].replace("_", " ") for column in columns], [[row[place] for place in columns] for row in rows]
    alt = "Line plot of accuracy on held-out slides against the number of synthetic images; its values are in the table"
    return {"sections": sections, "notes": notes, "runs": runs, "plot": read_picture(folder, PLOT, alt)}


def read_choice(folder: Path) -> dict[str, Any]:
    """A selection: of each class how many candidates there were, what became of them and how many are missing.

    Returns:
        "settings", "facts" [(name, text)], "reasons" (columns), "rows" [(class, candidates, [count of each reason],
        kept, shortfall at the largest ratio)], "picture" (a Picture, or None where none was drawn).

    Raises:
        FileNotFoundError, ValueError: as :func:`bundle.selection.table.read_selection`.
    """
    rows, facts = read_selection(folder / "selection.csv")
    counts: dict[str, Counter[str]] = {name: Counter() for name in facts["classes"]}
    for row in rows:
        counts[row.label]["a copy" if row.reason.startswith("copy of ") else row.reason] += 1
    reasons = sorted({reason for of in counts.values() for reason in of} - {"kept"})
    largest = facts["ratios"][-1]
    table = [
        (name, sum(of.values()), [of[reason] for reason in reasons], of["kept"], facts["shortfall"][name][largest])
        for name, of in counts.items()
    ]
    told = {"ratios, %": facts["ratios"], "pool hash": facts["pool_hash"], "split": facts["split"]}
    picture: Picture | None = None
    if (folder / "selection.png").is_file():
        alt = "Sheet of images, class by class: the best that the selection kept, and some that it rejected"
        picture = read_picture(folder, "selection.png", alt, "Kept and rejected candidates of each class. Synthetic.")
    return {
        "settings": facts["settings"],
        "facts": [*flatten(told), *flatten(facts["settings"])],
        "reasons": reasons,
        "rows": table,
        "ratio": largest,
        "picture": picture,
    }
