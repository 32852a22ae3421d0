"""The folder of the kit: text, tables, figures, cards, citations, checklists, and which file each sentence is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.report import dataset_card
from bundle.report.kit import checklists, latex
from bundle.report.kit.citations import bibliography
from bundle.report.kit.methods import Claim, methods
from bundle.report.kit.runs import Runs
from bundle.report.neighbours import read_choice, read_study
from bundle.report.training import read_training
from bundle.report.vector_figures import write_figures
from bundle.runs.files import write_atomically
from bundle.runs.tables import markdown_table, markdown_text, write_rows

FIGURES = ("measure", "synthetic", "interval", "floor", "floor_interval")


def write_kit(folder: Path, runs: Runs, metadata: Mapping[str, Any], licence: str | None = None) -> list[str]:
    """Writes the kit; what no file holds is left out.

    Args:
        folder: where to; made where it is missing.
        runs: the runs of the paper.
        metadata: content of configs/metadata.json.
        licence: text on the data's licence, None where there is none.

    Returns:
        what is missing for want of a run, as lines for whoever asked.
    """
    claims, missing = methods(runs), []
    _text(folder / "methods.md", _markdown(claims))
    _text(folder / "methods.tex", _latex(claims))
    every = [(title, claim.text, claim.source) for title, of in claims.items() for claim in of]
    write_rows(folder / "sources.csv", [("heading", "sentence", "file"), *every])
    rows = checklists.answers(runs, claims)
    write_rows(folder / "checklists.csv", [checklists.COLUMNS, *rows])
    _text(folder / "checklists.md", f"# Checklists\n\n{CHECKED}\n\n{markdown_table(checklists.COLUMNS, rows)}")
    _text(folder / "citations.bib", bibliography(runs, metadata, licence))
    study = read_study(runs.of["study"].folder) if "study" in runs.of else None
    if runs.evaluation:
        table = list(latex.main_rows(runs.evaluation))
        write_rows(folder / "main_table.csv", [FIGURES, *table])
        _text(folder / "main_table.tex", latex.latex_table(latex.COLUMNS, table, CAPTION, "tab:synthetic"))
        _text(folder / "dataset_card.md", _dataset_card(runs, metadata, study, licence))
    else:
        missing.append("main table, dataset card and figures of an evaluation: name the folder of evaluate.json")
    if study is not None:
        for number, (name, header, lines) in enumerate(study["sections"]):
            stem = f"study_table_{number}" if number else "study_table"
            write_rows(folder / f"{stem}.csv", [header, *lines])
            _text(folder / f"{stem}.tex", latex.latex_table(header, lines, name, f"tab:study{number}"))
    else:
        missing.append("table of the worth to a classifier: name the folder of study.json")
    trainings = [read_training(runs.of[kind].folder, kind) for kind in ("pretrain", "adapt") if kind in runs.of]
    trainings = [one for one in trainings if one["curves"]]
    study_dir = runs.of["study"].folder if "study" in runs.of else None
    write_figures(folder / "figures", runs.evaluation or {"compared": {}}, study_dir, trainings)
    if not any(run.software for run in runs.of.values()):
        missing.append("versions of the software: no run has a software.json, which runs of this version write")
    return missing


CAPTION = "Synthetic images beside their floor, the same figure of other real images."
CHECKED = (
    "Items that files of the runs can answer, by number and in our words: CLAIM 2024 (doi 10.1148/ryai.240300) and "
    "TRIPOD+AI (doi 10.1136/bmj-2023-078378). All other items are the author's."
)


def _markdown(claims: Mapping[str, Sequence[Claim]]) -> str:
    parts = [f"## {title}\n\n{' '.join(markdown_text(claim.text) for claim in of)}\n" for title, of in claims.items()]
    return "# Methods\n\n" + "\n".join(parts)


def _latex(claims: Mapping[str, Sequence[Claim]]) -> str:
    return "\n".join(
        f"\\paragraph{{{title}.}}\n" + "".join(f"{latex.escaped(one.text)} % {_comment(one.source)}\n" for one in of)
        for title, of in claims.items()
    )


def _comment(text: str) -> str:
    return " ".join(text.split())


def _dataset_card(runs: Runs, metadata: Mapping[str, Any], study: Any, licence: str | None) -> str:
    scored = dataset_card.scorecard(runs.evaluation)
    choice = read_choice(runs.of["select"].folder) if "select" in runs.of else None
    parts = {
        "Intended use": [metadata["intended_use"]],
        "How labels were made": dataset_card.how_labelled(runs.evaluation, choice),
        "Limits": dataset_card.LIMITS,
        "What was not measured": dataset_card.not_measured(runs.evaluation, study, scored),
    }
    text = "# Dataset card\n" + "".join(
        f"\n## {title}\n\n" + "".join(f"- {markdown_text(line)}\n" for line in lines) for title, lines in parts.items()
    )
    rows = [
        (
            row["name"],
            row["question"],
            row["text"] or "; ".join(f"{name} {cell.texts['value']}" for name, cell in row["figures"]),
        )
        for row in scored
    ]
    text += f"\n## Scorecard\n\n{markdown_table(('criterion', 'question', 'figures'), rows)}"
    return text + (f"\n## Licence\n\n{markdown_text(licence)}\n" if licence else "")


def _text(path: Path, text: str) -> None:
    content = text.encode(errors="replace")  # a name of a file need not be UTF-8
    write_atomically(path, lambda temporary: temporary.write_bytes(content), size=len(content))
