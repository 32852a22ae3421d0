"""Tissue is told from glass, ink, dust and specks; pale tissue is kept, and bare glass gives none."""

import numpy as np
import pytest
from pyramids import DUST, PALE, PEN, SPECK, TISSUE, pixels

from bundle.slides.tissue import GLASS, GREY
from bundle.slides.tissue import PEN as INK
from bundle.slides.tissue import SPECK as SMALL
from bundle.slides.tissue import TISSUE as FOUND
from bundle.slides.tissue import TissueRule, glass_of

SMALLER = {"least_area": 0.005, "least_width": 30.0, "smoothing": 2.0, "closing": 8.0}


@pytest.fixture(scope="module")
def overview():
    return pixels()[::4, ::4]  # 2 µm per pixel


def share(found, place, kind):
    inner = tuple(slice(part.start // 4 + 4, part.stop // 4 - 4) for part in place)
    return (found[inner] == kind).mean()


def test_each_thing_is_found_for_what_it_is(overview):
    found = TissueRule(**SMALLER).find(overview, 2.0)
    assert share(found, TISSUE, FOUND) == 1 and share(found, PALE, FOUND) > 0.98
    assert share(found, PEN, INK) == 1 and (found[INK == found]).size < 2.5 * 32 * 128
    assert share(found, DUST, GREY) > 0.9
    assert share(found, tuple(slice(part.start - 8, part.stop + 8) for part in SPECK), SMALL) == 1
    assert (found[:20] == GLASS).all()


@pytest.mark.parametrize("colour", [(40, 60, 170), (30, 140, 60), (200, 40, 30), (230, 200, 40), (25, 25, 28)])
def test_ink_of_any_colour_is_no_tissue(overview, colour):
    drawn = overview.copy()
    drawn[208:240, 32:160] = colour
    found = TissueRule(**SMALLER).find(drawn, 2.0)
    assert (found[208:240, 32:160] == INK).all()
    assert (TissueRule(**SMALLER, pen=False).find(drawn, 2.0)[212:236, 36:156] != INK).all()


def test_stains_from_pale_to_dark_and_from_blue_to_red_are_no_ink():
    for haematoxylin, eosin in ((1.6, 0.3), (0.2, 1.4), (1.2, 1.2), (0.15, 0.15)):
        density = haematoxylin * np.array([0.650, 0.704, 0.286]) + eosin * np.array([0.216, 0.801, 0.558])
        overview = np.full((100, 100, 3), 243, np.uint8)
        overview[20:80, 20:80] = 243 * np.exp(-density)
        found = TissueRule(**SMALLER).find(overview, 2.0)
        assert (found[24:76, 24:76] == FOUND).all(), (haematoxylin, eosin)


@pytest.mark.parametrize("glass", [(243, 243, 243), (228, 230, 222), (255, 255, 255)])
def test_bare_glass_gives_none_whatever_its_tint_and_noise(glass):
    noise = np.random.default_rng(0).normal(0, 1.5, (300, 300, 3))
    overview = np.clip(np.array(glass) + noise, 0, 255).astype(np.uint8)
    assert not (TissueRule().find(overview, 8.0) == FOUND).any()
    assert abs(glass_of(overview) - glass).max() <= 2


def test_a_slide_full_of_tissue_is_tissue():
    overview = np.clip(np.random.default_rng(0).normal((170, 90, 160), 30, (200, 200, 3)), 0, 240).astype(np.uint8)
    assert (TissueRule().find(overview, 8.0) == FOUND).mean() > 0.99


def test_pieces_too_small_or_too_thin_are_specks():
    overview = np.full((200, 400, 3), 243, np.uint8)
    overview[20:120, 20:120] = overview[150:155, 20:380] = overview[40:60, 200:220] = (170, 90, 160)
    found = TissueRule(mpp=8, smoothing=0, closing=0).find(overview, 8.0)
    assert found[70, 70] == FOUND and found[152, 200] == SMALL and found[50, 210] == SMALL
    found = TissueRule(mpp=8, smoothing=0, closing=0, least_area=0.01, least_width=16).find(overview, 8.0)
    assert found[152, 200] == FOUND and found[50, 210] == FOUND


def test_thresholds_can_be_given_and_gaps_are_closed():
    overview = np.full((100, 100, 3), 243, np.uint8)
    overview[20:80, 20:80] = (225, 205, 222)
    overview[48:52] = 243
    rule = {"least_area": 0, "least_width": 0, "smoothing": 0}
    assert (TissueRule(**rule, closing=0).find(overview, 8.0)[50] == GLASS).all()
    assert (TissueRule(**rule, closing=24).find(overview, 8.0)[50, 30:70] == FOUND).all()
    assert not (TissueRule(**rule, saturation=0.5).find(overview, 8.0) == FOUND).any()
    assert not (TissueRule(**rule, density=0.9).find(overview, 8.0) == FOUND).any()


@pytest.mark.parametrize(
    "given", [{"mpp": 0}, {"closing": -1}, {"saturation": "x"}, {"density_bounds": (0.2, 0.1)}, {"least_area": True}]
)
def test_values_that_cannot_be_meant_are_refused(given):
    with pytest.raises(ValueError, match=f"--tissue#{next(iter(given))} is "):
        TissueRule(**given)
