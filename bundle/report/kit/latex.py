"""Tables and text for LaTeX, in which whatever a class or file is called stays text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bundle.report.measured import as_texts, is_figure, sections

SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {mark: f"\\{mark}" for mark in "#$%&_"} | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
SPECIAL |= {"\N{MINUS SIGN}": "$-$", '"': r"\textquotedbl{}", "\n": " ", "\r": " "}
COLUMNS = ("measure", "synthetic", "95 % interval", "floor (real)", "95 % interval of the floor")


def escaped(text: Any) -> str:
    """A text as LaTeX prints it; nothing in it is a command."""
    return "".join(SPECIAL.get(letter, letter) for letter in str(text))


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str, label: str) -> str:
    """A table of booktabs."""

    def line(cells: Sequence[Any]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    body = "\n".join(map(line, rows))
    return (
        "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}\n"
        f"\\begin{{table}}\n\\centering\n\\caption{{{escaped(caption)}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}\n\\toprule\n{line(columns)}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def main_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row of `COLUMNS` for each figure over all classes."""
    names = iter(evaluation.get("fidelity", {}))
    for section, found in sections(evaluation):
        of = f", {next(names)}" if section.startswith("fidelity") else ""
        for metric, figure in found.get("overall", {}).items():
            if is_figure(figure):
                title = found.get("metrics", {}).get(metric, {}).get("title") or metric.replace("_", " ")
                texts = as_texts(figure)
                cells = (texts.get(name, "") for name in ("value", "interval", "floor", "floor_interval"))
                yield (title + (of if of[2:] not in title else ""), *cells)
