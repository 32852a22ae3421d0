"""Regions of QuPath, ASAP and Aperio; each way in which a file of them can be wrong is named."""

import json

import pytest
from pyramids import HEIGHT, WIDTH

from bundle.data.slides import SlideError
from bundle.slides.regions import RegionRule, class_masks


class Bounds:
    """What of a slide is asked for."""

    size, bounds, mpp = (WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT), 0.5


def square(left, top, side, closed=True):
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
    return ring + ring[:1] * closed


def feature(rings, name="Tumor", kind="Polygon"):
    about = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {"objectType": "annotation"}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": about}


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
<Annotation Name="A 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="2" X="400" Y="300"/><Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="400" Y="0"/>
<Coordinate Order="3" X="0" Y="300"/></Coordinates></Annotation></Annotations>
<AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>"""
APERIO = """<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name=""><Attributes>
<Attribute Name="Stroma"/></Attributes><Regions>
<Region Id="1" Type="0" NegativeROA="0"><Vertices><Vertex X="0" Y="0"/><Vertex X="400" Y="0"/>
<Vertex X="400" Y="400"/><Vertex X="0" Y="400"/></Vertices></Region>
<Region Id="2" Type="1" NegativeROA="1"><Vertices><Vertex X="100" Y="100"/><Vertex X="200" Y="200"/></Vertices></Region>
</Regions></Annotation></Annotations>"""


def masks(path, factor=4, **rule):
    regions = RegionRule(path.parent, **rule).read(path, Bounds)
    return class_masks(regions, Bounds, factor, (HEIGHT // factor, WIDTH // factor))


def test_polygons_with_holes_and_several_parts(tmp_path):
    path = geojson(
        tmp_path / "a.geojson",
        feature([square(0, 0, 400), square(100, 100, 100)]),
        feature([[square(800, 0, 200)], [square(800, 400, 200)]], "Stroma", "MultiPolygon"),
    )
    found = masks(path)
    assert found.keys() == {"Tumor", "Stroma"}
    assert [int(mask.sum()) for mask in found.values()] == [100 * 100 - 25 * 25, 2 * 50 * 50]
    assert found["Tumor"][10, 10] and not found["Tumor"][30, 30] and found["Stroma"][110, 210]


def test_regions_count_from_the_corner_of_what_was_scanned(tmp_path):
    class Cropped(Bounds):
        bounds = (512, 256, 512, 512)

    path = geojson(tmp_path / "a.geojson", feature([square(0, 0, 256)]))
    found = class_masks(RegionRule(tmp_path).read(path, Cropped), Cropped, 4, (128, 128))["Tumor"]
    assert found[:64, :64].all() and found.sum() == 64 * 64


@pytest.mark.parametrize("text, name, area", [(ASAP, "Tumor", 100 * 75), (APERIO, "Stroma", 100 * 100 - 25 * 25)])
def test_xml_of_asap_and_aperio(tmp_path, text, name, area):
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    found = masks(tmp_path / "a.xml")
    assert found.keys() == {name} and found[name].sum() == area


def test_names_become_classes_and_can_be_left_out(tmp_path):
    path = geojson(tmp_path / "a.geojson", feature([square(0, 0, 40)]), feature([square(80, 0, 40)], "Other"))
    assert masks(path, region_classes={"Tumor": "TUM", "Other": None}).keys() == {"TUM"}
    assert masks(path, region_classes="Tumor,Other").keys() == {"Tumor", "Other"}
    path = geojson(tmp_path / "b.geojson", feature([square(0, 0, 40)], None))
    assert masks(path).keys() == {""}  # where, and of no class


WRONG = {
    "unclosed": ([feature([square(10, 10, 50, closed=False)])], r"region 1 is not closed, it begins at \(10, 10\)"),
    "outside": (
        [feature([square(WIDTH - 10, 10, 500)])],
        r"region 1 \(Tumor\) has the point .*outside the slide of 1536",
    ),
    "unknown class": ([feature([square(0, 0, 50)], "Tumour")], r"the class 'Tumour' is not among \['Tumor'\]"),
    "some without class": ([feature([square(0, 0, 50)]), feature([square(0, 0, 50)], None)], "some have none"),
    "a point": ([feature([1, 2], kind="Point")], "region 1 is a Point, which has no area"),
    "a line": ([feature([[[0, 0], [5, 5], [0, 0]]])], "fewer than three points"),
    "text": ([feature([[["a", 0], [5, 5], [9, 9], ["a", 0]]])], "no pair of numbers"),
    "not a number": ([feature([[[0, 0], [float("nan"), 5], [9, 9], [0, 0]]])], "no pair of numbers"),
    "nothing": ([], "it has no region"),
    "no geometry": ([{"type": "Feature"}], "not as QuPath"),
    "a name that is no folder": ([feature([square(0, 0, 50)], "a/b")], "class name 'a/b' can't be used"),
}


@pytest.mark.parametrize("features, said", WRONG.values(), ids=WRONG)
def test_a_wrong_geojson_is_named(tmp_path, features, said):
    path = geojson(tmp_path / "wrong one.geojson", *features)
    with pytest.raises(SlideError, match=f"wrong one.geojson: .*{said}"):
        RegionRule(tmp_path, ["Tumor"] if "Tumour" in said else None).read(path, Bounds)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.geojson", "{", "it is no .geojson file"),
        ("a.xml", "<a", "it is no .xml file"),
        ("a.xml", "<svg/>", "begins with <svg>, which is neither"),
        (
            "a.xml",
            '<!DOCTYPE a [<!ENTITY x "y">]><Annotations>&x;</Annotations>',
            "defines entities or a document type",
        ),
        ("a.xml", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><Annotations/>', "defines entities or a document type"),
        ("a.xml", ASAP.replace('"Polygon"', '"Dot"'), "region 1 is a Dot, which has no area"),
        ("a.xml", APERIO.replace('Type="0"', 'Type="2"'), "is an ellipse, arrow or ruler"),
        ("a.xml", ASAP.replace('X="400"', ""), "no pair of numbers"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SlideError, match=f"{name}: .*{said}"):
        RegionRule(tmp_path).read(tmp_path / name, Bounds)


def test_a_definition_in_another_encoding_is_found_too(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><Annotations>&x;</Annotations>'
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(SlideError, match="defines entities"):
        RegionRule(tmp_path).read(tmp_path / "a.xml", Bounds)


def test_settings_and_missing_files_are_named(tmp_path):
    with pytest.raises(SlideError, match="has 0 files of regions for the slide 'one'; one named one.geojson"):
        RegionRule(tmp_path).file("one")
    geojson(tmp_path / "one.geojson"), (tmp_path / "one.xml").touch()
    with pytest.raises(SlideError, match="has 2 files"):
        RegionRule(tmp_path).file("one")
    for given, said in (
        ({"minimum_region": 0}, "--minimum_region is 0"),
        ({"region_classes": ["a"]}, "there is no --regions_dir"),
        ({"regions_dir": tmp_path, "region_classes": ["a/b"]}, "--region_classes: the class name 'a/b'"),
        ({"regions_dir": tmp_path / "none"}, "--regions_dir: there is no folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            RegionRule(**given)
