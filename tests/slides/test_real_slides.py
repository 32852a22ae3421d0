"""The two real slides: dirt and empty glass are left out, pale mucosa is kept, and the coarser one is not enlarged."""

import pytest

from bundle.data.slides import Slide, SlideError
from bundle.slides.fields import FieldRule
from bundle.slides.overview import read_overview
from bundle.slides.tissue import GLASS, TISSUE, TissueRule


@pytest.fixture(scope="module")
def folder(real_data):
    if not (real_data / "slides").is_dir():
        pytest.skip("HISTODIFFUSION_DATA has no folder slides/")
    return real_data / "slides"


def fields_of(path, mpp):
    slide = Slide(path)
    overview, factor = read_overview(slide, 8.0)
    found = TissueRule().find(overview, factor * slide.mpp)
    return found, FieldRule(mpp=mpp).choose(slide, slide.scale(mpp, 256), found, None, 0)[0]


def test_two_biopsies_among_glass_and_dirt(folder):
    found, fields = fields_of(folder / "helicobacterpylori__HE.tif", 0.5)
    assert 0.28 < (found == TISSUE).mean() < 0.31 and 580 < len(fields) < 620
    # In thumbnail pixels of 8 µm: the speck at the lower left, dirt at the left, and the gap between the biopsies.
    for row, column in ((683, 97), (261, 44), (290, 190), (370, 210), (100, 100), (500, 550)):
        assert not (found[row - 8 : row + 8, column - 8 : column + 8] == TISSUE).any(), (row, column)
    assert (found[300:330, 350:400] == TISSUE).all()  # pale gastric mucosa


def test_pale_mucosa_and_the_empty_middle_of_a_ring(folder):
    found, fields = fields_of(folder / "celiac-disease__HE.tif", 1.0)
    assert 0.33 < (found == TISSUE).mean() < 0.37 and 310 < len(fields) < 340
    assert (found[200:280, 290:360] == TISSUE).mean() > 0.99  # pale Brunner's glands
    assert (found[755:770, 810:825] == GLASS).all()  # the lumen of the ring at the lower right


def test_the_coarser_slide_is_refused_at_half_a_micrometre(folder):
    with pytest.raises(SlideError, match="celiac-disease__HE.tif: its finest level has 1 µm per pixel, coarser"):
        Slide(folder / "celiac-disease__HE.tif").scale(0.5, 256)
