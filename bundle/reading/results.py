"""The result of a reading: the key is opened, and tables are written beside the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.hashes import pixel_hash
from bundle.data.sources import UnreadableImage, read_rgb
from bundle.reading.answers import read_answers
from bundle.reading.measures import agreement, measure, pictures, rejected
from bundle.reading.result_tables import FORMAT, RESULT, long_table, patch_table, tables, told
from bundle.reading.sealed import ANSWERS, SYNTHETIC, Sealed, read_key
from bundle.runs.files import write_json
from bundle.runs.tables import markdown_table, write_markdown, write_rows

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
            {
                **row,
                "reader": header["reader"],
                "arm": facts[row["picture"]]["arm"],
                "asked": facts[row["picture"]]["class"],
            }
            for row in answers
        ]
    notes = [*NOTES, *_unfinished(readers, len(sealed.pictures)), *_changed(key)]
    readers = {name: of for name, of in readers.items() if of}
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
        "notes": notes,
    }
    refused = rejected(found)
    folder = sealed.folder
    write_rows(folder / "result.csv", long_table(content))
    write_rows(folder / "patches.csv", patch_table(found))
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
    said = f"right in {told(accuracy)}, p {accuracy['p']:g}" if accuracy else "nobody said real or synthetic"
    return (
        f"{len(readers)} readers, {len(rows)} answers: {said}. Rejected synthetic patches: {len(refused)}. Results:\n"
        + "\n".join(f"  {folder / name}" for name in (RESULT, "result.md", "result.csv", "patches.csv", "rejected.csv"))
    )


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
        f"The pool {pool} was changed after the reading was prepared: {len(changed)} of the patches that were read, "
        f"such as {changed[0]}, are gone or have other pixels. The figures are of the patches as they were; a "
        "selection refuses the rows of rejected.csv that no longer fit."
    ]
