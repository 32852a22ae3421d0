"""One slide from the file to its patches: what a process does that shares the work. Memory is bounded by a few tiles.

A slide is done when its record is there, `slides/NAME.json`, which is written last: after its patches, its pictures and
its rows. So a killed run leaves whole slides, and none that looks done and isn't.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.generated import DESCRIPTION
from bundle.data.slide_patches import ARCHIVES, COLUMNS
from bundle.data.slides import Scale, Slide, SlideError
from bundle.runs.files import is_disk_full, write_atomically, write_json
from bundle.runs.sums import file_sha256
from bundle.runs.tables import csv_bytes
from bundle.slides.coordinates import coordinates_file, read_coordinates
from bundle.slides.fields import BLURRED, NOT_DRAWN, Field, FieldRule, Windows, sharpness
from bundle.slides.overview import read_overview
from bundle.slides.regions import RegionRule, class_masks
from bundle.slides.shown import STRIP, save_strip, save_thumbnail, small
from bundle.slides.storage import Storage
from bundle.slides.tissue import TISSUE, TissueRule

RECORDS = "slides"
LEAST_WINDOW = 8  # pixels a side of a field on the overview, where that may be so large: its shares are no guess then


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done with each slide; the same for all."""

    folder: Path
    slides_dir: Path
    tissue: TissueRule
    regions: RegionRule
    fields: FieldRule
    storage: Storage
    assume_mpp: float | None = None
    reader: str = "auto"
    generated: bool = False

    def identity(self) -> dict[str, Any]:
        """All that decides what comes out, as plain data, but for files, which each slide has its own of."""
        parts = {}
        for part in (self.tissue, self.regions, self.fields, self.storage):
            parts |= {name: value for name, value in dataclasses.asdict(part).items() if not name.endswith("_dir")}
        parts |= {"assume_mpp": self.assume_mpp, "reader": self.reader, "generated": self.generated}
        given = {name: bool(getattr(part, name)) for part, name in self._folders()}
        return json.loads(json.dumps(parts | given))

    def _folders(self) -> Iterator[tuple[Any, str]]:
        yield self.regions, "regions_dir"
        yield self.fields, "coordinates_dir"

    def inputs(self, name: str, path: str) -> dict[str, Any]:
        """What a slide is made from: its size in bytes, and the hash of its regions and coordinates.

        Raises:
            SlideError: it has no regions or coordinates where there must be some.
        """
        place = self.slides_dir / path
        files = list(place.iterdir()) if place.is_dir() else [place]
        regions = self.regions.file(name)
        folder = self.fields.coordinates_dir
        coordinates = None if folder is None else coordinates_file(folder, name)
        return {
            "bytes": sum(file.stat().st_size for file in files),
            "regions": None if regions is None else file_sha256(regions),
            "coordinates": None if coordinates is None else file_sha256(coordinates),
        }

    def record_file(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.json"

    def rows_file(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.csv"

    def failure_file(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.failed.json"

    def is_done(self, name: str, path: str) -> bool:
        """Whether a slide is finished, from the files that are there now; nothing of it is read for that."""
        try:
            record = json.loads(self.record_file(name).read_text(encoding="utf-8"))
            return record["inputs"] == self.inputs(name, path)
        except (OSError, ValueError, KeyError):
            return False


def tile_slide(plan: Plan, name: str, path: str) -> dict[str, Any]:
    """Takes the patches of one slide.

    Returns:
        its record; or {"failed": reason} where it can't be used; or {"full": reason} on a full disk.
    """
    try:
        record = SlideTiler(plan, name, path).run()
        plan.failure_file(name).unlink(missing_ok=True)
        return record
    except (SlideError, OSError) as error:
        if is_disk_full(error):  # as text, since not every error comes whole out of a process
            return {"full": str(error)}
        reason = str(error) if isinstance(error, SlideError) else f"{plan.slides_dir / path}: {error}"
        write_json(plan.failure_file(name), {"path": path, "failed": reason})
        return {"failed": reason}


class SlideTiler:
    """The work on one slide."""

    def __init__(self, plan: Plan, name: str, path: str) -> None:
        self.plan, self.name, self.path = plan, name, path
        self.rows: list[tuple] = []
        self.left_out: Counter = Counter()
        self.shown: list[np.ndarray] = []
        self.taken: list[Field] = []

    def run(self) -> dict[str, Any]:
        """Writes patches, pictures, rows and last the record, which it gives back."""
        started = time.monotonic()
        plan = self.plan
        inputs = plan.inputs(self.name, self.path)
        for stale in (plan.record_file(self.name), self._archive):  # of a slide that has changed since
            stale.unlink(missing_ok=True)
        self.slide = slide = Slide(plan.slides_dir / self.path, plan.assume_mpp, plan.reader)
        given = None
        if plan.fields.coordinates_dir is not None:
            given = read_coordinates(coordinates_file(plan.fields.coordinates_dir, self.name), slide)
        scale = slide.scale(plan.fields.mpp, plan.fields.patch_size) if given is None else given.scale
        overview, factor = read_overview(slide, min(plan.tissue.mpp, scale.footprint * slide.mpp / LEAST_WINDOW))
        found = plan.tissue.find(overview, factor * slide.mpp)
        file = plan.regions.file(self.name)
        classes = None if file is None else class_masks(plan.regions.read(file, slide), slide, factor, found.shape)
        if given is None:
            fields, self.left_out = plan.fields.choose(slide, scale, found, classes, plan.regions.minimum_region)
            strata = plan.fields.strata(fields, self.name)
        else:
            shares = Windows(slide, scale.footprint, found.shape).shares(found == TISSUE, given.places)
            strata = [[Field(*place, share, "")] for place, share in zip(given.places.tolist(), shares.tolist())]
        self._write(strata, scale)
        save_thumbnail(plan.folder / "thumbnails" / f"{self.name}.jpg", overview, found, self._outlines(scale, factor))
        save_strip(plan.folder / RECORDS / f"{self.name}.png", self.shown)
        content = csv_bytes([COLUMNS, *self.rows])
        write_atomically(plan.rows_file(self.name), lambda temporary: temporary.write_bytes(content))
        record = {
            "path": self.path,
            "inputs": inputs,
            "microns_per_pixel": slide.mpp,
            "size": slide.size,
            "tissue_mm2": round(float((found == TISSUE).sum() * (factor * slide.mpp) ** 2 / 1e6), 3),
            "patches": len(self.rows),
            "classes": dict(Counter(field.label for field in self.taken if field.label)),
            "left_out": dict(sorted(self.left_out.items())),
            "bytes": self._archive.stat().st_size if self.rows and plan.storage.suffix else 0,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(plan.record_file(self.name), record)
        return record

    @property
    def _archive(self) -> Path:
        return self.plan.folder / ARCHIVES / f"{self.name}{self.plan.storage.suffix}"

    def _write(self, strata: list[list[Field]], scale: Scale) -> None:
        """Reads the fields, and stores those that are sharp."""
        comment = DESCRIPTION if self.plan.generated else ""

        def take(add) -> None:
            self.rows, self.shown, self.taken = [], [], []
            wanted = set(np.linspace(0, max(len(strata) - 1, 0), STRIP).round().astype(int).tolist())
            for number, stratum in enumerate(strata):
                self._take_one(stratum, scale, add, number in wanted)

        if strata and self.plan.storage.suffix:
            write_atomically(self._archive, lambda temporary: self.plan.storage.fill(temporary, take, comment))
            if not self.rows:
                self._archive.unlink()
        else:
            take(lambda patch, label, name: "")

    def _take_one(self, stratum: list[Field], scale: Scale, add, show: bool) -> None:
        """The first sharp field of some neighbours."""
        # Of given coordinates all are taken, as whoever chose them wanted them.
        least = self.plan.fields.minimum_sharpness if self.plan.fields.coordinates_dir is None else 0
        for tried, field in enumerate(stratum):
            patch = self.slide.read_field(field.x, field.y, scale.level, scale.pixels, scale.patch_size)
            sharp = sharpness(patch)
            if sharp < least:
                self.left_out[BLURRED] += 1
                continue
            self.left_out[NOT_DRAWN] += len(stratum) - tried - 1
            member = add(patch, field.label, f"{self.name}_x{field.x}_y{field.y}")
            file = f"{ARCHIVES}/{self._archive.name}#{member}" if member else ""
            self.taken.append(field)
            size = (scale.level, scale.pixels, scale.patch_size, round(scale.mpp, 5))
            self.rows.append(
                (self.name, field.x, field.y, *size, round(field.tissue, 4), round(sharp, 4), field.label, file)
            )
            if show:
                self.shown.append(small(patch))
            break
        self.left_out = +self.left_out

    def _outlines(self, scale: Scale, factor: float) -> np.ndarray:
        """float [N, 3]: left, top and side of the chosen fields on the overview."""
        corner = self.slide.bounds[:2]
        places = [((field.x - corner[0]) / factor, (field.y - corner[1]) / factor) for field in self.taken]
        return np.array([(*place, scale.footprint / factor) for place in places]).reshape(-1, 3)
