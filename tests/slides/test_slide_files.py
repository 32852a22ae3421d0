"""Opening slides and reading fields at a wanted µm per pixel; what can't be is refused in a sentence."""

import numpy as np
import pytest
import tifffile
from pyramids import HEIGHT, WIDTH, pixels, write_slide

from bundle.data.slides import Slide, SlideError, require_reader, stated_mpp
from bundle.data.tiff_pyramid import TiffPyramid


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "one.tif")


def test_a_level_near_the_target_is_taken_as_it_is_and_a_finer_one_is_reduced(path):
    slide = Slide(path)
    assert (slide.mpp, slide.size, slide.bounds) == (0.5, (WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT))
    assert slide.scale(0.5, 64) == (0, 64, 64, 0.5, 64)
    assert slide.scale(0.52, 64) == (0, 64, 64, 0.5, 64)  # within 5 %, and said as it is
    assert slide.scale(1.0, 64) == (0, 128, 64, 1.0, 128)
    assert slide.scale(2.0, 64) == (1, 64, 64, 2.0, 256)
    assert slide.scale(4.0, 64) == (1, 128, 64, 4.0, 512)
    with pytest.raises(SlideError, match="one.tif: its finest level has 0.5 µm per pixel, coarser than the 0.25"):
        slide.scale(0.25, 64)


def test_fields_are_the_pixels_there_and_white_where_nothing_was_scanned(path):
    slide, whole = Slide(path), pixels()
    assert np.array_equal(slide.read_field(100, 150, 0, 64, 64), whole[150:214, 100:164])
    reduced = np.asarray(slide.read_field(128, 128, 0, 128, 32), float)
    assert abs(reduced - whole[128:256, 128:256].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))).mean() < 4
    beyond = np.asarray(slide.read_field(WIDTH - 32, 0, 0, 64, 64))
    assert (beyond[:, :32] == 243).all() and (beyond[:, 32:] == 255).all()


def test_tifffile_reads_what_openslide_reads(path):
    slide, other = Slide(path), Slide(path, reader="tifffile")
    assert (other.mpp, other.size, other.bounds) == (slide.mpp, slide.size, slide.bounds)
    assert np.allclose(other.downsamples, slide.downsamples) or len(other.downsamples) == 1
    for place in ((100, 150, 0, 300, 200), (-40, -30, 0, 100, 90), (WIDTH - 50, HEIGHT - 40, 0, 100, 90)):
        assert np.array_equal(other.read(*place), slide.read(*place)), place


def test_an_ome_pyramid_is_read_at_its_levels_and_its_own_size(tmp_path):
    whole = pixels()
    with tifffile.TiffWriter(tmp_path / "one.ome.tif", ome=True) as file:
        how = {"tile": (128, 128), "compression": "adobe_deflate", "photometric": "rgb"}
        size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
        file.write(whole, subifds=1, metadata={"axes": "YXS", **size}, **how)
        file.write(whole[::4, ::4], subfiletype=1, **how)
    slide = Slide(tmp_path / "one.ome.tif", reader="tifffile")
    assert slide.mpp == 0.25 and slide.downsamples == (1, 4)
    assert np.array_equal(slide.read(512, 256, 1, 64, 64), whole[::4, ::4][64:128, 128:192])
    assert Slide(tmp_path / "one.ome.tif").mpp == 0.25  # by OpenSlide


@pytest.mark.parametrize("how", [{"mpp": None}, {"mpp": 0.5, "unit": "NONE"}, {"mpp": 352.8}])
def test_a_slide_of_unknown_size_needs_to_be_told(tmp_path, how):
    path = write_slide(tmp_path / "one.tif", **how)
    with pytest.raises(SlideError, match="one.tif: it does not say its µm per pixel; give it, such as --assume_mpp"):
        Slide(path)
    assert Slide(path, assume_mpp=0.25).mpp == 0.25


def test_a_stated_size_is_not_overridden(path):
    assert Slide(path, assume_mpp=0.25).mpp == 0.5
    assert stated_mpp({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}) == (0.25, 0.26)


def test_pixels_that_are_not_square_are_refused(tmp_path):
    path = write_slide(tmp_path / "one.tif", resolution=(20000, 10000))
    with pytest.raises(SlideError, match="not square, 0.5 x 1 µm"):
        Slide(path)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("empty.svs", b"", "it is empty"),
        ("text.svs", b"no slide" * 99, "OpenSlide knows no such slide; it is truncated"),
        ("text.tif", b"no slide" * 99, "damaged or truncated"),
        ("none.svs", None, "it is no file"),
    ],
)
def test_what_is_no_slide_is_named(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=f"{name}: .*{said}"):
        Slide(tmp_path / name)


def test_a_truncated_slide_is_named_when_it_is_opened_or_read(tmp_path, path):
    content = path.read_bytes()
    (tmp_path / "cut.svs").write_bytes(content[: len(content) // 2])  # its directory lies at the end
    with pytest.raises(SlideError, match="cut.svs: .*truncated"):
        Slide(tmp_path / "cut.svs").read_field(0, 0, 0, 64, 64)
    hole = bytearray(content)
    hole[2000 : len(content) // 2] = bytes(len(content) // 2 - 2000)
    (tmp_path / "hole.tif").write_bytes(hole)
    slide = Slide(tmp_path / "hole.tif")
    with pytest.raises(SlideError, match=r"hole.tif: it can't be read at \(128, 128\) of level 0"):
        slide.read_field(128, 128, 0, 256, 256)


def test_a_tif_that_is_no_pyramid_says_how_it_is_made_one(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", pixels(), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    with pytest.raises(SlideError, match=f"flat.tif: it is no pyramid: {WIDTH} x {HEIGHT} .*vips tiffsave"):
        Slide(tmp_path / "flat.tif")
    tifffile.imwrite(tmp_path / "grey.tif", pixels()[:, :, 0].astype(np.uint16), tile=(128, 128))
    with pytest.raises(ValueError, match="it holds uint16 values, 1 to a pixel"):
        TiffPyramid(tmp_path / "grey.tif")


def test_a_missing_reader_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"read by openslide, which is not installed: pip install \.\[slides\]"):
        require_reader("auto")
    with pytest.raises(ImportError, match="pip install cucim"):
        require_reader("cucim")
    with pytest.raises(ValueError, match="--slides#reader is 'vips'; it must be one of auto, openslide"):
        require_reader("vips")
