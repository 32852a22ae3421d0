"""The report of an evaluation as one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bundle.data.marks import ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA
from bundle.report import dataset_card
from bundle.report.blinded_reading import read_reading
from bundle.report.evaluation_folder import (
    Picture,
    flatten,
    read_evaluation,
    read_json,
    read_picture,
    read_rows,
    readable,
    told,
    written_on,
)
from bundle.report.glossary import TERMS, glossed, term_anchor
from bundle.report.measured import MARK_WIDTH, tables
from bundle.report.neighbours import read_choice, read_study
from bundle.report.spreads import spreads
from bundle.report.summary import floor_is, summarise
from bundle.report.training import HEIGHT, WIDTH, read_training
from bundle.report.verdict import verdict
from bundle.runs.files import write_atomically

SETS = ("synthetic", "reference", "floor", "training", "held_out")
# What a section has besides facts.
SHOWN = {
    "overall",
    "classes",
    "metrics",
    "notes",
    "confusion",
    "asked",
    "seen",
    "quantiles",
    "picture",
    "gallery",
    "table",
}
LONG = 300  # letters of a line, above which nested facts get lines of their own
CLOSEST = 24  # pairs shown in the table
# Said once in the place of each picture of real tiles, where an evaluation was published without these.
PUBLISHED = (
    "These figures are published without the real tiles they were measured against: the synthetic images are shown "
    "alone, and no pairs with training images."
)
NOT_TISSUE = "built-in procedural patches, not tissue"


def write_page(
    path: Path,
    evaluation_dir: Path,
    licence: str,
    intended_use: str,
    study_dir: Path | None = None,
    selection_dir: Path | None = None,
    training_dirs: Mapping[str, Path] | None = None,
    reading_dir: Path | None = None,
) -> list[str]:
    """Writes the report.

    Args:
        path: of the HTML file.
        evaluation_dir: output folder of `configs/evaluate.json`.
        licence: text on the licence of weights and images, shown whole.
        intended_use: one sentence or two.
        study_dir, selection_dir: folders of a study and of a selection, None where there are none.
        training_dirs: title -> folder of a training whose `metrics.json` and curves are shown.
        reading_dir: folder of a blinded reading with its result, None where there is none.

    Returns:
        what is missing in the page and said in its place, to be told to whoever asked for it.

    Raises:
        FileNotFoundError: a folder that was named lacks the file that makes it one.
        ValueError: a file of another format.
    """
    folders = study_dir, selection_dir, training_dirs or {}, reading_dir
    content = collect(evaluation_dir, licence, intended_use, *folders)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"gloss": glossed, "term_anchor": term_anchor}
    text = environment.get_template("page.html.j2").render(content)
    # A file name of a disk, and so a cell, need not be UTF-8; the page must be.
    page = text.encode(errors="replace")
    remedy = ", or name a file on another disk with --output,"
    write_atomically(path, lambda temporary: temporary.write_bytes(page), remedy, size=len(page))
    return [picture.missing for picture in _pictures(content) if picture.missing]


def collect(
    evaluation_dir: Path,
    licence: str,
    intended_use: str,
    study_dir: Path | None,
    selection_dir: Path | None,
    training_dirs: Mapping[str, Path],
    reading_dir: Path | None = None,
) -> dict[str, Any]:
    """All that the template shows; see :func:`write_page`."""
    evaluation = read_evaluation(evaluation_dir)
    classes = list(evaluation["compared"])
    study = read_study(study_dir) if study_dir else None
    selection = read_choice(selection_dir) if selection_dir else None
    reading = read_reading(reading_dir) if reading_dir else None
    trainings = [read_training(folder, title) for title, folder in training_dirs.items()]
    built_in = says_built_in(evaluation) or any(training["built_in"] for training in trainings)
    published = "published" in evaluation
    pictures = read_pictures(evaluation_dir, classes, built_in, published)
    scored = dataset_card.scorecard(evaluation)
    sets = [(readable(name), evaluation[name]) for name in SETS if isinstance(evaluation.get(name), dict)]
    return {
        "built_in": built_in,
        "aside": f" ({NOT_TISSUE})" if built_in else "",
        "source_type": ALGORITHMIC_MEDIA if built_in else TRAINED_ALGORITHMIC_MEDIA,
        "published": PUBLISHED if published else "",
        "real_shown": not built_in and any(real.uri for real in real_pictures(pictures)),
        "written": written_on(evaluation_dir / "evaluation.json"),
        "made_by": made_by(evaluation_dir),
        "classes": classes,
        "labels": list(dict.fromkeys([*classes, *(name for _, found in sets for name in found.get("images", {}))])),
        "total": sum(evaluation["synthetic"].get("images", evaluation["compared"]).values()),
        "compared": evaluation["compared"],
        "sets": [(name, found, origin(found)) for name, found in sets],
        "origin": origin(evaluation["synthetic"]),
        "verdict": verdict(evaluation, built_in, study is not None, read=reading is not None),
        "terms": TERMS,
        "summary": summarise(evaluation),
        "floor_is": floor_is(evaluation),
        "fidelity": [
            {
                "title": readable(name),
                "extractor": _extractor(evaluation, name),
                **tables(found, f"fidelity{number}", classes),
            }
            for number, (name, found) in enumerate(evaluation.get("fidelity", {}).items())
        ],
        "sections": {
            name: {
                **tables(evaluation[name], name, classes),
                "facts": facts(evaluation[name]),
                "confusions": confusions(evaluation[name]),
                "spreads": spreads(evaluation[name].get("quantiles", {}), classes),
            }
            for name in ("agreement", "stain", "nuclei", "copies")
            if isinstance(evaluation.get(name), dict)
        },
        "parts": dataset_card.SECTIONS,
        "pictures": pictures,
        "closest": closest_pairs(evaluation_dir / "nearest.csv"),
        "study": study,
        "selection": selection,
        "reading": reading,
        "trainings": trainings,
        "scorecard": scored,
        "not_measured": dataset_card.not_measured(evaluation, study, scored, read=reading is not None),
        "limits": dataset_card.LIMITS,
        "labelled": dataset_card.how_labelled(evaluation, selection),
        "intended_use": intended_use,
        "licence": licence.strip(),
        "settings": list(flatten(evaluation.get("settings", {}))),
        "notes": list(evaluation.get("notes", ())),
        "mark_width": MARK_WIDTH,
        "curve_size": (WIDTH, HEIGHT),
    }


def read_pictures(folder: Path, classes: list[str], built_in: bool, published: bool = False) -> dict[str, Any]:
    """The pictures of an evaluation: "grids" [(class, synthetic, real)], "copies" and "nuclei".

    Those that show real tiles are None where it is `published` and they are not there.
    """
    real = "Built-in patches that stand for real ones" if built_in else "Real"

    def with_real(name: str, *texts: str) -> Picture | None:
        return None if published and not (folder / name).is_file() else read_picture(folder, name, *texts)

    grids = []
    for name in classes:
        made = read_picture(folder, f"grids/{name}.png", f"Grid of synthetic patches asked to be {name}", "Synthetic")
        beside = with_real(f"grids/{name}_real.png", f"Grid of {real.lower()} patches of {name}", real)
        grids.append((name, made, beside))
    return {
        "grids": grids,
        "copies": with_real(
            "copies.png",
            "Pairs of patches side by side: the synthetic ones nearest to a training image, each with that image",
            "The closest pairs: synthetic patches, each beside the training image that is nearest to it",
        ),
        "nuclei": with_real(
            "nuclei.png",
            "Patches of each class, real and synthetic, beside themselves with the nuclei that were found outlined",
            "What the segmenter takes for nuclei, in real and synthetic patches: judge the figures by it",
        ),
    }


def real_pictures(pictures: Mapping[str, Any]) -> list[Picture]:
    """Those of the pictures that real tiles are in."""
    return [
        real for real in (*(real for *_, real in pictures["grids"]), pictures["copies"], pictures["nuclei"]) if real
    ]


def made_by(folder: Path) -> dict[str, str]:
    """ "command" and "config" (SHA-256 of `config.json`) of the run that left a folder; "" where unknown."""
    config, metrics = folder / "config.json", folder / "metrics.json"
    return {
        "command": str(read_json(metrics).get("command", "")) if metrics.is_file() else "",
        "config": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "",
    }


def origin(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a set comes from, as lines."""
    return list(flatten({name: value for name, value in found.items() if name not in ("images", "fingerprint")}))


def confusions(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrices of a section, each with its "title", "seen" (names of the columns) and "rows".

    A row is an asked class with [(count, its share of the row)].

    Args:
        section: "confusion" {view: {set: counts}}, "asked" and "seen" (names of rows and columns).

    Raises:
        ValueError: a matrix of another shape than the names.
    """
    found = []
    # The hardest view first: colour alone can win the other.
    for view, of_sets in sorted(section.get("confusion", {}).items(), key=lambda item: item[0] != "grey"):
        for name, matrix in of_sets.items():
            asked, seen, title = section["asked"], section["seen"], f"{name} images, {view}"
            if len(matrix) != len(asked) or any(len(counts) != len(seen) for counts in matrix):
                raise ValueError(
                    f"the confusion matrix of the {title} in evaluation.json is not {len(asked)} x {len(seen)}, as its "
                    "classes are. Evaluate again with configs/evaluate.json"
                )
            rows = [
                (label, [(count, count / max(sum(counts), 1)) for count in counts])
                for label, counts in zip(asked, matrix)
            ]
            found.append({"title": title, "seen": seen, "rows": rows})
    return found


def facts(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a section says besides its figures, as lines."""

    found: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and len(told(value)) > LONG:
            for inner, of in value.items():
                add(f"{name}, {readable(inner)}", of)
        else:
            found.append((name, told(value)))

    for name, value in section.items():
        if name not in SHOWN:
            add(readable(name), value)
    return found


def closest_pairs(path: Path) -> dict[str, Any]:
    """The rows of the table of nearest training images with the smallest ratios; "missing" says why there are none.

    Raises:
        ValueError: a ratio that is no number, or a row that is cut short.
    """
    if not path.is_file():
        return {"missing": f"{path.name} is missing in {path.parent.name}"}
    header, rows = read_rows(path)
    if "pixel_ratio" not in header:
        return {"missing": f"{path.name} has no column pixel_ratio to sort by"}
    rows.sort(key=lambda row: float(row[header.index("pixel_ratio")]))
    return {"missing": "", "header": list(map(readable, header)), "rows": rows[:CLOSEST], "total": len(rows)}


def says_built_in(evaluation: Mapping[str, Any]) -> bool:
    """Whether any set of an evaluation says of its origin that it is of built-in patches."""

    def search(found: Any) -> bool:
        if not isinstance(found, Mapping):
            return False
        named = any(found.get(name) is True for name in ("built_in", "built_in_patches"))
        return named or any(map(search, found.values()))

    return any(search(evaluation.get(name)) for name in SETS)


def _extractor(evaluation: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    known = [found for found in evaluation.get("extractors", ()) if found.get("name") == name]
    return list(flatten(known[0])) if known else []


def _pictures(content: Mapping[str, Any]) -> Iterator[Picture]:
    """Every picture that the page has a place for."""
    yield from (made for _, made, _ in content["pictures"]["grids"])
    yield from real_pictures(content["pictures"])
    if content["study"]:
        yield content["study"]["plot"]
    if content["selection"] and content["selection"]["picture"]:
        yield content["selection"]["picture"]
