"""The answers of one reader: lines of JSON that are only ever appended, each on the disk before it is acknowledged.

Each line holds a hash over itself and the line before, so a file that was edited by hand is noticed. Whoever also
computes all further hashes anew is not: the chain is against slips, not against fraud.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from bundle.reading.sealed import ANSWERS, Sealed
from bundle.runs.files import explain_full_disk

logger = logging.getLogger(__name__)

FORMAT = "histodiffusion-answers/1"
CALLED = ("real", "synthetic", "unsure")
LONGEST_COMMENT = 2000
LONGEST_NAME = 80
FIELDS = {"picture", "called", "class", "confidence", "comment", "mark", "seconds"}
REMEDY = "put the file back as it was, or move it elsewhere to leave this reader out"


def reader_name(name: str) -> str:
    """The name of a reader as it is kept.

    Raises:
        ValueError: it is empty, too long, or holds what is no text.
    """
    text = unicodedata.normalize("NFC", name).strip()
    if not text or len(text) > LONGEST_NAME or any(unicodedata.category(letter)[0] == "C" for letter in text):
        raise ValueError(f"--reader is {name!r}; it must be 1 to {LONGEST_NAME} printable characters")
    return text


def order(sealed: Sealed, reader: str) -> list[str]:
    """The names of the pictures in the order of one reader, drawn from the seed and the reader's name."""
    digest = hashlib.sha256(f"{sealed.seed} {reader}".encode()).digest()
    names = sorted(sealed.pictures)
    return [names[place] for place in np.random.default_rng(list(digest)).permutation(len(names))]


def check_answer(content: Any, classes: Sequence[str]) -> dict[str, Any]:
    """An answer as a page sends it.

    Args:
        content: "picture" (its name), "called" (of `CALLED`), "class" (a name, None for can't say), "confidence" in
            "called" (1 to 5, None with "unsure"), "comment", "mark" ([x, y] as shares of the picture, or None) and
            "seconds" that the picture was looked at.
        classes: names.

    Raises:
        ValueError: names the field that can't be meant.
    """
    if not isinstance(content, dict) or content.keys() != FIELDS:
        raise ValueError(f"an answer has the fields {', '.join(sorted(FIELDS))}")
    confidence, mark, comment = content["confidence"], content["mark"], content["comment"]
    valid = {
        "picture": isinstance(content["picture"], str),
        "called": content["called"] in CALLED,
        "class": content["class"] is None or content["class"] in classes,
        "confidence": confidence is None if content["called"] == "unsure" else _is_grade(confidence),
        "comment": isinstance(comment, str) and len(comment) <= LONGEST_COMMENT and _is_text(comment),
        "mark": mark is None or isinstance(mark, list) and len(mark) == 2 and all(_is_within(x, 1) for x in mark),
        "seconds": _is_within(content["seconds"], 86400),
    }
    for name, good in valid.items():
        if not good:
            raise ValueError(f"{str(content[name])[:80]!r} can't be the {name} of an answer")
    return {**content, "comment": comment.strip(), "seconds": round(float(content["seconds"]), 2)}


class AnswerFile:
    """The answers of one reader to one reading, opened to be added to.

    A last line that was cut short by a kill or a full disk was never acknowledged: it is taken away, which is said.

    Args:
        sealed: the reading.
        reader: the reader's name.

    Attributes:
        answers: those so far, in order.

    Raises:
        ValueError: the file was edited, or is of another reading or reader; names the line.
    """

    def __init__(self, sealed: Sealed, reader: str) -> None:
        self.sealed = sealed
        self.reader = reader_name(reader)
        self.order = order(sealed, self.reader)
        self.path = answer_path(sealed.folder, self.reader)
        self.answers: list[dict[str, Any]] = []
        self._last = ""
        if self.path.is_file():
            whole = self._cut()
        if not self.path.is_file() or not whole:
            self.path.parent.mkdir(exist_ok=True)
            head = {"format": FORMAT, "reader": self.reader, "reading": sealed.sha256, "key_sha256": sealed.key_sha256}
            self._write(head)
            _sync_folder(self.path.parent)
        else:
            header, self.answers, self._last = read_answers(self.path, sealed)
            if header["reader"] != self.reader:
                raise ValueError(f"{self.path} holds the answers of {header['reader']!r}, not of {self.reader!r}")

    @property
    def next(self) -> str | None:
        """The picture that comes next; None after the last."""
        return self.order[len(self.answers)] if len(self.answers) < len(self.order) else None

    def add(self, content: Any) -> None:
        """Takes the answer to the next picture; one that is there already, sent again, is passed over.

        Raises:
            ValueError: an answer that can't be, to a picture that is not the next, or another one than there was.
            OSError: it could not be written; the file is as it was.
        """
        answer = check_answer(content, self.sealed.classes)
        for known in reversed(self.answers):
            if known["picture"] == answer["picture"]:
                if any(known[name] != answer[name] for name in FIELDS - {"seconds"}):
                    raise ValueError("this picture was answered before; an answer stays as it was given")
                return
        if answer["picture"] != self.next:
            raise ValueError("this is not the picture that comes next; load the page again")
        answer["at"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._write(answer)
        self.answers.append(answer)

    def _write(self, content: dict[str, Any]) -> None:
        digest = _hash(self._last, content)
        line = json.dumps({**content, "hash": digest}, ensure_ascii=False).encode() + b"\n"
        with explain_full_disk(self.path), open(self.path, "ab") as file:
            size = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise
        self._last = digest

    def _cut(self) -> bool:
        """Takes away a last line without its end; whether anything is left."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            logger.warning(f"{self.path}: its last line was cut short before it was acknowledged, and is taken away")
            os.truncate(self.path, end)
        return end > 0


def answer_path(folder: Path, reader: str) -> Path:
    """Where the answers of a reader are: the name as far as a file can have it, and a hash that keeps two apart."""
    letters = re.sub(r"\W+", "_", reader)[:40]
    return folder / ANSWERS / f"{letters}_{hashlib.sha256(reader.encode()).hexdigest()[:8]}.jsonl"


def read_answers(path: Path, sealed: Sealed) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """The first line of a file of answers, the answers, and the hash of the last line.

    Raises:
        ValueError: it was edited, or belongs to another reading; names the line.
    """
    lines = path.read_bytes().split(b"\n")[:-1]  # what has no end was never acknowledged
    if not lines:
        raise ValueError(f"{path} is empty: {REMEDY}")
    header, last = _line(lines[0], "")
    if header is not None and (header.get("format") != FORMAT or header.get("reading") != sealed.sha256):
        raise ValueError(f"{path} has the answers to another reading than that of {sealed.folder}: {REMEDY}")
    answers: list[dict[str, Any]] = []
    names = set(sealed.pictures)
    for line in lines[1:] if header is not None else ():
        content, last = _line(line, last)
        try:
            at = content.pop("at")
            answer = {**check_answer(content, sealed.classes), "at": at}
            names.remove(answer["picture"])
            answers.append(answer)
        except (AttributeError, KeyError, ValueError):
            break
    else:
        if header is not None:
            return header, answers, last
    number = len(answers) + 2 if header is not None else 1
    raise ValueError(
        f"{path}, line {number}: it is not as it was written, so the file was edited or a line of it is gone. The "
        f"{number - 2 if number > 1 else 0} answers before are whole. {REMEDY.capitalize()}"
    )


def _line(line: bytes, last: str) -> tuple[dict[str, Any] | None, str]:
    """What a line holds, and its hash; None where it is not as it was written after a line of the hash `last`."""
    try:
        content = json.loads(line)
        digest = content.pop("hash")
        return (content, digest) if digest == _hash(last, content) else (None, "")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, ""


def _hash(last: str, content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{last}\n{text}".encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Waits until a new file's name is on the disk, where a system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_grade(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 5


def _is_within(value: Any, highest: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= highest


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
