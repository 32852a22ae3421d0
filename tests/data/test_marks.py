from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bundle.data.marks import ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA, read_marks, save_marked_png

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("source_type", [ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA])
def test_marks_and_pixels_survive_a_round_trip(tmp_path, source_type):
    save_marked_png(tmp_path / "a.png", IMAGE, source_type, {"Class": "TUM", "Note": "128 µm · α"})
    assert read_marks(tmp_path / "a.png") == {
        "SyntheticData": "YES",
        "Software": "HistoDiffusion",
        "DigitalSourceType": source_type,
        "Class": "TUM",
        "Note": "128 µm · α",
    }
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), IMAGE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        save_marked_png(tmp_path / name, IMAGE, ALGORITHMIC_MEDIA, {"Class": "TUM"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_xmp_packet_is_an_uncompressed_chunk_of_well_formed_xml(tmp_path):
    save_marked_png(tmp_path / "a.png", IMAGE, ALGORITHMIC_MEDIA)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"iTXtXML:com.adobe.xmp\0\0\0\0\0") + 4
    length = int.from_bytes(content[start - 8 : start - 4], "big")
    packet = content[start : start + length].split(b"\0", 5)[5]
    root = ElementTree.fromstring(packet)
    assert root.tag == "{adobe:ns:meta/}xmpmeta"
    element = root.find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert element.text == ALGORITHMIC_MEDIA


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_an_unmarked_image_has_no_marks(tmp_path, suffix):
    Image.fromarray(IMAGE).save(tmp_path / f"a.{suffix}")
    assert read_marks(tmp_path / f"a.{suffix}") == {}


def test_source_type_is_read_from_other_formats_and_a_photograph_is_not_marked(tmp_path):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        '<x:Description Iptc4xmpExt:DigitalSourceType="{}"/></x:xmpmeta>'
    )
    for name, source_type in (
        ("made", TRAINED_ALGORITHMIC_MEDIA),
        ("taken", ALGORITHMIC_MEDIA[:-16] + "digitalCapture"),
    ):
        Image.fromarray(IMAGE).save(tmp_path / f"{name}.jpg", xmp=packet.format(source_type).encode())
    assert read_marks(tmp_path / "made.jpg") == {"DigitalSourceType": TRAINED_ALGORITHMIC_MEDIA}
    assert read_marks(tmp_path / "taken.jpg") == {}


def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        save_marked_png(tmp_path / "a.png", IMAGE.astype(float), ALGORITHMIC_MEDIA)
    with pytest.raises(ValueError, match="painting"):
        save_marked_png(tmp_path / "a.png", IMAGE, "painting")
    with pytest.raises(ValueError, match="SyntheticData"):
        save_marked_png(tmp_path / "a.png", IMAGE, ALGORITHMIC_MEDIA, {"SyntheticData": "NO"})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    save_marked_png(tmp_path / "a.png", IMAGE, ALGORITHMIC_MEDIA)
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("bundle.runs.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_marked_png(tmp_path / "a.png", 255 - IMAGE, ALGORITHMIC_MEDIA)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
