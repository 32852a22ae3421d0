"""scripts/fuzz_sources.py: a few dozen malformed files do no harm, and each fault would be counted."""

import csv
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import fuzz_sources  # noqa: E402
from malformed_files import CHANGES, WRITERS, make_file, plan  # noqa: E402

FILES = 2 * len(WRITERS)


def test_a_few_dozen_files_do_no_harm(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "fuzz_sources.py"), "--files", str(FILES), "--seed", "3"]
    done = subprocess.run(
        [*command, "--workers", "1", "--output_dir", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "fuzz.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["number"]) for row in rows] == list(range(FILES))
    assert {row["format"] for row in rows} == set(WRITERS)
    assert all(row["outcome"] in ("read", "refused") for row in rows)
    assert all(row["reason"] for row in rows if row["outcome"] == "refused")
    assert done.stdout.splitlines()[-1].split()[:2] == ["all", str(FILES)]


def test_every_kind_of_file_is_made_the_same_again():
    numbers = range(len(WRITERS) * len(CHANGES))
    assert len({plan(number) for number in numbers}) >= len(numbers) - len(WRITERS)
    for number in (0, 13, 29, 64):
        assert make_file(7, number) == make_file(7, number)
    assert make_file(7, 0) != make_file(8, 0)


def die(*_):
    os._exit(11)


def swell(*_):
    np.ones(5 * 10**6)
    return "read", ""


@pytest.mark.parametrize(
    "reader, outcome",
    [
        (lambda path: ("read", ""), "read"),
        (lambda path: 1 / 0, "crash"),
        (die, "crash"),
        (lambda path: time.sleep(30), "hang"),
        (swell, "memory"),
    ],
)
def test_faults_are_told_apart(monkeypatch, reader, outcome):
    monkeypatch.setattr(fuzz_sources, "read_file", reader)
    monkeypatch.setattr(fuzz_sources, "HANG_SECONDS", 0.3 if outcome == "hang" else 5)
    monkeypatch.setattr(fuzz_sources, "MEMORY_LIMIT", 2 * 10**7)
    monkeypatch.setattr(fuzz_sources, "METHOD", "fork")  # which knows the readers above
    found = fuzz_sources.fuzz(0, 2, 1)
    assert [made.outcome for made in found] == [outcome] * 2


@pytest.mark.parametrize(
    "name, content, outcome",
    [("a.png", b"nothing", "refused"), ("a.txt", b"", "refused"), (".a", b"", "refused"), ("", b"", "silent")],
)
def test_what_is_neither_read_nor_counted_is_silent(tmp_path, name, content, outcome):
    path = tmp_path / (name or "b.png")
    if name:
        path.write_bytes(content)
    found, reason = fuzz_sources.read_file(path)
    assert found == outcome and reason
