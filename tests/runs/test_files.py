"""A reader never meets half a file, and a full disk says so."""

import errno
import json
import shutil
from collections import namedtuple

import pytest
import torch

from bundle.runs.files import write_atomically, write_json
from bundle.runs.tensors import save_tensors


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


@pytest.fixture
def nearly_full(monkeypatch):
    """A disk with one MiB left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 2**20, 2**20))


def test_a_large_write_is_not_begun_where_it_can_t_end(tmp_path, nearly_full):
    said = (
        r"new/a.pt could not be written, it needs 4.0 MiB and 1.0 MiB are free in .*: free 3.0 MiB.*larger disk.*again"
    )
    with pytest.raises(OSError, match=said) as caught:
        save_tensors(tmp_path / "new" / "a.pt", {"weights": {"a": torch.zeros(2**20)}, "step": 3})
    assert caught.value.errno == errno.ENOSPC and not [*(tmp_path / "new").iterdir()]
    shared = torch.zeros(2**16)  # 256 KiB, written once
    save_tensors(tmp_path / "a.pt", {"all": [shared, shared.view(2, -1)] * 5})
    assert (tmp_path / "a.pt").stat().st_size < 2**19


def test_a_disk_that_tells_no_size_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(0, 0, 0))
    save_tensors(tmp_path / "a.pt", {"a": torch.zeros(3)})


class Refused:
    """What torch.save writes to, on a disk that is full after the first bytes."""

    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "write",
    [
        lambda temporary: torch.save({"x": torch.zeros(9)}, Refused()),
        lambda temporary: (_ for _ in ()).throw(OSError("Not enough free space to write 80 bytes after offset 128")),
        lambda temporary: (_ for _ in ()).throw(OSError("1000000 requested and 262128 written")),
        lambda temporary: (_ for _ in ()).throw(Exception("I/O error: No space left on device (os error 28)")),
    ],
    ids=["torch", "numpy, large", "numpy", "safetensors"],
)
def test_a_full_disk_is_understood_whatever_the_library_makes_of_it(tmp_path, write):
    def half(temporary):
        temporary.write_bytes(b"half")
        write(temporary)

    with pytest.raises(OSError, match="the disk is full: .*weights.pt could not be written.*some space.*again"):
        write_atomically(tmp_path / "weights.pt", half)
    assert not [*tmp_path.iterdir()]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="something else"):
        write_atomically(tmp_path / "file", lambda temporary: (_ for _ in ()).throw(RuntimeError("something else")))


def test_json_and_folders(tmp_path):
    path = write_json(tmp_path / "new" / "metrics.json", {"psnr": 1.5, "name": "Hämatoxylin"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"psnr": 1.5, "name": "Hämatoxylin"}


def test_a_writer_that_chooses_its_format_by_suffix_still_can(tmp_path):
    path = write_atomically(tmp_path / "a.pt", lambda temporary: torch.save({"x": 1}, temporary))
    assert torch.load(path, weights_only=True) == {"x": 1}
