"""Regions with class names that people drew on slides: GeoJSON as QuPath exports it, XML of ASAP and of Aperio."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from skimage.draw import polygon as pixels_of_polygon

from bundle.data.class_names import check_class_names, parse_class_names
from bundle.data.names import nfc
from bundle.data.slides import Slide, SlideError

SUFFIXES = (".geojson", ".json", ".xml")
OUTSIDE = 0.01  # of the longer side: by so much a hand may draw beyond the slide
SHOW_CLASSES = "give --region_classes those that are meant, or None for all"


class Region(NamedTuple):
    """An area with its holes; rings are float [N, 2], (x, y) in pixels of level 0. The class may be ''."""

    name: str
    outer: np.ndarray
    holes: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class RegionRule:
    """Which regions say where patches are taken and of which class they are.

    Args:
        regions_dir: folder with a file for each slide, `SLIDE.geojson`, `.json` or `.xml`; None for no regions.
        region_classes: names of the regions that are meant, or a mapping of them to the names of the classes, in which
            None leaves a region out; None for all as they are named.
        minimum_region: share of a field, in (0, 1], that must lie within regions of its class.

    Raises:
        ValueError: a value that can't be meant.
    """

    regions_dir: str | Path | None = None
    region_classes: Mapping[str, str | None] | list[str] | str | None = None
    minimum_region: float = 0.75

    def __post_init__(self) -> None:
        share = self.minimum_region
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share <= 1:
            raise ValueError(f"--minimum_region is {share!r}; it must be above 0 and at most 1")
        if self.regions_dir is not None and not Path(self.regions_dir).expanduser().is_dir():
            raise FileNotFoundError(f"--regions_dir: there is no folder {str(self.regions_dir)!r}")
        if self.regions_dir is None and self.region_classes is not None:
            raise ValueError(
                f"--region_classes is {self.region_classes!r}, and there is no --regions_dir to apply it to"
            )
        check_class_names([name for name in self.class_of.values() if name], "--region_classes")

    @property
    def class_of(self) -> dict[str, str | None]:
        """Class by the name of a region; empty where all names are taken."""
        if isinstance(self.region_classes, Mapping):
            return {nfc(str(name)): None if to is None else nfc(str(to)) for name, to in self.region_classes.items()}
        return {name: name for name in parse_class_names(self.region_classes) or ()}

    def file(self, slide: str) -> Path | None:
        """The regions of a slide; None without --regions_dir.

        Raises:
            SlideError: there are none, or several files.
        """
        if self.regions_dir is None:
            return None
        folder = Path(self.regions_dir).expanduser()
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and nfc(path.stem) == slide]
        if len(found) != 1:
            raise SlideError(
                f"--regions_dir {folder} has {len(found)} files of regions for the slide {slide!r}; one named "
                f"{slide}.geojson, .json or .xml is needed"
            )
        return found[0]

    def read(self, path: Path, slide: Slide) -> list[Region]:
        """The regions of a file, by their class.

        Raises:
            SlideError: the file or a region in it can't be used; names file, region and remedy.
        """
        try:
            regions = list(_read_xml(path) if path.suffix.lower() == ".xml" else _read_geojson(path, slide))
        except (UnicodeDecodeError, json.JSONDecodeError, expat.ExpatError, ElementTree.ParseError) as error:
            raise SlideError(f"{path}: it is no {path.suffix} file ({error}); export it again") from error
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise SlideError(
                f"{path}: it is not as QuPath, ASAP or Aperio write it ({error!r}); export it again"
            ) from error
        if not regions:
            raise SlideError(f"{path}: it has no region; draw some, or leave the slide out of --slides_dir")
        for number, region in enumerate(regions, 1):
            _require_inside(region, number, path, slide)
        named = {region.name for region in regions}
        if "" in named and (len(named) > 1 or self.class_of):
            raise SlideError(f"{path}: some regions have a class and some have none; give each one, or remove those")
        known = self.class_of
        unknown = sorted(name for name in named if known and name not in known)
        if unknown:
            raise SlideError(f"{path}: the class {unknown[0]!r} is not among {sorted(known)}; {SHOW_CLASSES}")
        regions = [region._replace(name=known.get(region.name, region.name)) for region in regions]
        try:
            check_class_names(sorted({region.name for region in regions if region.name}), str(path))
        except ValueError as error:
            raise SlideError(str(error)) from error
        return [region for region in regions if region.name is not None]


def class_masks(regions: list[Region], slide: Slide, factor: float, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Bool [H, W] of each class on an overview of a slide, of `factor` pixels of level 0 to one."""
    masks: dict[str, np.ndarray] = {}
    corner = np.array(slide.bounds[:2], float)
    for region in regions:
        mask = masks.setdefault(region.name, np.zeros(shape, bool))
        own = np.zeros(shape, bool)
        for ring, inside in ((region.outer, True), *((hole, False) for hole in region.holes)):
            columns, rows = ((ring - corner) / factor - 0.5).T  # the centre of a pixel is at a half
            own[pixels_of_polygon(rows, columns, shape)] = inside
        mask |= own
    return masks


def _require_inside(region: Region, number: int, path: Path, slide: Slide) -> None:
    limit = OUTSIDE * max(slide.size)
    for ring in (region.outer, *region.holes):
        beyond = np.maximum(-ring, ring - np.array(slide.size)).max(axis=1)
        if beyond.max() > limit:
            x, y = ring[beyond.argmax()]
            raise SlideError(
                f"{path}: region {number} ({region.name or 'without a class'}) has the point ({x:.0f}, {y:.0f}), "
                f"outside the slide of {slide.size[0]} x {slide.size[1]} pixels; it is of another slide, or not in "
                "pixels of the finest level"
            )


def _read_geojson(path: Path, slide: Slide) -> Iterator[Region]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    features = content["features"] if isinstance(content, dict) and "features" in content else content
    # QuPath counts from the corner of what was scanned, where a file says it.
    corner = np.array(slide.bounds[:2], float)
    for number, feature in enumerate(features if isinstance(features, list) else [features], 1):
        geometry, about = feature["geometry"], feature.get("properties") or {}
        kind = about.get("classification") or {}
        name = nfc(str((kind.get("name") if isinstance(kind, dict) else kind) or ""))
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            raise SlideError(f"{path}: region {number} is a {geometry['type']}, which has no area; remove it")
        areas = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in areas:
            outer, *holes = (_closed_ring(ring, number, path) + corner for ring in rings)
            yield Region(name, outer, tuple(holes))


def _closed_ring(points: Any, number: int, path: Path) -> np.ndarray:
    ring = _ring([point[:2] for point in points], number, path)
    if not np.allclose(ring[0], ring[-1]):
        raise SlideError(
            f"{path}: region {number} is not closed, it begins at {_place(ring[0])} and ends at {_place(ring[-1])}; "
            "export it again, or repeat its first point at its end"
        )
    return ring


def _place(point: np.ndarray) -> str:
    return f"({point[0]:g}, {point[1]:g})"


def _ring(points: Any, number: int, path: Path) -> np.ndarray:
    try:
        ring = np.array(points, float)
        if not np.isfinite(ring).all():  # as of a coordinate that is missing
            raise ValueError(f"it is {ring.tolist()[np.argmin(np.isfinite(ring).all(axis=-1))]}")
    except (TypeError, ValueError) as error:
        raise SlideError(f"{path}: region {number} has a point that is no pair of numbers ({error})") from error
    if ring.ndim != 2 or len(np.unique(ring, axis=0)) < 3:
        raise SlideError(f"{path}: region {number} has fewer than three points, so no area; remove it")
    return ring


def _read_xml(path: Path) -> Iterator[Region]:
    content = path.read_bytes()
    _refuse_definitions(content, path)
    root = ElementTree.fromstring(content)
    if root.tag == "ASAP_Annotations":
        for number, drawn in enumerate(root.iter("Annotation"), 1):
            if drawn.get("Type") not in ("Polygon", "Spline", "Rectangle"):
                raise SlideError(f"{path}: region {number} is a {drawn.get('Type')}, which has no area; remove it")
            points = sorted(drawn.iter("Coordinate"), key=lambda point: int(float(point.get("Order", 0))))
            name = drawn.get("PartOfGroup", "None")
            ring = _ring([(point.get("X"), point.get("Y")) for point in points], number, path)
            yield Region("" if name == "None" else nfc(name), ring, ())
    elif root.tag == "Annotations":
        for layer in root.iter("Annotation"):
            yield from _aperio_layer(layer, path)
    else:
        raise SlideError(f"{path}: it begins with <{root.tag}>, which is neither ASAP's nor Aperio's; export it again")


def _aperio_layer(layer: ElementTree.Element, path: Path) -> Iterator[Region]:
    """The regions of a layer, whose name is the class; what Aperio calls a negative region is a hole in the others."""
    named = [layer.get("Name"), *(one.get("Name") for one in layer.iter("Attribute"))]
    name = nfc(next((text for text in named if text), ""))
    rings: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for number, drawn in enumerate(layer.iter("Region"), 1):
        points = [(point.get("X"), point.get("Y")) for point in drawn.iter("Vertex")]
        if drawn.get("Type", "0") == "1" and len(points) == 2:  # a rectangle by two of its corners
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif drawn.get("Type", "0") not in ("0", "1"):
            raise SlideError(
                f"{path}: region {number} of {name or 'a layer'} is an ellipse, arrow or ruler; draw it as an area"
            )
        rings[drawn.get("NegativeROA") == "1"].append(_ring(points, number, path))
    for ring in rings[False]:
        yield Region(name, ring, tuple(rings[True]))


def _refuse_definitions(content: bytes, path: Path) -> None:
    """Entities that a file defines itself can unpack to any size, and read other files."""

    def refuse(*_: Any) -> None:
        raise SlideError(f"{path}: it defines entities or a document type, which no annotation needs; export it again")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
