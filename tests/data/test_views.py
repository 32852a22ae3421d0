"""What a judge or a scorer sees of a picture."""

import numpy as np
import pytest
import torch

from bundle.data.stain import macenko_normalise
from bundle.data.views import VIEWS, Viewd, look, look_at


@pytest.fixture
def pictures():
    return torch.randint(0, 255, (3, 3, 16, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_views_without_colour_do_not_see_it(pictures):
    rgb = pictures[0].permute(1, 2, 0).numpy()
    grey = look(rgb, "grey")
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    assert grey[0, 0, 0] == round(0.299 * rgb[0, 0, 0] + 0.587 * rgb[0, 0, 1] + 0.114 * rgb[0, 0, 2])
    assert (look(rgb, "colour") == rgb).all()
    assert (look(rgb, "normalised") == macenko_normalise(rgb)).all() and (look(rgb, "normalised") != rgb).any()


@pytest.mark.parametrize("view", VIEWS)
def test_many_pictures_are_seen_as_each_is(pictures, view):
    seen, before = look_at(pictures, view), pictures.clone()
    assert seen.shape == pictures.shape and seen.dtype == torch.uint8 and torch.equal(pictures, before)
    for image, picture in zip(seen, pictures):
        assert (image.permute(1, 2, 0).numpy() == look(picture.permute(1, 2, 0).numpy(), view)).all()
        assert torch.equal(Viewd("image", view)({"image": picture})["image"], image)
    assert look_at(pictures[:0], view).shape == pictures[:0].shape


def test_an_unknown_view_is_refused():
    with pytest.raises(ValueError, match="view is 'infrared'; it must be one of colour, grey, normalised"):
        look(np.zeros((2, 2, 3), np.uint8), "infrared")
    with pytest.raises(ValueError, match="view is 'infrared'"):
        Viewd("image", "infrared")
