"""Copies of training images are found however they are turned, and nothing else is called one."""

import pytest
import torch

from bundle.data.transforms import orient
from bundle.metrics.copies import copy_report, nearest_ratios


def draws(count, seed):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


TRAINING = draws(40, 0)
COPIES = torch.stack([orient(TRAINING[number], number) for number in range(8)])  # number 0 is an exact copy
OTHERS = draws(24, 1)


def test_ratio_by_hand():
    """Pictures of one pixel: 1 is 1, 3 and 9 away from 0, 4 and 10."""
    training = torch.tensor([0.0, 4.0, 10.0]).reshape(3, 1, 1, 1)
    generated = torch.tensor([1.0, 2.0, 10.0, 8.5]).reshape(4, 1, 1, 1)
    torch.testing.assert_close(nearest_ratios(generated, training), torch.tensor([1 / 3, 1.0, 0.0, 1.5 / 4.5]))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_copies_are_found_in_every_orientation_and_under_noise(noise):
    generated = torch.cat([COPIES + noise * draws(8, 2), OTHERS])
    ratios = nearest_ratios(generated, TRAINING)
    assert (ratios[:8] < 0.05).all()
    assert (ratios[8:] > 0.9).all() and (ratios[8:] <= 1).all(), "independent pictures were called near-copies"
    report = copy_report(generated, TRAINING)
    assert (report["images"], report["training_images"], report["share_of_copies"]) == (32, 40, 0.25)
    assert report["smallest_ratio"] < 0.05 and report["median_ratio"] > 0.9


def test_independent_pictures_have_no_copies():
    report = copy_report(OTHERS, TRAINING)
    assert report["share_of_copies"] == 0 and report["smallest_ratio"] > 0.9


def test_orientations_of_one_image_are_not_its_neighbours():
    """A picture that looks the same however it is turned: the second nearest must be another picture."""
    symmetric = sum(orient(TRAINING[0], orientation) for orientation in range(8)) / 8
    training = torch.cat([symmetric[None], TRAINING[1:]])
    assert nearest_ratios(symmetric[None] + 0.01 * draws(1, 3), training).item() < 0.05


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_make_no_difference(chunk):
    generated = torch.cat([COPIES, OTHERS])
    torch.testing.assert_close(
        nearest_ratios(generated, TRAINING, chunk), nearest_ratios(generated, TRAINING, 32), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("count", [0, 1])
def test_a_second_nearest_is_needed(count):
    with pytest.raises(ValueError, match=f"{count} training images: the second nearest needs at least 2"):
        nearest_ratios(OTHERS, TRAINING[:count])
