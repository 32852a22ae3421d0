"""What is done to a tile, and what it leaves."""

import numpy as np
import pytest

from bundle.data.generated import generate_patch
from bundle.data.stain import rgb_to_optical_density
from bundle.downstream.proof.treatments import TREATMENTS, Tint, blocks, blur, require_treatments, scatter, treat

TILE = generate_patch("TUM", 3, 1, 64)


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", TREATMENTS)
def test_each_gives_a_tile_of_the_same_kind_and_the_same_again(name):
    one, again = (treat(TILE, name, random(), TREATMENTS) for _ in range(2))
    assert one.shape == TILE.shape and one.dtype == np.uint8 and np.array_equal(one, again)
    assert name in ("plain", "reduced") or not np.array_equal(one, TILE)


def test_blocks_and_scattered_pixels_keep_all_colours():
    for broken in (blocks(TILE, random()), scatter(TILE, random())):
        assert np.array_equal(np.sort(broken.reshape(-1, 3), axis=0), np.sort(TILE.reshape(-1, 3), axis=0))
    side = 8  # 64 / 8: some block of the one is a block of the other
    first = blocks(TILE, random())[:side, :side]
    assert any(
        np.array_equal(first, TILE[row : row + side, column : column + side])
        for row in range(0, 64, side)
        for column in range(0, 64, side)
    )


def test_blurring_leaves_the_mean_and_takes_the_detail():
    soft = blur(TILE, random())
    assert abs(soft.mean() - TILE.mean()) < 1.5
    assert np.abs(np.diff(soft.astype(int), axis=0)).mean() < 0.3 * np.abs(np.diff(TILE.astype(int), axis=0)).mean()


def test_tint_gives_mean_and_spread_of_another_tile():
    other = generate_patch("TUM", 8, 2, 64)
    found = rgb_to_optical_density(Tint([other])(TILE, random())).reshape(-1, 3)
    wanted = rgb_to_optical_density(other).reshape(-1, 3)
    assert np.abs(found.mean(axis=0) - wanted.mean(axis=0)).max() < 0.02
    assert np.abs(found.std(axis=0) - wanted.std(axis=0)).max() < 0.03
    with pytest.raises(ValueError, match="no tile of --pretraining_dir is stained"):
        Tint([np.full((8, 8, 3), 250, np.uint8)])


def test_treatments_are_chained_and_known():
    chained = treat(TILE, "blur+blocks", random(), TREATMENTS)
    generator = random()
    assert np.array_equal(chained, blocks(blur(TILE, generator), generator))
    with pytest.raises(ValueError, match="no treatment 'sharpen'; there are plain"):
        require_treatments("blur+sharpen", TREATMENTS)
