"""Items of CLAIM (2024 update) and TRIPOD+AI (2024) that files of a run can answer, with the answers.

Items are named by their numbers and by subjects in our words: look into the checklists themselves for what they ask.
CLAIM: Tejani et al., Radiology: Artificial Intelligence 6(4):e240300, 2024. TRIPOD+AI: Collins et al., BMJ 385:e078378,
2024. Items about people, ethics, funding and a journal's text no file of a run can answer; they are for the author.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bundle.report.evaluation_folder import told
from bundle.report.kit.methods import Claim
from bundle.report.kit.runs import Runs
from bundle.report.measured import all_figures, as_texts
from bundle.report.summary import FLAGGED, GREY
from bundle.report.verdict import verdict

NOT_RECORDED = "not recorded"
COLUMNS = ("checklist", "item", "subject", "answer", "source")
Answer = tuple[str, str]  # text, source


def answers(runs: Runs, claims: Mapping[str, Sequence[Claim]]) -> list[tuple[str, ...]]:
    """Rows of `COLUMNS`; an item whose file is missing is answered as not recorded.

    Args:
        runs: the runs of the paper.
        claims: of :func:`bundle.report.kit.methods.methods`.
    """
    rows = []
    for checklist, item, subject, find in ITEMS:
        found = [answer for answer in find(runs, claims) if answer[0]]
        text = " ".join(dict.fromkeys(answer for answer, _ in found))
        source = ", ".join(dict.fromkeys(name for _, name in found))
        rows.append((checklist, item, subject, text or NOT_RECORDED, source))
    return rows


def _of(*headings: str, having: str = "") -> Callable[[Runs, Mapping[str, Sequence[Claim]]], list[Answer]]:
    """The sentences of headings of the methods, those alone that hold one of the words of `having`, parted by "|"."""

    def find(runs: Runs, claims: Mapping[str, Sequence[Claim]]) -> list[Answer]:
        words = having.split("|")
        every = [claim for heading in headings for claim in claims.get(heading, ())]
        return [(claim.text, claim.source) for claim in every if any(word in claim.text for word in words)]

    return find


def _partitions(runs: Runs, claims: Any) -> list[Answer]:
    labelled, source = runs.labelled
    if "fingerprint" not in labelled:
        return []
    return [(f"The split is kept in split.csv; its fingerprint is {labelled['fingerprint'][:12]}.", source)]


def _settings(*names: str) -> Callable[[Runs, Any], list[Answer]]:
    def find(runs: Runs, claims: Any) -> list[Answer]:
        found = []
        for kind, run in runs.of.items():
            given = {
                name: run.config[name] for name in names if isinstance(run.config.get(name), (bool, int, float, str))
            }
            if given := {name: value for name, value in given.items() if not str(value).startswith(("$", "@"))}:
                found.append((f"{kind}: {told(given)}.", run.file("config.json")))
        return found

    return find


def _measures(runs: Runs, claims: Any) -> list[Answer]:
    titles = {
        found.get("metrics", {}).get(metric, {}).get("title", metric)
        for found in (*runs.evaluation.get("fidelity", {}).values(), *_sections(runs))
        for metric in found.get("overall", {})
    }
    return [(f"{', '.join(sorted(titles))}.", "evaluate/evaluation.json")] if titles else []


def _sections(runs: Runs) -> list[Mapping[str, Any]]:
    return [runs.evaluation[name] for name in ("agreement", "stain", "nuclei", "copies") if runs.evaluation.get(name)]


def _figure(metric: str, title: str) -> Callable[[Runs, Any], list[Answer]]:
    def find(runs: Runs, claims: Any) -> list[Answer]:
        found = []
        for _, label, name, figure in all_figures(runs.evaluation) if runs.evaluation else ():
            if name == metric and label is None:
                texts = as_texts(figure)
                text = f"{title}: {texts['value']}" + (f" ({texts['interval']})" if "interval" in texts else "")
                text += f", of real images {texts['floor']}" if "floor" in texts else ""
                found.append((f"{text}.", "evaluate/evaluation.json"))
        return found

    return find


def _weakest(runs: Runs, claims: Any) -> list[Answer]:
    if not runs.evaluation:
        return []
    return [(verdict(runs.evaluation, runs.built_in, "study" in runs.of)[1].text, "evaluate/evaluation.json")]


def _limits(runs: Runs, claims: Any) -> list[Answer]:
    if not runs.evaluation:
        return []
    return [(verdict(runs.evaluation, runs.built_in, "study" in runs.of)[2].text, "evaluate/evaluation.json")]


CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI"
DATA, EVALUATION = "Data", "Evaluation and statistics"
AGREES, COPIED = _figure(GREY, "agreement without colour"), _figure(FLAGGED, "flagged as copies")
ITEMS: tuple[tuple[str, str, str, Callable[[Runs, Any], list[Answer]]], ...] = (
    (CLAIM, "7", "where the data are from", _of(DATA, having="labelled patches")),
    (CLAIM, "9", "preprocessing", _settings("patch_size", "normalise_stain", "stain_copies", "latent_orientations")),
    (CLAIM, "10", "choice of parts of the data", _settings("labels_per_class", "label_fraction", "validation_share")),
    (CLAIM, "12", "missing and unreadable data", _settings("maximum_rejected_share", "maximum_blank_share")),
    (CLAIM, "18", "agreement between raters", lambda runs, claims: []),
    (CLAIM, "19", "how data were assigned to partitions", _partitions),
    (CLAIM, "20", "level at which partitions are apart", _of(DATA, having="slides that nothing")),
    (CLAIM, "21", "size of the samples", _of(DATA, having="They number|Pre-training used")),
    (CLAIM, "22", "the models", _of("Models")),
    (CLAIM, "23", "software", _of("Software and reproduction", having="Versions of")),
    (CLAIM, "24", "initial weights", _settings("pretrained_dir", "perceptual_network", "scorer_weights")),
    (CLAIM, "25", "training", _of("Training")),
    (CLAIM, "26", "how the final model was chosen", _of("Training", having="was kept")),
    (CLAIM, "28", "measures of performance", _measures),
    (CLAIM, "29", "uncertainty", _of(EVALUATION, having="intervals")),
    (CLAIM, "30", "robustness and sensitivity", _of("Worth to a classifier", having="seed")),
    (CLAIM, "32", "internal evaluation", _of(EVALUATION, having="were compared")),
    (CLAIM, "33", "external test data", lambda runs, claims: []),
    (CLAIM, "37", "performance", lambda runs, claims: [*AGREES(runs, claims), *COPIED(runs, claims)]),
    (CLAIM, "39", "where it fails", _weakest),
    (CLAIM, "40", "limits", _limits),
    (CLAIM, "43", "availability of software, weights and data", _of("Software and reproduction", having="(commit")),
    (TRIPOD, "5a", "sources of data", _of(DATA)),
    (TRIPOD, "7", "preparation of data", _settings("patch_size", "normalise_stain")),
    (TRIPOD, "10", "size of the samples", _of(DATA, having="They number|Pre-training used")),
    (TRIPOD, "11", "missing data", _settings("maximum_rejected_share", "maximum_blank_share")),
    (TRIPOD, "12a", "how data were used, partitions", _partitions),
    (TRIPOD, "12c", "kind of model, its building and choice", _of("Models", "Training")),
    (TRIPOD, "12e", "measures of performance", _measures),
    (TRIPOD, "12g", "how predictions are made", _of("Sampling")),
    (TRIPOD, "13", "imbalance of classes", _settings("balanced")),
    (TRIPOD, "14", "fairness among groups", lambda runs, claims: []),
    (TRIPOD, "16", "training data beside evaluation data", _of(EVALUATION, having="Note:")),
    (TRIPOD, "18f", "availability of code", _of("Software and reproduction", having="(commit")),
    (TRIPOD, "21", "numbers in each analysis", _of(EVALUATION, having="were compared")),
    (TRIPOD, "23a", "performance with intervals", lambda runs, claims: [*AGREES(runs, claims), *COPIED(runs, claims)]),
    (TRIPOD, "26", "limits", _limits),
)
