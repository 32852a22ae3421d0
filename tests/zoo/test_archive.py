"""Zips of bundles: the same bytes, and only what stays in its folder."""

import os
import stat
import zipfile

import pytest

from bundle.runs.sums import SUMS, check_sum, file_sha256, write_sums
from bundle.zoo.archive import unpack, write_zip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "name"
    (folder / "models").mkdir(parents=True)
    (folder / "b.txt").write_text("two")
    (folder / "a.txt").write_text("one")
    (folder / "models" / "model.pt").write_bytes(b"weights")
    write_sums(folder / "models")
    return folder


@pytest.fixture
def archive(folder, tmp_path):
    return write_zip(folder, tmp_path / "name_v1.zip")


def test_there_and_back(folder, archive, tmp_path):
    made = unpack(archive, tmp_path / "new" / "place", file_sha256(archive))
    assert made == tmp_path / "new" / "place" / "name"
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert (made / "models" / "model.pt").read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "new" / "place").iterdir()] == ["name"]


def test_times_modes_and_order_of_writing_don_t_change_the_bytes(folder, archive, tmp_path):
    before = archive.read_bytes()
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_text("one")
    os.utime(folder / "b.txt", (1, 1))
    (folder / "b.txt").chmod(0o755)
    assert write_zip(folder, tmp_path / "other.zip").read_bytes() == before
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["name/a.txt", "name/b.txt", f"name/models/{SUMS}", "name/models/model.pt"]


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "name/../../evil.txt", "..\\evil.txt", "C:/evil.txt", "name/../other/evil.txt"]
)
def test_a_path_that_leaves_its_folder_is_refused(archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as opened:
        information = zipfile.ZipInfo("x")
        information.filename = name
        opened.writestr(information, "evil")
    target = tmp_path / "below" / "target"
    with pytest.raises(ValueError, match="a path that leaves the folder.*Nothing was unpacked: get the zip again"):
        unpack(archive, target)
    assert not target.exists() and not list(tmp_path.rglob("evil.txt"))


def test_a_link_is_refused(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as opened:
        information = zipfile.ZipInfo("name/link")
        information.create_system, information.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        opened.writestr(information, "/etc")
    with pytest.raises(ValueError, match="'name/link', a link or device"):
        unpack(archive, tmp_path / "target")


def test_what_is_not_whole_is_refused_and_leaves_nothing(folder, archive, tmp_path):
    target = tmp_path / "target"
    with pytest.raises(ValueError, match="not the 00 that --sha256 gives: get the zip again"):
        unpack(archive, target, "00")
    with pytest.raises(FileNotFoundError, match="none.zip does not exist"):
        unpack(tmp_path / "none.zip", target)
    half = tmp_path / "half.zip"
    half.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match="half.zip is not a whole zip"):
        unpack(half, target)
    (folder / "models" / "model.pt").write_bytes(b"Weights")
    message = "spoilt.zip holds name/models/model.pt, whose SHA-256 is .* records.*get the zip again"
    with pytest.raises(ValueError, match=message):
        unpack(write_zip(folder, tmp_path / "spoilt.zip"), target)
    assert not target.exists() or not list(target.iterdir())


def test_a_damaged_or_encrypted_member_is_refused(tmp_path):
    content, target = bytes(range(256)) * 40, tmp_path / "target"
    for way, places, flag, message in (
        (zipfile.ZIP_DEFLATED, slice(45, 60), 0, "is damaged"),
        (zipfile.ZIP_STORED, slice(45, 60), 0, "is damaged"),
        (zipfile.ZIP_STORED, slice(0, 0), 1, "is not a zip of a bundle .*encrypted"),
    ):
        path = tmp_path / "changed.zip"
        with zipfile.ZipFile(path, "w", way) as opened:
            opened.writestr("name/file", content)
        changed = bytearray(path.read_bytes())
        changed[places] = bytes(255 - value for value in changed[places])
        changed[6] |= flag
        changed[changed.index(b"PK\1\2") + 8] |= flag
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"changed.zip {message}.*Nothing was unpacked: get the zip again"):
            unpack(path, target)
        assert not list(target.iterdir())


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb, target = tmp_path / "bomb.zip", tmp_path / "target"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("name/zeros", bytes(10**6))
    with pytest.raises(ValueError, match="bomb.zip of .* unpacks to 1000000: .* more than --largest_ratio 100"):
        unpack(bomb, target)
    with pytest.raises(ValueError, match="0.001 is more than --largest_gigabytes 0.0005.*raise --largest_gigabytes"):
        unpack(bomb, target, largest_gigabytes=0.0005)
    assert not target.exists()
    assert (unpack(bomb, target, largest_ratio=2000) / "zeros").stat().st_size == 10**6
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("name/zeros", bytes(10**4))
    with pytest.raises(ValueError, match="name/zeros is packed by another method than deflate"):
        unpack(bomb, tmp_path / "other")


def test_the_bytes_depend_on_no_version_of_zlib_and_large_files_are_taken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 5)  # in place of 2 GB
    path = write_zip(folder, tmp_path / "large.zip")
    with zipfile.ZipFile(path) as opened:
        assert {member.compress_type for member in opened.infolist()} == {zipfile.ZIP_STORED}
    assert (unpack(path, tmp_path / "target") / "models" / "model.pt").read_bytes() == b"weights"


def test_a_folder_that_is_there_is_not_touched(archive, tmp_path):
    (tmp_path / "target" / "name").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="name is there already: remove it, or unpack into another folder"):
        unpack(archive, tmp_path / "target")


def test_a_zip_of_several_folders_is_refused(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("second/file", "")
    with pytest.raises(ValueError, match="does not hold one folder but name, second"):
        unpack(archive, tmp_path / "target")


def test_sums_are_those_of_sha256sum(folder):
    expected = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c  model.pt\n"  # of sha256sum
    assert (folder / "models" / SUMS).read_text() == expected
    check_sum(folder / "models" / "model.pt")
    check_sum(folder / "a.txt")  # none are recorded there
    (folder / "models" / SUMS).write_text("nonsense\n")
    with pytest.raises(ValueError, match="has the line 'nonsense', which is not a SHA-256"):
        check_sum(folder / "models" / "model.pt")
