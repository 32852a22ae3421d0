"""The study's pages: table.md, table.html, results.csv, slides.csv and the label curve."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.downstream.proof.declaration import BEST, Declaration
from bundle.downstream.proof.rows import CONTROLS, SYNTHETIC
from bundle.downstream.proof.scoring import Scores
from bundle.downstream.proof.splits import Splits
from bundle.runs.folder import RunFolder
from bundle.runs.plots import save_lines
from bundle.runs.tables import html_table, markdown_table, write_csv, write_html, write_markdown

TITLE = "What synthetic images are worth beside the best control"
CURVE = "label_curve.png"
PRIMARY, EXPLORATORY = "primary", "exploratory"
Key = tuple[str, str]


def write_pages(
    folder: RunFolder, scores: Mapping[Key, Scores], declaration: Declaration, splits: Splits, notes: Sequence[str]
) -> None:
    """Writes all pages, of what has been measured so far.

    Args:
        folder: of the study.
        scores: by backbone and amount of labels.
        declaration: what was declared.
        splits: settings of draws and folds.
        notes: what a reader must know besides.
    """
    pages: dict[str, list[tuple[str, str]]] = {"md": [], "html": []}
    lines, slides = [], []
    for (backbone, amount), found in scores.items():
        rows = [line(found, name, declaration, (backbone, amount)) for name in found.measured]
        slides += slide_lines(found, declaration, (backbone, amount))
        lines += rows
        title = f"{backbone}, {labels_in_words(amount)}"
        shown = [[show(row, column) for column in header(found, splits, amount)] for row in rows]
        pages["md"].append((title, markdown_table(header(found, splits, amount), shown)))
        pages["html"].append((title, html_table(header(found, splits, amount), shown)))
    write_csv(folder / "results.csv", [flat(row) for row in lines])
    write_csv(folder / "slides.csv", slides)
    if plot_curve(folder, scores, declaration, splits):
        picture = base64.b64encode((folder / CURVE).read_bytes()).decode()
        pages["html"].append(("Label curve", f'<img src="data:image/png;base64,{picture}" alt="label curve">'))
    told = [*primary_note(scores, declaration), *explain(scores, splits), *notes]
    write_markdown(folder / "table.md", TITLE, pages["md"], told)
    write_html(folder / "table.html", TITLE, pages["html"], told)


def labels_in_words(amount: str) -> str:
    return f"{amount} labels a class" if amount.isdigit() else f"labels: {amount}"


def header(scores: Scores, splits: Splits, amount: str) -> list[str]:
    """Columns of a table."""
    parts = [part for part in dict.fromkeys(scores.tiles.parts[scores.new])]
    columns = ["row", "accuracy", "gain over the best control", "slides better : worse (p)"]
    columns += ["recall of " + str(splits.rare_class)] if not amount.isdigit() else []
    columns += ["mean over classes", "mean over slides", *(parts if len(parts) > 1 else [])]
    return [*columns, "synthetic images", "runs", "status"]


def line(scores: Scores, name: str, declaration: Declaration, key: Key) -> dict[str, Any]:
    """All figures of one row, by column."""
    found = scores.measured[name]
    best = scores.best(CONTROLS)
    is_primary = declaration.is_primary(*key, name)
    against = best
    if is_primary and declaration.primary["against"] != BEST:
        against = declaration.primary["against"]
    title = found.row.title + (" (transductive)" if found.row.transductive else "")
    result: dict[str, Any] = {"backbone": key[0], "labels": key[1], "name": name, "row": title, "kind": found.row.kind}
    result |= {"base": scores.base if found.row.kind == SYNTHETIC else "", "against": against or ""}
    result |= {"synthetic images": f"{found.synthetic:.0f}", "runs": f"{found.runs} of {found.planned}"}
    result["status"] = PRIMARY if is_primary else EXPLORATORY
    result["labels more"] = found.helped
    if found.helped != 0:
        more = "not known" if found.helped is None else found.helped
        result["status"] += f"; its generator's further labels: {more}"
    result["accuracy, slides with labels too"] = scores.value(name, scores.tested)
    if best is None:
        return result
    result["accuracy"] = scores.accuracy(name)
    result["mean over classes"], result["mean over slides"] = scores.balanced(name), scores.slide_mean(name)
    if name == against:
        result["gain over the best control"] = "the best control"
    else:
        result["gain over the best control"] = scores.gain(name, against)
        better, worse, chance = scores.signs(name, against)
        result["slides better : worse (p)"] = f"{better} : {worse} ({chance:.2g})"
    for part in dict.fromkeys(scores.tiles.parts[scores.new]):
        result[str(part)] = scores.value(name, scores.places(part))
    for part in dict.fromkeys(scores.tiles.parts[scores.tested]):
        own = scores.tested[scores.tiles.parts[scores.tested] == part]
        result[f"{part}, slides with labels too"] = scores.value(name, own)
    for label in scores.tiles.classes:
        result[f"recall of {label}"] = scores.recall(name, label)
    return result


def show(row: Mapping[str, Any], column: str) -> str:
    """A cell."""
    value = row.get(column, "")
    if hasattr(value, "points"):
        return value.points() if column.startswith("gain") else str(value)
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of results.csv: intervals in three columns."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if hasattr(value, "points"):
            found |= {name: value.value, f"{name}, low": value.low, f"{name}, high": value.high}
        else:
            found[name] = value
    return found


def slide_lines(scores: Scores, declaration: Declaration, key: Key) -> list[dict[str, Any]]:
    """Lines of slides.csv."""
    return [{"backbone": key[0], "labels": key[1], **found} for found in scores.by_slide(list(scores.measured))]


def primary_note(scores: Mapping[Key, Scores], declaration: Declaration) -> list[str]:
    """The declared contrast in a sentence."""
    if declaration.primary is None:
        return ["No primary contrast was declared before this was measured: every row is exploratory."]
    primary = declaration.primary
    said = f"Declared {declaration.declared_at}: {primary['row']} against {primary['against']}, {primary['backbone']}, "
    said += f"{labels_in_words(primary['labels'])}"
    found = scores.get((primary["backbone"], primary["labels"]))
    if found is None or primary["row"] not in found.measured:
        notes = [f"{said}: not measured yet."]
    else:
        row = line(found, primary["row"], declaration, (primary["backbone"], primary["labels"]))
        gain = row.get("gain over the best control")
        reached = "above 0" if gain and gain.above_zero else "not above 0"
        helped = found.measured[primary["row"]].helped
        notes = [
            (
                f"{said}: {gain.points()} points over {row['against']}, interval {reached}."
                if gain
                else f"{said}: no new slide."
            )
        ]
        notes += ["The generator of the primary row saw other labels than its control had: see its status."] * (
            helped != 0
        )
    chosen = "; ".join(declaration.chosen)
    return [*notes, f"Chosen on development slides: {chosen}." if chosen else "No setting is said to be chosen here."]


def explain(scores: Mapping[Key, Scores], splits: Splits) -> list[str]:
    """What the figures mean."""
    first = next(iter(scores.values()))
    notes = [
        f"Accuracy is over tiles of slides that gave no label, {len(first.new)} tiles of "
        f"{len(set(first.tiles.slides[first.new]))} slides; {splits.draws} draws of labels, "
        + (f"{splits.folds} folds of slides." if splits.folds > 1 else "one fold."),
        "In brackets 95 % of a bootstrap of draws, then slides, then tiles within slides. Rows are paired by draw and "
        "tile. p is of a two-sided sign test over slides.",
        "The best control is the one with the highest accuracy on these very tiles, of those with the same labels: a "
        "gain over it is rather too small than too large. A synthetic row has the copies and settings of the best "
        "baseline: " + "; ".join(f"{key[0]}, {key[1]}: {found.base or 'none'}" for key, found in scores.items()) + ".",
    ]
    if any(row.helped != 0 for found in scores.values() for row in found.measured.values()):
        notes.append(
            "Further labels: what the generator of a row's pool saw and the row's controls did not. Such a row is no "
            "fair comparison: adapt a generator with the labels of each split (run write_splits), and give pools by "
            "{labels}, {fold} and {draw}."
        )
    for part, classes in first.excluded().items():
        notes.append(
            f"Left out of every headline, since their slide in {part} gave labels too: tiles of {', '.join(classes)}. "
            "results.csv has the accuracy with them."
        )
    return notes


def plot_curve(folder: RunFolder, scores: Mapping[Key, Scores], declaration: Declaration, splits: Splits) -> bool:
    """Accuracy against labels with bands: real tiles alone, the best control, and with synthetic images."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    bands: dict[str, tuple[list[float], list[float]]] = {}
    for (backbone, amount), found in scores.items():
        best = found.best(CONTROLS)
        if not amount.isdigit() or best is None:
            continue
        named = {"real": "labelled tiles alone", best: "best control"} if best != "real" else {best: "best control"}
        declared = declaration.primary["row"] if declaration.primary else None
        synthetic = declared if declared in found.measured else found.best([SYNTHETIC])
        if synthetic is not None:
            named[synthetic] = synthetic if declared else "best synthetic row, chosen on these tiles"
        for name, title in named.items():
            if name not in found.measured:
                continue
            value = found.accuracy(name)
            label = f"{backbone}: {title}"
            x, y = lines.setdefault(label, ([], []))
            x.append(int(amount))
            y.append(value.value)
            low, high = bands.setdefault(label, ([], []))
            low.append(value.value if value.low is None else value.low)
            high.append(value.value if value.high is None else value.high)
    if lines:
        save_lines(folder / CURVE, lines, ("labels a class", "accuracy on new slides"), bands=bands)
    return bool(lines)
