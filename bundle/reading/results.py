"""The result of a reading: the key is opened, and tables are written beside the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.hashes import pixel_hash
from bundle.data.sources import UnreadableImage, read_rgb
from bundle.reading.answers import read_answers
from bundle.reading.measures import agreement, measure, pictures, rejected
from bundle.reading.sealed import ANSWERS, REAL, SYNTHETIC, THIRD, Sealed, read_key
from bundle.runs.files import write_json
from bundle.runs.tables import markdown_table, write_markdown, write_rows

FORMAT = "histodiffusion-reading-result/1"
RESULT = "result.json"
SHOWN = 30  # patches in the table of those that gave themselves away
QUESTIONS = {"called": "real or synthetic", "class": "class"}
ARM_NAMES = {REAL: "real", SYNTHETIC: "synthetic", THIRD: "third arm"}
NOTES = (
    "Accuracy, its test and the AUC are of real and synthetic patches alone; answers that can't say are left out of "
    "accuracy and count as 0 in the AUC. Chance is 0.5, as both are shown equally often.",
    "On the class, an answer that can't say is no agreement, for real and synthetic patches alike.",
    "Intervals are exact (Clopper-Pearson, 95 %). Pooled ones take all answers as independent, and readers who saw the "
    "same patches are not: they are too narrow.",
)


def write_results(sealed: Sealed, key_dir: Path) -> str:
    """Writes `result.json`, `result.md`, `result.csv`, `patches.csv` and `rejected.csv` into the reading's folder.

    Args:
        sealed: the reading.
        key_dir: where its key is.

    Returns:
        a summary to be printed.

    Raises:
        FileNotFoundError: no key, or nobody has answered.
        ValueError: key or answers are not as they were written; names file and line.
    """
    key = read_key(key_dir, sealed.key_sha256)
    readers: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((sealed.folder / ANSWERS).glob("*.jsonl")):
        header, answers, _ = read_answers(path, sealed)
        if header["reader"] in readers:
            raise ValueError(f"{path} is a second file of {header['reader']!r}: move one of the two elsewhere")
        facts = key["pictures"]
        readers[header["reader"]] = [
            {**row, "reader": header["reader"], "arm": facts[row["picture"]]["arm"], "asked": facts[row["picture"]]["class"]}
            for row in answers
        ]
    rows = [row for of in readers.values() for row in of]
    if not rows:
        raise FileNotFoundError(
            f"{sealed.folder / ANSWERS} has no answer yet: read first (python scripts/read.py {sealed.folder})"
        )
    found = pictures(rows, key["pictures"])
    content = {
        "format": FORMAT,
        "reading": sealed.sha256,
        "key_sha256": sealed.key_sha256,
        "settings": key["settings"],
        "arms": key["arms"],
        "classes": sealed.classes,
        "total": len(sealed.pictures),
        "readers": {name: measure(of, sealed.classes) for name, of in readers.items()},
        "pooled": measure(rows, sealed.classes),
        "between": agreement(readers),
        "patches": found,
        "notes": [*NOTES, *_unfinished(readers, len(sealed.pictures)), *_changed(key)],
    }
    refused = rejected(found)
    folder = sealed.folder
    write_rows(folder / "result.csv", long_table(content))
    write_rows(folder / "patches.csv", _patch_table(found))
    header = ("file", "class", "pool_hash", "sha256", "readers", "called_synthetic", "other_class", "reason")
    cells = [
        (one["file"], one["class"], key["settings"]["pool_hash"], one["sha256"], one["readers"])
        + (one["called_synthetic"], one["other_class"], reason)
        for one, reason in refused
    ]
    write_rows(folder / "rejected.csv", [header, *cells])
    sections = [(name, markdown_table(head, lines)) for name, head, lines in tables(content) if lines]
    write_markdown(folder / "result.md", "Blinded reading", sections, content["notes"])
    write_json(folder / RESULT, content)
    accuracy = content["pooled"]["accuracy"]
    told = f"right in {_told(accuracy)}, p {accuracy['p']:g}" if accuracy else "nobody said real or synthetic"
    return (
        f"{len(readers)} readers, {len(rows)} answers: {told}. Rejected synthetic patches: {len(refused)}. Results:\n"
        + "\n".join(f"  {folder / name}" for name in (RESULT, "result.md", "result.csv", "patches.csv", "rejected.csv"))
    )


def tables(content: Mapping[str, Any]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """The tables of a result as people read them: (title, header, rows)."""
    groups = {**content["readers"], "all": content["pooled"]}
    third = content["pooled"]["called_synthetic"][THIRD]["overall"] is not None
    header = ["reader", "answered", "can't say", "right", "p", "AUC", "real called synthetic", "synthetic called so"]
    header += ["third arm called synthetic", "its AUC"] if third else []
    header += ["class, real", "class, synthetic", *(["class, third arm"] if third else []), "seconds a patch"]
    arms = [REAL, SYNTHETIC, *([THIRD] if third else [])]
    lines = []
    for name, found in groups.items():
        line = [name, f"{found['answered']}", f"{found['unsure']}", _told(found["accuracy"])]
        line += [f"{found['accuracy']['p']:g}" if found["accuracy"] else "-", _plain(found["auc"])]
        line += [_told(found["called_synthetic"][arm]["overall"]) for arm in arms]
        line += [_plain(found["auc_third"])] if third else []
        line += [_told(found["agreement"][arm]["overall"]) for arm in arms]
        lines.append([*line, _plain(found["seconds"])])
    pooled = content["pooled"]
    by_class = [
        [name, *(_told(pooled["called_synthetic"][arm]["classes"][name]) for arm in arms[1:])]
        + [_told(pooled["agreement"][arm]["classes"][name]) for arm in arms]
        for name in content["classes"]
    ]
    class_header = ["class", *(f"{ARM_NAMES[arm]} called synthetic" for arm in arms[1:])]
    class_header += [f"class seen, {ARM_NAMES[arm]}" for arm in arms]
    between = [
        [QUESTIONS[one["question"]], f"{one['kind']}: {', '.join(one['readers'])}", f"{one['patches']}"]
        + [_plain(one["kappa"])]
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

    for reader, figures in {**content["readers"], "all": content["pooled"]}.items():
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


def _patch_table(found: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    columns = ["picture", "arm", "class", "file", "readers", "called_synthetic", "share", "other_class"]
    lines = [
        [*(one[name] for name in columns), " ".join(one["seen"])]
        + [" ".join(f"{x:g},{y:g}" for x, y in one["marks"])]
        + ["\n".join(f"{reader}: {text}" for reader, text in one["comments"])]
        for one in found
    ]
    return [[*columns, "seen", "marks", "comments"], *lines]


def _unfinished(readers: Mapping[str, Sequence[Any]], total: int) -> list[str]:
    return [
        f"{name} has answered {len(rows)} of {total} patches. The key is open now: answers given after this are blind "
        "only if nobody looked."
        for name, rows in readers.items()
        if len(rows) < total
    ]


def _changed(key: Mapping[str, Any]) -> list[str]:
    """A note on a pool that is another than the one that was read."""
    pool = Path(key["pool"])
    if not pool.is_dir():
        return [f"The pool {pool} is not there any more, so whether it was changed could not be seen."]
    changed = []
    for one in key["pictures"].values():
        if one["arm"] == SYNTHETIC:
            try:
                same = pixel_hash(read_rgb(str(pool), one["file"])) == one["sha256"]
            except (FileNotFoundError, UnreadableImage):
                same = False
            changed += [] if same else [one["file"]]
    if not changed:
        return []
    return [
        f"The pool {pool} was changed after the reading was prepared: {len(changed)} of the patches that were read, such "
        f"as {changed[0]}, are gone or have other pixels. The figures are of the patches as they were; a selection "
        "refuses the rows of rejected.csv that no longer fit."
    ]


def _told(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{share['value']:.3f} ({low:.3f} to {high:.3f}; {share['count']} of {share['of']})"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
