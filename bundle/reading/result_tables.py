"""The result of a reading as tables: for people, and as rows of one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundle.reading.sealed import REAL, SYNTHETIC, THIRD

FORMAT = "histodiffusion-reading-result/1"
RESULT = "result.json"
ALL = "all readers"
SHOWN = 30  # patches in the table of those that gave themselves away
QUESTIONS = {"called": "real or synthetic", "class": "class"}
ARM_NAMES = {REAL: "real", SYNTHETIC: "synthetic", THIRD: "third arm"}


def tables(content: Mapping[str, Any]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """The tables of a result as people read them: (title, header, rows)."""
    groups = [*content["readers"].items(), (ALL, content["pooled"])]
    third = content["pooled"]["called_synthetic"][THIRD]["overall"] is not None
    header = ["reader", "answered", "can't say", "right", "p", "AUC", "real called synthetic", "synthetic called so"]
    header += ["third arm called synthetic", "its AUC"] if third else []
    header += ["class, real", "class, synthetic", *(["class, third arm"] if third else []), "seconds a patch"]
    arms = [REAL, SYNTHETIC, *([THIRD] if third else [])]
    lines = []
    for name, found in groups:
        line = [name, f"{found['answered']}", f"{found['unsure']}", told(found["accuracy"])]
        line += [f"{found['accuracy']['p']:g}" if found["accuracy"] else "-", plain(found["auc"])]
        line += [told(found["called_synthetic"][arm]["overall"]) for arm in arms]
        line += [plain(found["auc_third"])] if third else []
        line += [told(found["agreement"][arm]["overall"]) for arm in arms]
        lines.append([*line, plain(found["seconds"])])
    pooled = content["pooled"]
    by_class = [
        [name, *(told(pooled["called_synthetic"][arm]["classes"][name]) for arm in arms[1:])]
        + [told(pooled["agreement"][arm]["classes"][name]) for arm in arms]
        for name in content["classes"]
    ]
    class_header = ["class", *(f"{ARM_NAMES[arm]} called synthetic" for arm in arms[1:])]
    class_header += [f"class seen, {ARM_NAMES[arm]}" for arm in arms]
    between = [
        [QUESTIONS[one["question"]], f"{one['kind']}: {', '.join(one['readers'])}", f"{one['patches']}"]
        + [plain(one["kappa"])]
        for one in content["between"]
    ]
    given_away = [
        [one["file"], ARM_NAMES[one["arm"]], one["class"], f"{one['called_synthetic']} of {one['readers']}"]
        + [", ".join(one["seen"]), " / ".join(f"{reader}: {text}" for reader, text in one["comments"])]
        for one in content["patches"]
        if one["arm"] != REAL and one["called_synthetic"]
    ]
    return [
        ("Readers", header, lines),
        ("Classes, all readers", class_header, by_class),
        ("Agreement between readers (kappa)", ["question", "readers", "patches", "kappa"], between),
        (
            f"Patches that gave themselves away, {min(SHOWN, len(given_away))} of {len(given_away)}",
            ["patch", "arm", "class", "called synthetic by", "seen as", "comments"],
            given_away[:SHOWN],
        ),
    ]


def long_table(content: Mapping[str, Any]) -> list[list[Any]]:
    """The figures of a result as rows of one form, the header first."""
    found: list[list[Any]] = [["reader", "figure", "arm", "class", "value", "low", "high", "count", "of", "p"]]

    def add(reader: str, name: str, arm: str, label: str, share: Mapping[str, Any] | None) -> None:
        if share is not None:
            cells = [share["value"], *share["interval"], share["count"], share["of"], share.get("p", "")]
            found.append([reader, name, arm, label, *cells])

    for reader, figures in [*content["readers"].items(), (ALL, content["pooled"])]:
        for name in ("answered", "unsure", "seconds", "auc", "auc_third"):
            if figures[name] is not None:
                found.append([reader, name, "", "", figures[name], *[""] * 5])
        add(reader, "accuracy", "", "", figures["accuracy"])
        for name in ("called_synthetic", "agreement"):
            for arm, of in figures[name].items():
                add(reader, name, arm, "", of["overall"])
                for label, share in of["classes"].items():
                    add(reader, name, arm, label, share)
    for one in content["between"]:
        if one["kappa"] is not None:
            readers, name = " and ".join(one["readers"]), f"kappa_{one['kind'].lower()}_{one['question']}"
            found.append([readers, name, "", "", one["kappa"], "", "", "", one["patches"], ""])
    return found


def patch_table(found: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    columns = ["picture", "arm", "class", "file", "readers", "called_synthetic", "share", "other_class"]
    lines = [
        [*(one[name] for name in columns), " ".join(one["seen"])]
        + [" ".join(f"{x:g},{y:g}" for x, y in one["marks"])]
        + ["\n".join(f"{reader}: {text}" for reader, text in one["comments"])]
        for one in found
    ]
    return [[*columns, "seen", "marks", "comments"], *lines]


def told(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{share['value']:.3f} ({low:.3f} to {high:.3f}; {share['count']} of {share['of']})"


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
