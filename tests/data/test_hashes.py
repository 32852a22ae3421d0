import pytest

from bundle.data.hashes import read_hashes, write_hashes

ONE, OTHER = "1f" * 32, "0e" * 32


def test_hashes_are_kept_once_and_sorted(tmp_path):
    path = write_hashes(tmp_path / "image_hashes.txt", [ONE, OTHER, ONE])
    assert path.read_bytes() == f"{OTHER}\n{ONE}\n".encode()
    assert read_hashes(path) == {ONE, OTHER}


@pytest.mark.parametrize("line", ["", ONE[1:], ONE.upper(), f"{ONE} ", "\x00\xff"])
def test_a_damaged_list_is_refused_by_line(tmp_path, line):
    path = tmp_path / "image_hashes.txt"
    path.write_text(f"{OTHER}\n{line}\n{ONE}\n", encoding="latin-1")
    with pytest.raises(ValueError, match="image_hashes.txt, line 2: .*SHA-256"):
        read_hashes(path)
