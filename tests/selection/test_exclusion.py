"""The table of images that readers rejected: taken where it fits the pool, refused by its line where it doesn't."""

import pytest
from candidates import SIDE, candidate, fill_pool, keys

from bundle.data.hashes import pixel_hash
from bundle.runs.tables import write_rows
from bundle.selection.exclusion import read_exclusion
from bundle.synthesis.stored_pool import StoredPool


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return StoredPool(fill_pool(tmp_path_factory.mktemp("pools") / "pool", keys(2)), SIDE).prepare()


def row(pool, name="ADI", seed=0, **other):
    fields = {"file": f"{name}/{name}_{seed}.png", "pool_hash": pool.hash}
    return {**fields, "sha256": pixel_hash(candidate(name, seed)), "reason": "=seen", **other}


def write(path, *rows):
    return write_rows(path, [list(rows[0]), *(list(one.values()) for one in rows)])


def test_the_files_of_a_table(pool, tmp_path):
    path = write(tmp_path / "rejected.csv", row(pool), row(pool, "TUM", 1))
    assert read_exclusion(path, pool) == {"ADI/ADI_0.png", "TUM/TUM_1.png"}
    assert read_exclusion(write_rows(path, [list(row(pool))]), pool) == set()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"file": "ADI/ADI_9.png"}, "line 3: 'ADI/ADI_9.png' can't be read in .* Put it back"),
        ({"file": "../secret_0.png"}, "line 3: '../secret_0.png' can't be an image of a pool"),
        ({"file": "../.._0.png"}, "can't be an image of a pool"),
        ({"file": "/ADI/ADI_0.png"}, "can't be an image of a pool"),
        ({"file": "ADI/../ADI/ADI_0.png"}, "can't be an image of a pool"),
        ({"file": "ADI/ADI_0.jpg"}, "can't be an image of a pool"),
        ({"file": "ADI/TUM_0.png"}, "can't be an image of a pool"),
        ({"file": ""}, "can't be an image of a pool"),
        ({"file": "AD\0/AD\0_0.png"}, "can't be an image of a pool"),
        ({"pool_hash": "f" * 64}, "is of the pool 'ff.*Give the table of a reading of this pool"),
        ({"sha256": "0" * 64}, "has other pixels in .* than when it was read"),
        ({}, "line 3: 'ADI/ADI_0.png' is listed before. Remove the line"),
    ],
)
def test_wrong_rows_are_refused(pool, tmp_path, other, message):
    path = write(tmp_path / "rejected.csv", row(pool), row(pool, **other))
    with pytest.raises(ValueError, match=message):
        read_exclusion(path, pool)


def test_what_is_no_such_table_is_refused(pool, tmp_path):
    with pytest.raises(FileNotFoundError, match="--exclude .* is not there: name the rejected.csv"):
        read_exclusion(tmp_path / "none.csv", pool)
    path = tmp_path / "other.csv"
    for text, message in (("", "no column 'file'"), ("file,sha256\n", "no column 'pool_hash'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_exclusion(path, pool)
    path.write_text("file,pool_hash,sha256\nADI/ADI_0.png\n")
    with pytest.raises(ValueError, match="line 2: it has 1 fields, 3 are needed"):
        read_exclusion(path, pool)
