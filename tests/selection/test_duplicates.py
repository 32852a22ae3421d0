"""Near-duplicates by hand: descriptors of one grey value, so that distances are differences of numbers."""

import pytest
import torch

from bundle.data.transforms import orient
from bundle.selection.duplicates import copy_limits, find_copies

UNIT = 768**0.5  # the distance of two even descriptors whose values differ by 1


def even(*values):
    return torch.tensor(values)[:, None].expand(-1, 768).clone()


def draws(count, seed):
    return torch.rand(count, 768, generator=torch.Generator().manual_seed(seed))


def turned(descriptors, orientation):
    return orient(descriptors.reshape(-1, 3, 16, 16), orientation).flatten(1)


def test_limits_by_hand():
    """Class 0: the nearest others are 1, 1, 2 and 5 away; class 1: 3 and 3."""
    real, labels = even(0.0, 1.0, 3.0, 8.0, 0.0, 3.0), torch.tensor([0, 0, 0, 0, 1, 1])
    torch.testing.assert_close(copy_limits(real, labels, 2), torch.tensor([1.5, 3]).double() / 3 * UNIT)
    found = copy_limits(real, labels, 2, copy_ratio=0.5)
    torch.testing.assert_close(found, torch.tensor([1.5, 3]).double() / 2 * UNIT)


def test_a_turned_twin_is_the_nearest_other():
    one = draws(1, 0)
    assert copy_limits(torch.cat([one, turned(one, 5)]), torch.zeros(2).long(), 1).item() < 1e-5
    assert copy_limits(draws(2, 0), torch.zeros(2).long(), 1).item() > 1


def test_tiles_that_are_nearly_white_are_told_apart():
    """Distances of 1e-3 between descriptors near 1, whose norm is 28."""
    real = 1 - 1e-4 * draws(40, 0)
    limit = copy_limits(real, torch.zeros(40).long(), 1).item()
    assert 5e-4 / 3 < limit < 2e-3 / 3
    images = torch.cat([1 - 1e-4 * draws(40, 1), turned(real[:3], 3)])
    assert find_copies(images, real, limit) == [None] * 40 + [0, 1, 2]


def test_limits_need_two_images():
    with pytest.raises(ValueError, match="class number 1 has 1 real images: how far apart they are needs 2"):
        copy_limits(draws(3, 0), torch.tensor([0, 0, 1]), 2)


@pytest.mark.parametrize("chunk", [1, 2, 3, 512])
def test_greedy_search_by_hand(chunk):
    """References 0 and 10; copies are nearer than 1. 4.7 is refused because of 4, 5.5 isn't, since 4.7 was refused."""
    images = even(0.5, 4.0, 4.7, 5.5, 10.9, 5.4, 11.5, 3.2)
    expected = [0, None, 2 + 1, None, 1, 2 + 3, None, 2 + 1]
    assert find_copies(images, even(0.0, 10.0), UNIT, chunk) == expected


def test_the_limit_itself_is_no_copy():
    assert find_copies(even(0.0, 1.0), even(9.0), UNIT) == [None, None]
    assert find_copies(even(0.0, 0.0, 9.0), even(9.0), 0.0) == [None, None, None]


@pytest.mark.parametrize("orientation", range(8))
def test_copies_are_found_in_every_orientation(orientation):
    images, references = draws(3, 1), draws(4, 2)
    given = torch.cat([images, turned(references[2:3], orientation), turned(images[1:2], orientation)])
    assert find_copies(given + 0.01 * draws(5, 3), references, 3.0) == [None, None, None, 2, 4 + 1]


def test_many_at_once_equal_chunks():
    images = torch.cat([draws(60, 4), draws(30, 4) + 0.01, draws(60, 5)])[
        torch.randperm(150, generator=torch.Generator().manual_seed(7))
    ]
    found = find_copies(images, draws(20, 6), 2.0)
    assert found == find_copies(images, draws(20, 6), 2.0, chunk=7)
    assert sum(number is None for number in found) == 120


def test_no_images_and_no_references():
    assert find_copies(draws(0, 0), draws(2, 0), 1.0) == []
    assert find_copies(even(1.0, 1.1), draws(0, 0), UNIT) == [None, 0]
