"""What answers say once the key is open: how often readers were right, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from bundle.metrics.kappa import fleiss_kappa
from bundle.reading.sealed import REAL, SYNTHETIC, THIRD

Row = Mapping[str, Any]  # an answer with "arm" and "asked", the class that was asked for or is the label
CHANCE = 0.5  # as many real as synthetic patches are shown


def share(rows: Sequence[Row], hit: Callable[[Row], bool]) -> dict[str, Any] | None:
    """How many of the rows are hits: "count", "of", "value" and the exact 95 % "interval" (Clopper-Pearson, 1934)."""
    if not rows:
        return None
    count = sum(map(hit, rows))
    interval = binomtest(count, len(rows)).proportion_ci(0.95, method="exact")
    ends = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return {"count": count, "of": len(rows), "value": round(count / len(rows), 4), "interval": ends}


def measure(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    """The figures of a reader, or of all of them.

    Accuracy, AUC and the test are of real and synthetic patches, without a third arm. An answer "can't say" has no
    part in what is right or wrong of real or synthetic, counts as 0 in the AUC, and as no agreement on the class.

    Returns:
        "answered", "unsure" and "seconds" (median of a patch); "accuracy" with "p", two-sided and exact, against
        `CHANCE`; "auc" of confidence, negative where "real" was said, and "auc_third"; "called_synthetic" {arm: {class:
        share}} and "agreement" {arm: {class: share}}, "overall" for all classes. None where nothing was answered.
    """
    arms = {arm: [row for row in rows if row["arm"] == arm] for arm in (REAL, SYNTHETIC, THIRD)}
    decided = [row for row in (*arms[REAL], *arms[SYNTHETIC]) if row["called"] != "unsure"]
    accuracy = share(decided, lambda row: row["called"] == row["arm"])
    if accuracy is not None:
        accuracy["p"] = float(f"{binomtest(accuracy['count'], accuracy['of'], CHANCE).pvalue:.3g}")
    return {
        "answered": len(rows),
        "unsure": sum(row["called"] == "unsure" for row in rows),
        "seconds": round(float(np.median([row["seconds"] for row in rows])), 1) if rows else None,
        "accuracy": accuracy,
        "auc": _auc(arms[REAL], arms[SYNTHETIC]),
        "auc_third": _auc(arms[REAL], arms[THIRD]),
        "called_synthetic": {
            arm: _by_class(
                [row for row in found if row["called"] != "unsure"], classes, lambda row: row["called"] == SYNTHETIC
            )
            for arm, found in arms.items()
        },
        "agreement": {
            arm: _by_class(found, classes, lambda row: row["class"] == row["asked"]) for arm, found in arms.items()
        },
    }


def _by_class(rows: Sequence[Row], classes: Sequence[str], hit: Callable[[Row], bool]) -> dict[str, Any]:
    of_classes = {name: share([row for row in rows if row["asked"] == name], hit) for name in classes}
    return {"overall": share(rows, hit), "classes": of_classes}


def _auc(real: Sequence[Row], made: Sequence[Row]) -> float | None:
    if not real or not made:
        return None
    sign = {"real": -1, "synthetic": 1, "unsure": 0}
    scores = [sign[row["called"]] * (row["confidence"] or 0) for row in (*real, *made)]
    return round(float(roc_auc_score([0] * len(real) + [1] * len(made), scores)), 4)


def agreement(readers: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Kappa on each question: Cohen's (1960) of each two readers, and Fleiss' of all where there are more.

    "Can't say" is a category. Only patches that all of those readers answered count.

    Returns:
        each "question" ("called" or "class"), "kind", "readers", "patches" and "kappa", None where all gave one answer.
    """
    found = []
    answers = {name: {row["picture"]: row for row in rows} for name, rows in readers.items()}
    groups: list[tuple[str, ...]] = list(combinations(answers, 2))
    groups += [tuple(answers)] if len(answers) > 2 else []
    for question in ("called", "class"):
        for group in groups:
            shared = sorted(set.intersection(*(set(answers[name]) for name in group)))
            given = [[str(answers[name][picture][question]) for picture in shared] for name in group]
            kappa = None
            if len({answer for one in given for answer in one}) > 1:  # else 0 / 0
                kappa = _cohen(*given) if len(group) == 2 else _fleiss(given)
            found.append(
                {
                    "question": question,
                    "kind": "Cohen" if len(group) == 2 else "Fleiss",
                    "readers": list(group),
                    "patches": len(shared),
                    "kappa": None if kappa is None else round(kappa, 4),
                }
            )
    return found


def _cohen(one: Sequence[str], other: Sequence[str]) -> float:
    return float(cohen_kappa_score(one, other))


def _fleiss(given: Sequence[Sequence[str]]) -> float | None:
    categories = sorted({answer for one in given for answer in one})
    return fleiss_kappa(np.array([[answers.count(name) for name in categories] for answers in zip(*given)]))


def pictures(rows: Sequence[Row], key: Mapping[str, Row]) -> list[dict[str, Any]]:
    """A row a patch: how its readers saw it, those first that most called synthetic.

    Returns:
        each "picture", "arm", "class", "file", "readers", "called_synthetic", "share", "other_class" (readers who named
        another class than was asked for), "seen" (the classes they named, most often first), "comments" [(reader,
        text)] and "marks" [[x, y]].
    """
    answered: dict[str, list[Row]] = {}
    for row in rows:
        answered.setdefault(row["picture"], []).append(row)
    found = []
    for picture, given in answered.items():
        facts = key[picture]
        seen = Counter(row["class"] for row in given if row["class"] is not None)
        called = sum(row["called"] == SYNTHETIC for row in given)
        found.append(
            {
                "picture": picture,
                "arm": facts["arm"],
                "class": facts["class"],
                "file": facts["file"],
                "sha256": facts["sha256"],
                "readers": len(given),
                "called_synthetic": called,
                "share": round(called / len(given), 4),
                "other_class": sum(count for name, count in seen.items() if name != facts["class"]),
                "seen": [name for name, _ in seen.most_common()],
                "comments": [[row["reader"], row["comment"]] for row in given if row["comment"]],
                "marks": [row["mark"] for row in given if row["mark"] is not None],
            }
        )
    return sorted(found, key=lambda one: (-one["share"], -one["called_synthetic"], one["arm"], one["file"]))


def rejected(found: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """The synthetic patches that more than half of their readers called synthetic or saw another class in, and why."""
    reasons = []
    for one in found:
        called, other = (2 * one[name] > one["readers"] for name in ("called_synthetic", "other_class"))
        if one["arm"] == SYNTHETIC and (called or other):
            told = ["called synthetic"] * called + [f"seen as {one['seen'][0] if one['seen'] else ''}"] * other
            reasons.append((one, ", ".join(told)))
    return reasons
