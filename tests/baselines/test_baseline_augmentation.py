"""Operations of augmentation against those of the data and cases by hand."""

import numpy as np
import torch

from bundle.baselines.augmentation import cut_out, orient_each, shift, vary_density
from bundle.data.stain import scale_density


def test_densities_are_varied_as_those_of_real_images():
    images = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    torch.manual_seed(5)
    found = vary_density(images / 127.5 - 1, 0.5)
    torch.manual_seed(5)
    factors = 1 + 0.5 * (2 * torch.rand(3, 3, 1, 1) - 1)
    for image, factor, varied in zip(images, factors, found):
        expected = scale_density(image.permute(1, 2, 0).numpy(), factor.flatten().numpy())
        levels = ((varied.permute(1, 2, 0) + 1) * 127.5).numpy()
        assert np.abs(levels - expected).max() <= 0.51  # those are rounded
    assert torch.allclose(vary_density(torch.ones(2, 3, 4, 4), 0.5), torch.ones(2, 3, 4, 4), atol=1e-6)


def test_shifts_bring_in_white_and_keep_the_rest():
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8) / 64 - 1
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        found = shift(image, 0.125)[0, 0]
        places = [
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if torch.equal(
                torch.nn.functional.pad(image[0, 0], (1,) * 4, value=1.0)[1 + down : 9 + down, 1 + right : 9 + right],
                found,
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 5


def test_a_square_is_cut_out():
    torch.manual_seed(0)
    found = cut_out(torch.ones(200, 3, 16, 16))
    grey = (found == 0).flatten(1).sum(1)
    assert grey.max() == 3 * 8 * 8 and grey.min() >= 3 * 4 * 4 and set(found.unique().tolist()) == {0.0, 1.0}


def test_orientations_are_the_eight_of_the_square():
    torch.manual_seed(0)
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(400, 3, 4, 4)
    seen = {tuple(one[0].flatten().tolist()) for one in orient_each(image)}
    assert len(seen) == 8
