"""The dataset card of a report: how the images got their labels, a scorecard, limits, and what nobody measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundle.report.measured import cell, figure_anchor, is_figure, sections
from bundle.report.summary import COLOUR, FLAGGED, FRECHET, GREY, IDENTICAL, KERNEL

SECTIONS = {
    "fidelity": "fidelity and coverage: distances of features, precision, recall, diversity",
    "agreement": "agreement: whether an independent classifier sees the asked class, in colour and without",
    "stain": "stain: optical-density statistics against real images",
    "nuclei": "nuclei: counts and areas against real images",
    "copies": "copies: whether images are copies of training images",
}
UNREAD = "how the images look to a pathologist: no blinded reading was given, and no figure here stands for that"
NEVER = (
    "whether the images hold what matters for a diagnosis: rare findings, grades, borders of lesions",
    "other scanners, stains, hospitals, organs and patients than those of the real images they are compared with",
    "groups of patients: nothing is known of age, sex or origin, so no bias among them can be seen",
    "privacy in the legal sense: the test for copies finds near copies of images, not what can be inferred of people",
)
LIMITS = (
    "Not for diagnosis, and no ground truth: a label says what was asked for, not what a pathologist saw.",
    "A figure holds for the real images that it was measured against. As good as the floor means: not told apart from "
    "other real images of the same size by this measure, with this many images.",
    "Intervals cover other tiles of the same slides, not other slides; tiles of a slide resemble each other, so they "
    "are too narrow.",
    "Don't test a model on these images, and don't report figures of a model on them as if they were real.",
)
# The criteria of Zamzmi et al., "Scorecard for synthetic medical data evaluation" (Commun Eng 4:130, 2025), and the
# metrics here that speak to each; the questions are in our words.
CRITERIA = (
    ("Congruence", "Are the images distributed as real ones?", (FRECHET, KERNEL, "precision", "density")),
    ("Coverage", "Do they span the variety of real ones?", ("recall", "coverage", "vendi")),
    (
        "Constraint",
        "Do they keep to what tissue of the asked class can look like?",
        (GREY, COLOUR, "nuclei_count", "nuclei_area", "stain_frechet"),
    ),
    ("Compliance", "Are no real patients' images passed on in them?", (FLAGGED, IDENTICAL, "authentic")),
)
OTHER_CRITERIA = (
    ("Comprehension", "Is it clear how they were made?"),
    ("Consistency", "Do they hold their quality over groups, repetitions and time?"),
)


def scorecard(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a criterion that there is a figure for.

    Returns:
        each "name", "question", "text" and "figures" [(title, Cell)].
    """
    rows = []
    of_features = {f"fidelity{number}": name for number, name in enumerate(evaluation.get("fidelity", {}))}
    for name, question, metrics in CRITERIA:
        figures = []
        for section, found in sections(evaluation):
            overall = found.get("overall", {})
            for metric in metrics:
                if is_figure(overall.get(metric)):
                    title = found.get("metrics", {}).get(metric, {}).get("title") or metric.replace("_", " ")
                    if section in of_features and of_features[section] not in title:
                        title += f", {of_features[section]}"
                    figures.append((title, cell(overall[metric], figure_anchor(section, metric))))
        rows.append({"name": name, "question": question, "figures": figures, "text": ""})
    made = evaluation["synthetic"].get("images", {})
    asked = list(evaluation["compared"])
    have = [label for label in asked if made.get(label)]
    text = f"{len(have)} of {len(asked)} classes have images"
    if have:
        fewest, most = min(made[label] for label in have), max(made[label] for label in have)
        text += f", {fewest:,} each" if fewest == most else f", {fewest:,} to {most:,} each"
    row = {"name": "Completeness", "question": "Is every class there, with enough images?", "figures": [], "text": text}
    rows.insert(3, row)
    return [row for row in rows if row["figures"] or row["text"]]


def not_measured(
    evaluation: Mapping[str, Any],
    study: Mapping[str, Any] | None,
    scored: Sequence[Mapping[str, Any]],
    read: bool = False,
) -> list[str]:
    """What no figure of this report speaks of, the missing parts first; `read` says that it has a blinded reading."""
    found = [text for name, text in SECTIONS.items() if not evaluation.get(name)]
    if study is None:
        found.append("worth: what the images gain a classifier that is trained with them (no study was given)")
    names = {row["name"] for row in scored}
    found += [f"{name.lower()} ({question})" for name, question, _ in CRITERIA if name not in names]
    found += [f"{name.lower()} ({question})" for name, question in OTHER_CRITERIA]
    return [*found, *([] if read else [UNREAD]), *NEVER]


def how_labelled(evaluation: Mapping[str, Any], selection: Mapping[str, Any] | None) -> list[str]:
    """How the images got their labels, and which were kept."""
    found = ["The label of an image is the class it was asked for. No person checked it."]
    synthetic = evaluation["synthetic"]
    if "selection_file" in synthetic:
        found.append(
            f"The images are those of a selection, {synthetic.get('selection')}, at {synthetic.get('ratio')} % of the "
            f"labelled images ({synthetic['selection_file']})."
        )
    else:
        found.append("All images of the pool are judged, as they were made: no selection kept some and dropped others.")
    if selection is not None:
        rules = ", ".join(f"{name} {text}" for name, text in selection["facts"])
        found.append(f"The rules of the selection that is shown here: {rules}.")
    return found
