"""A reader never meets half a file, and a full disk says so."""

import errno
import json
import shutil
from collections import namedtuple

import pytest
import torch

from bundle.runs.files import write_atomically, write_json


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("old")

    def broken(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, broken)
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_full_disk_names_the_file_and_keeps_the_old(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("old")

    def full(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="disk is full.*weights.pt.*same command"):
        write_atomically(path, full)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_torchs_way_of_reporting_a_full_disk_is_understood(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))

    def full(temporary):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(OSError, match="disk is full"):
        write_atomically(tmp_path / "weights.pt", full)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="something else"):
        write_atomically(tmp_path / "file", lambda temporary: (_ for _ in ()).throw(RuntimeError("something else")))


def test_json_and_folders(tmp_path):
    path = write_json(tmp_path / "new" / "metrics.json", {"psnr": 1.5, "name": "Hämatoxylin"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"psnr": 1.5, "name": "Hämatoxylin"}


def test_a_writer_that_chooses_its_format_by_suffix_still_can(tmp_path):
    path = write_atomically(tmp_path / "a.pt", lambda temporary: torch.save({"x": 1}, temporary))
    assert torch.load(path, weights_only=True) == {"x": 1}
