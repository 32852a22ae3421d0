"""Answers: none is lost, an edited file is noticed, and what can't be an answer is refused."""

import json
import os

import pytest
from readings import answer, prepare, read_all, write_arms

from bundle.reading import answers as module
from bundle.reading.answers import AnswerFile, check_answer, read_answers, reader_name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepare(write_arms(tmp_path_factory.mktemp("arms")))


@pytest.fixture
def sealed(made):
    yield made
    for path in (made.folder / "answers").glob("*"):
        path.unlink()


def three(sealed, name="A"):
    file = AnswerFile(sealed, name)
    for _ in range(3):
        file.add(answer(file.next))
    return file


def test_answers_are_there_when_it_is_opened_again(sealed):
    first = three(sealed)
    again = AnswerFile(sealed, "A")
    assert again.answers == first.answers and again.next == first.order[3]
    again.add(answer(again.next, "synthetic", None, 5, comment=" seen ", mark=[0.25, 1]))
    header, found, _ = read_answers(first.path, sealed)
    assert header["reader"] == "A" and header["key_sha256"] == sealed.key_sha256
    told = {name: found[-1][name] for name in ("called", "class", "confidence", "comment", "mark")}
    assert told == {"called": "synthetic", "class": None, "confidence": 5, "comment": "seen", "mark": [0.25, 1]}
    assert read_all(sealed, "A", lambda name: {}).next is None


def test_each_answer_is_on_the_disk_before_it_is_acknowledged(sealed, monkeypatch):
    file, synced = AnswerFile(sealed, "A"), []
    monkeypatch.setattr(module.os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    file.add(answer(file.next))
    assert synced == [file.path.stat().st_size]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_cut_short_is_given_again(sealed, cut, caplog):
    file = three(sealed)
    os.truncate(file.path, file.path.stat().st_size - cut)
    again = AnswerFile(sealed, "A")
    assert len(again.answers) == 2 and "cut short before it was acknowledged" in caplog.text
    again.add(answer(again.next))
    assert len(AnswerFile(sealed, "A").answers) == 3


def test_a_full_disk_leaves_the_file_as_it_was(sealed, monkeypatch):
    file = three(sealed)
    before = file.path.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="the disk is full"):
            file.add(answer(file.next))
    assert file.path.read_bytes() == before
    file.add(answer(file.next))
    assert len(AnswerFile(sealed, "A").answers) == 4


EDITS = {
    "another answer": lambda lines: [*lines[:2], lines[2].replace('"real"', '"synthetic"'), *lines[3:]],
    "a line gone": lambda lines: [*lines[:2], *lines[3:]],
    "lines swapped": lambda lines: [lines[0], lines[2], lines[1], lines[3]],
    "no JSON": lambda lines: [*lines[:2], "x", *lines[3:]],
    "another reader": lambda lines: [lines[0].replace('"A"', '"B"'), *lines[1:]],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_file_is_noticed(sealed, edit):
    file = three(sealed)
    lines = file.path.read_text().splitlines()
    file.path.write_text("".join(f"{line}\n" for line in edit(lines)))
    before = file.path.read_bytes()
    with pytest.raises(
        ValueError, match="line [123]: it is not as it was written.*before are whole. Put the file back"
    ):
        AnswerFile(sealed, "A")
    assert file.path.read_bytes() == before


def test_answers_to_another_reading_are_noticed(sealed, tmp_path):
    other = prepare(write_arms(tmp_path), seed=3)
    file = three(sealed)
    (other.folder / "answers").mkdir()
    (other.folder / "answers" / file.path.name).write_bytes(file.path.read_bytes())
    with pytest.raises(ValueError, match="has the answers to another reading"):
        AnswerFile(other, "A")


def test_one_sent_again_is_passed_over_and_another_is_refused(sealed):
    file = AnswerFile(sealed, "A")
    first = answer(file.next)
    file.add(first)
    file.add({**first, "seconds": 9})
    assert len(file.answers) == 1 and file.answers[0]["seconds"] == 1.5
    with pytest.raises(ValueError, match="an answer stays as it was given"):
        file.add({**first, "called": "synthetic"})
    with pytest.raises(ValueError, match="not the picture that comes next"):
        file.add(answer(file.order[2]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("picture", 3),
        ("called", "fake"),
        ("called", ["real"]),
        ("class", "ZZZ"),
        ("class", ["ADI"]),
        ("confidence", 0),
        ("confidence", 6),
        ("confidence", True),
        ("confidence", None),
        ("comment", "x" * 2001),
        ("comment", "\ud800"),
        ("comment", None),
        ("mark", [0.5]),
        ("mark", [0.5, 1.1]),
        ("mark", [float("nan"), 0]),
        ("seconds", -1),
        ("seconds", float("inf")),
        ("seconds", "1"),
    ],
)
def test_what_can_not_be_an_answer_is_refused(field, value):
    check_answer(answer("0" * 16), ["ADI"])
    with pytest.raises(ValueError, match=f"can't be the {field} of an answer"):
        check_answer({**answer("0" * 16), field: value}, ["ADI"])


@pytest.mark.parametrize("content", [None, [], {}, {**answer("0" * 16), "more": 1}])
def test_what_has_other_fields_is_no_answer(content):
    with pytest.raises(ValueError, match="an answer has the fields called, class, comment"):
        check_answer(content, ["ADI"])


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\nb", "a\0", "\ud800"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="--reader is .*; it must be 1 to 80 printable characters"):
        reader_name(name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "Ayşe Ö.", "王", "a/b", "a b", "<script>", "=1+1", "'"])
def test_any_name_has_a_file_of_its_own_within_the_folder(sealed, name):
    file = AnswerFile(sealed, name)
    assert file.path.resolve().parent == (sealed.folder / "answers").resolve()
    assert json.loads(file.path.read_text())["reader"] == name
    assert AnswerFile(sealed, f"{name}_").path != file.path
