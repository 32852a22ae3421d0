"""Three plain sentences that a report begins with: usable for what, which class is weakest, what was not measured.

They follow from the figures by these rules, of which the first that holds is taken.

Usable for what:

1. Built-in patches: to try the software.
2. An image is a training image pixel for pixel, or more images are flagged as copies than the control has, beyond the
   intervals: for nothing before the pairs were looked at.
3. Agreement without colour was not measured: no use can be named.
4. Agreement without colour, as a share of its floor (the same of real images; of 1 where there is none), is at least
   `STRONG`: as extra training images.
5. It is at least `WEAK`: as candidates for selection.
6. Else: for looking at, and for developing methods.

Weakest is the class whose agreement without colour lacks most to its floor; where that was not measured, the one whose
kernel distance exceeds its floor most. What lacks nothing is not called weak, and what chance explains is said so.

Not measured are the sections that an evaluation lacks, the worth to a classifier without a study, a reading by experts
without one, and always other scanners and hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundle.report.measured import figure_anchor, is_figure, reading
from bundle.report.summary import FLAGGED, GREY, IDENTICAL, KERNEL, Sentence, by_class, listed, place, share

STRONG, WEAK = 0.9, 0.5  # of the floor
UNSEEN = "Not usable before the pairs were looked at"
SECTIONS = {
    "fidelity": "fidelity",
    "agreement": "agreement with the asked class",
    "stain": "stain",
    "nuclei": "nuclei",
    "copies": "copies of training images",
}


def verdict(evaluation: Mapping[str, Any], built_in: bool, studied: bool, read: bool = False) -> list[Sentence]:
    """The three sentences, each with the place in the page that it is said from.

    Args:
        evaluation: content of evaluation.json.
        built_in: whether its images are of built-in patches.
        studied: whether a study of their worth stands beside it.
        read: whether experts have read them.
    """
    return [_use(evaluation, built_in, studied), _weakest(evaluation), _not_measured(evaluation, studied, read)]


def _use(evaluation: Mapping[str, Any], built_in: bool, studied: bool) -> Sentence:
    if built_in:
        return Sentence("Usable to try the software: built-in patches are not tissue.", "made")
    copies = evaluation.get("copies", {}).get("overall", {})
    same, flagged = copies.get(IDENTICAL), copies.get(FLAGGED)
    if is_figure(same) and same["value"] > 0:
        text = f"{UNSEEN}: {same['value']:.0f} images are training images pixel for pixel."
        return Sentence(text, figure_anchor("copies", IDENTICAL))
    if is_figure(flagged) and reading(flagged) == "worse":
        text = f"{UNSEEN}: {share(flagged['value'])} of the images are flagged as copies of training images, of real "
        text += f"images {share(flagged['floor'])}."
        return Sentence(text, figure_anchor("copies", FLAGGED))
    found = evaluation.get("agreement", {}).get("overall", {}).get(GREY)
    if not is_figure(found):
        text = "No use can be named: whether the images show the class that was asked for was not measured."
        return Sentence(text, "agreement")
    floor = found.get("floor", 1.0)
    of_floor = found["value"] / floor if floor > 0 else 1.0
    shown = f"without colour the judge sees the asked class in {share(found['value'])} of them"
    shown += f", the right class in {share(floor)} of real images" if "floor" in found else ""
    if of_floor >= STRONG:
        gain = "the study shows" if studied else "only a study shows"
        text = f"Usable as extra training images: {shown}; what they gain a classifier {gain}."
    elif of_floor >= WEAK:
        text = f"Usable as candidates for selection, not as they are: {shown}."
    else:
        text = f"Usable for looking at and for developing methods, not for training: {shown}."
    return Sentence(text, figure_anchor("agreement", GREY))


def _weakest(evaluation: Mapping[str, Any]) -> Sentence:
    found = by_class(evaluation.get("agreement", {}), GREY)
    if found:
        lacks = {label: figure.get("floor", 1.0) - figure["value"] for label, figure in found.items()}
        section, metric, by = "agreement", GREY, "agreement without colour"
    else:
        distances = evaluation.get("fidelity", {})
        found = by_class(next(iter(distances.values()), {}), KERNEL)
        lacks = {label: figure["value"] - figure.get("floor", 0.0) for label, figure in found.items()}
        section, metric, by = "fidelity0", KERNEL, "kernel distance"
    if len(found) < 2:
        return Sentence("No class can be called the weakest: two or more were not measured one by one.", "figures")
    label = max(lacks, key=lacks.__getitem__)
    anchor, figure = figure_anchor(section, metric, place(evaluation, label)), found[label]
    if lacks[label] <= 0:
        return Sentence(f"By {by} no class falls behind its real images.", anchor)
    text = f"The weakest class, by {by}, is {label}"
    if metric == GREY:
        text += f": {share(figure['value'])} of its images"
        text += f", of real ones {share(figure['floor'])}" if "floor" in figure else ""
    return Sentence(f"{text}{', within what chance explains' if reading(figure) == 'alike' else ''}.", anchor)


def _not_measured(evaluation: Mapping[str, Any], studied: bool, read: bool) -> Sentence:
    missing = [title for name, title in SECTIONS.items() if not evaluation.get(name)]
    missing += [] if studied else ["the worth to a classifier"]
    missing += [] if read else ["what a pathologist sees"]
    return Sentence(f"Not measured: {listed([*missing, 'other scanners and hospitals'])}.", "not-measured")
