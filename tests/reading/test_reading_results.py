"""The result of a reading, against figures worked out by hand; names and comments stay text."""

import csv
import json

import pytest
from candidates import CLASSES, SIDE
from readings import prepare, read_all, write_arms
from scipy.stats import beta, binom

from bundle.reading.answers import AnswerFile
from bundle.reading.measures import agreement, measure, pictures, rejected, share
from bundle.reading.results import write_results
from bundle.reading.sealed import key_folder
from bundle.report.blinded_reading import read_reading
from bundle.runs.tables import read_csv
from bundle.selection.exclusion import read_exclusion
from bundle.synthesis.stored_pool import StoredPool

HOSTILE = "=1+1 | <script>alert(1)</script> ../../key.json\n# heading"


def row(picture, arm, called, confidence=3, asked="ADI", seen="ADI", seconds=2.0, reader="A"):
    confidence = None if called == "unsure" else confidence
    given = {"picture": picture, "arm": arm, "called": called, "confidence": confidence, "asked": asked}
    return {**given, "class": seen, "seconds": seconds, "reader": reader, "comment": "", "mark": None}


def test_intervals_are_those_of_clopper_and_pearson():
    found = share([True] * 7 + [False] * 3, bool)
    assert found["value"] == 0.7 and (found["count"], found["of"]) == (7, 10)
    assert found["interval"] == [round(beta.ppf(0.025, 7, 4), 4), round(beta.ppf(0.975, 8, 3), 4)]
    assert share([False] * 10, bool)["interval"] == [0.0, 0.3085] and share([], bool) is None


def test_figures_of_a_reader_by_hand():
    rows = [
        row("a", "real", "real", 5),
        row("b", "real", "synthetic", 1, asked="TUM", seen="ADI"),
        row("c", "real", "unsure", seen=None),
        row("d", "synthetic", "synthetic", 4, seconds=9),
        row("e", "synthetic", "synthetic", 2, asked="TUM", seen="TUM"),
        row("f", "synthetic", "real", 3, asked="TUM", seen=None),
        row("g", "third", "synthetic", 5),
    ]
    found = measure(rows, ["ADI", "TUM"])
    assert (found["answered"], found["unsure"], found["seconds"]) == (7, 1, 2.0)
    assert (found["accuracy"]["count"], found["accuracy"]["of"]) == (3, 5)
    assert found["accuracy"]["p"] == 1.0  # 3 of 5 against a half
    # Scores: real -5, 1, 0; synthetic 4, 2, -3. Pairs in order: 3 + 3 + 1 of 9.
    assert found["auc"] == round(7 / 9, 4) and found["auc_third"] == 1.0
    called = found["called_synthetic"]["synthetic"]
    assert (called["overall"]["count"], called["overall"]["of"]) == (2, 3)
    assert (called["classes"]["TUM"]["count"], called["classes"]["TUM"]["of"]) == (1, 2)
    assert found["called_synthetic"]["real"]["overall"]["value"] == 0.5  # can't say is neither
    assert found["agreement"]["real"]["overall"]["count"] == 1 and found["agreement"]["real"]["overall"]["of"] == 3
    assert found["agreement"]["synthetic"]["classes"]["TUM"]["value"] == 0.5
    assert found["called_synthetic"]["third"]["overall"]["value"] == 1.0


def test_the_test_against_chance_is_exact():
    rows = [row(str(place), "real", "real" if place < 15 else "synthetic") for place in range(20)]
    assert measure(rows, ["ADI"])["accuracy"]["p"] == float(f"{2 * binom.sf(14, 20, 0.5):.3g}")


def test_nobody_who_decided_has_no_accuracy():
    found = measure([row("a", "real", "unsure"), row("b", "synthetic", "unsure")], ["ADI"])
    assert found["accuracy"] is None and found["auc"] == 0.5
    assert measure([], ["ADI"])["seconds"] is None


def test_kappa_of_each_two_and_of_all():
    def of(reader, calls):
        return [row(str(place), "real", called, reader=reader) for place, called in enumerate(calls)]

    real, made = "real", "synthetic"
    readers = {"A": of("A", [real, real, made, made]), "B": of("B", [real, made, made, made])}
    found = {(one["question"], one["kind"]): one for one in agreement(readers)}
    assert found["called", "Cohen"]["kappa"] == 0.5 and found["called", "Cohen"]["patches"] == 4
    assert found["class", "Cohen"]["kappa"] is None, "all gave one answer, so chance agrees, too"
    readers["C"] = of("C", [real, made, made])  # has not finished
    kinds = [(one["question"], one["kind"], one["patches"]) for one in agreement(readers)]
    assert kinds.count(("called", "Fleiss", 3)) == 1 and kinds.count(("called", "Cohen", 4)) == 1 and len(kinds) == 8
    fleiss = next(one for one in agreement(readers) if one["kind"] == "Fleiss")
    # Patches: 3-0, 1-2, 0-3; observed (1 + 1/3 + 1) / 3, chance (4/9)² + (5/9)².
    assert fleiss["kappa"] == round((7 / 9 - 41 / 81) / (1 - 41 / 81), 4)
    assert agreement({"A": readers["A"]}) == []


def test_those_are_rejected_that_most_readers_rejected():
    key = {name: {"arm": "synthetic", "class": "ADI", "file": name, "sha256": ""} for name in "abc"}
    key["d"] = {**key["a"], "arm": "real", "file": "d"}
    rows = [
        row("a", "synthetic", called, reader=name) for name, called in zip("ABC", ("synthetic", "synthetic", "real"))
    ]
    rows += [row("b", "synthetic", "real", seen=seen, reader=name) for name, seen in zip("ABC", ("TUM", "TUM", None))]
    rows += [row("c", "synthetic", called, reader=name) for name, called in zip("AB", ("synthetic", "real"))]
    rows += [row("d", "real", "synthetic")]
    found = pictures(rows, key)
    assert [(one["file"], one["share"]) for one in found] == [("d", 1.0), ("a", 0.6667), ("c", 0.5), ("b", 0.0)]
    assert [(one["file"], why) for one, why in rejected(found)] == [("a", "called synthetic"), ("b", "seen as TUM")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of two readers: A knows all, B calls all real, sees the right class and comments on each."""
    folder = write_arms(tmp_path_factory.mktemp("arms"))
    sealed = prepare(folder)
    key = json.loads((folder / "reading_key" / "key.json").read_text())["pictures"]
    read_all(sealed, "A", lambda name: {"called": key[name]["arm"], "seen": key[name]["class"], "confidence": 5})
    read_all(sealed, "<b>B|</b>", lambda name: {"seen": key[name]["class"], "comment": HOSTILE, "mark": [0.5, 0.25]})
    write_results(sealed, key_folder(sealed.folder))
    return folder


def test_the_result_of_two_readers(folder):
    content = json.loads((folder / "reading" / "result.json").read_text())
    a, b = content["readers"]["A"], content["readers"]["<b>B|</b>"]
    assert (a["accuracy"]["value"], a["auc"], a["accuracy"]["p"]) == (1.0, 1.0, 0.000488)
    assert (b["accuracy"]["value"], b["auc"], b["called_synthetic"]["synthetic"]["overall"]["count"]) == (0.5, 0.5, 0)
    assert content["pooled"]["accuracy"]["value"] == 0.75 and content["total"] == 12
    assert {one["question"]: one["kappa"] for one in content["between"]} == {"called": 0.0, "class": 1.0}
    assert not [note for note in content["notes"] if "has answered" in note or "was changed" in note]


def test_names_and_comments_stay_text(folder):
    raw = (folder / "reading" / "patches.csv").read_text()
    told = [line["comments"] for line in read_csv(folder / "reading" / "patches.csv")]
    assert told == [f"<b>B|</b>: {HOSTILE}"] * 12 and "\n=1+1" not in raw
    text = (folder / "reading" / "result.md").read_text()
    assert r"\<b\>B\|\</b\>" in text and r"\<script\>" in text and "<script>" not in text and "\n# heading" not in text
    readers = {line["reader"] for line in read_csv(folder / "reading" / "result.csv")}
    assert readers == {"A", "<b>B|</b>", "all readers", "A and <b>B|</b>"}


def test_the_report_reads_the_result(folder, tmp_path):
    found = read_reading(folder / "reading")
    titles = [title for title, *_ in found["tables"]]
    assert titles[0] == "Readers" and titles[-1] == "Patches that gave themselves away, 6 of 6"
    assert [line[0] for line in found["tables"][0][2]] == ["A", "<b>B|</b>", "all readers"]
    with pytest.raises(FileNotFoundError, match="has no result of a reading. Make it .*scripts/read.py"):
        read_reading(tmp_path)
    for text, message in (("{}", "KeyError"), ('{"format": "x"}', "its format is 'x'"), ("[]", "not an object")):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_reading(tmp_path)


def test_nothing_is_told_twice_and_equal_answers_give_equal_files(folder):
    names = ("result.json", "result.md", "result.csv", "patches.csv", "rejected.csv")
    before = [(folder / "reading" / name).read_bytes() for name in names]
    sealed = prepare(folder)
    assert "2 readers, 24 answers: right in 0.750" in write_results(sealed, folder / "reading_key")
    assert before == [(folder / "reading" / name).read_bytes() for name in names]


def test_rejected_patches_can_be_excluded(folder):
    """A alone called them synthetic, so none by more than half of two; then by A alone, all."""
    pool = StoredPool(folder / "pool", SIDE)
    path = folder / "reading" / "rejected.csv"
    assert read_exclusion(path, pool) == set()
    other = next((folder / "reading" / "answers").glob("_b_*"))
    other.rename(folder / "aside")
    assert "Rejected synthetic patches: 6" in write_results(prepare(folder), folder / "reading_key")
    found = read_exclusion(path, pool)
    (folder / "aside").rename(other)
    assert len(found) == 6 and {name.split("/")[0] for name in found} == set(CLASSES)
    with open(path, newline="") as file:
        assert next(csv.reader(file))[:4] == ["file", "class", "pool_hash", "sha256"]


def test_what_was_not_finished_and_a_pool_that_changed_are_noted(tmp_path):
    folder = write_arms(tmp_path)
    sealed = prepare(folder)
    with pytest.raises(FileNotFoundError, match="has no answer yet: read first"):
        write_results(sealed, folder / "reading_key")
    AnswerFile(sealed, "who only opened the page")
    file = read_all(sealed, "A", lambda name: {})
    lines = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(b"".join(lines[:5]))
    key = json.loads((folder / "reading_key" / "key.json").read_text())["pictures"]
    made = next(one for one in key.values() if one["arm"] == "synthetic")
    (folder / "pool" / made["file"]).unlink()
    write_results(sealed, folder / "reading_key")
    content = json.loads((sealed.folder / "result.json").read_text())
    notes = content["notes"]
    assert list(content["readers"]) == ["A"] and content["between"] == []
    assert any(note.startswith("who only opened the page has answered 0 of 12") for note in notes)
    assert any(note.startswith("A has answered 4 of 12 patches. The key is open now") for note in notes)
    assert any(f"1 of the patches that were read, such as {made['file']}" in note for note in notes)
    file.path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(ValueError, match="line 4: it is not as it was written"):
        write_results(sealed, folder / "reading_key")
    with pytest.raises(FileNotFoundError, match="name the folder of the key with --key_dir"):
        write_results(sealed, folder)
