"""Throughput of the tiling against a bare OpenSlide loop over the same fields with JPEG encoding, in one run.

    python scripts/bench_tiling.py SLIDES [--mpp 0.5] [--patch_size 256] [--processes 2] [--rounds 5]

Both share the slides among as many processes, and the start of a process is not counted. The tiling does all that it
does in a run: it looks for tissue, measures sharpness, writes archives, pictures, rows and records. The two take turns,
and the best round of each counts, by the clock and by the time that the processors spent, which other work on the
machine disturbs less. Each slide is there once for each process, by links, so that one slide suffices.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.runs.context import RunContext  # noqa: E402
from bundle.slides.fields import FieldRule  # noqa: E402
from bundle.slides.regions import RegionRule  # noqa: E402
from bundle.slides.slide_folder import SlideFolder  # noqa: E402
from bundle.slides.storage import Storage  # noqa: E402
from bundle.slides.tiling import Tiling  # noqa: E402
from bundle.slides.tissue import TissueRule  # noqa: E402
from bundle.slides.worker import Plan, SlideTiler  # noqa: E402

Rows = list[dict[str, str]]


def bare(job: tuple[Path, Rows, Storage]) -> tuple[int, float]:
    """Number of fields, and seconds of the processor, of OpenSlide and Pillow alone."""
    import openslide
    from PIL import Image

    path, rows, storage = job
    started = time.process_time()
    with openslide.OpenSlide(path) as slide:
        for row in rows:
            pixels, size = int(row["pixels"]), int(row["patch_size"])
            image = slide.read_region((int(row["x"]), int(row["y"])), int(row["level"]), (pixels, pixels))
            image = image.convert("RGB")
            if pixels != size:
                image = image.resize((size, size), Image.Resampling.BICUBIC)
            image.save(io.BytesIO(), "JPEG", quality=storage.jpeg_quality, subsampling=storage.jpeg_subsampling)
    return len(rows), time.process_time() - started


def tiled(job: tuple[Plan, str, str]) -> tuple[int, float]:
    """Likewise of the tiling of a slide, with all that it does and writes."""
    started = time.process_time()
    return SlideTiler(*job).run()["patches"], time.process_time() - started


def rates(work: Callable[[Any], tuple[int, float]], jobs: list, pool) -> tuple[float, float]:
    """Patches a second by the clock, and a second of a processor."""
    started = time.perf_counter()
    patches, seconds = map(sum, zip(*pool.map(work, jobs, chunksize=1)))
    return patches / (time.perf_counter() - started), patches / seconds


def warm_up(number: int) -> None:
    """Has a process import what it needs."""
    import monai.data.wsi_reader  # noqa: F401
    import openslide  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides_dir", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--patch_size", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    storage = Storage()
    with tempfile.TemporaryDirectory() as folder:
        for slide in SlideFolder(given.slides_dir, folder).find().values():
            for copy in range(given.processes):
                link = Path(folder, "slides", f"{copy}_{Path(slide).name}")
                link.parent.mkdir(exist_ok=True)
                link.symlink_to((given.slides_dir / slide).resolve())
        parts = SlideFolder(Path(folder, "slides"), folder), TissueRule(), RegionRule()
        fields = FieldRule(mpp=given.mpp, patch_size=given.patch_size)
        tiling = Tiling(*parts, fields, storage, RunContext(Path(folder, "run")), given.processes)
        tiling.check()
        tiling.run_share()
        tiling.run()
        rows: dict[str, Rows] = defaultdict(list)
        with open(Path(folder, "run", "patches.csv"), newline="", encoding="utf-8") as table:
            for row in csv.DictReader(table):
                rows[row["slide"]].append(row)
        of_bare = [(tiling.plan.slides_dir / tiling.found[name], own, storage) for name, own in rows.items()]
        of_tiling = [(tiling.plan, name, tiling.found[name]) for name in rows]
        with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
            pool.map(warm_up, range(4 * given.processes), chunksize=1)
            best = {bare: (0.0, 0.0), tiled: (0.0, 0.0)}
            for _ in range(given.rounds):
                for work, jobs in ((bare, of_bare), (tiled, of_tiling)):
                    best[work] = tuple(map(max, best[work], rates(work, jobs, pool)))
    patches = sum(map(len, rows.values()))
    print(f"{patches} patches of {len(rows)} slides, {given.processes} processes; the best of {given.rounds} rounds:")
    for at, what in enumerate(("by the clock", "by processor time")):
        plain, whole = best[bare][at], best[tiled][at]
        print(f"{what}: bare {plain:.0f}, tiling {whole:.0f} patches a second, ratio {whole / plain:.3f}")


if __name__ == "__main__":
    main()
