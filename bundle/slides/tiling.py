"""Tiling a folder of slides: the stage of `configs/tile.json`."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from bundle.data.slide_patches import COLUMNS, KIND, RECORD, TABLE, read_record
from bundle.runs import job
from bundle.runs.checks import check_counts
from bundle.runs.context import RunContext
from bundle.runs.files import write_atomically, write_json
from bundle.runs.tables import csv_bytes
from bundle.slides.fields import FieldRule
from bundle.slides.regions import RegionRule
from bundle.slides.shown import save_contact_sheet
from bundle.slides.slide_folder import SlideFolder
from bundle.slides.storage import Storage
from bundle.slides.tissue import TissueRule
from bundle.slides.worker import RECORDS, Plan, tile_slide

logger = logging.getLogger(__name__)

SHOWN = 5  # slides named in a line of the log


class Tiling:
    """Cuts slides into patches, slide by slide; a stage of `run_stages`.

    A finished slide is recorded and never read again, so the same command goes on where it was killed. One that can't
    be used is named, counted, left out, and tried again by the next command.

    Args:
        slides: where they are.
        tissue: how tissue is told from glass.
        regions: which regions are taken, and of which class they are.
        fields: which fields are taken.
        storage: how patches are kept.
        context: of the run.
        processes: that share the slides of this machine; None for one a core.
    """

    stage = "tiling"
    pictures = ("patches.csv", "contact_sheet.png")

    def __init__(
        self,
        slides: SlideFolder,
        tissue: TissueRule,
        regions: RegionRule,
        fields: FieldRule,
        storage: Storage,
        context: RunContext,
        processes: int | None = None,
    ) -> None:
        if processes is not None:
            check_counts(processes=processes)
        if regions.regions_dir is not None and fields.coordinates_dir is not None:
            raise ValueError("--regions_dir and --coordinates_dir both say which fields are taken; leave one out")
        self.slides, self.tissue, self.regions, self.fields = slides, tissue, regions, fields
        self.storage = storage
        self.processes = processes
        self.folder = context.folder
        self.speed: dict[str, float] = {}
        self.folder.place = slides.place if slides.place[1] > 1 else None

    def check(self) -> None:
        """Finds the slides.

        Raises:
            see :meth:`bundle.slides.slide_folder.SlideFolder.find`; ValueError where the folder is of other settings.
        """
        if self.slides.generated:
            logger.info("no --slides_dir was given, so built-in slides are made: procedural pictures, not tissue")
        self.found = self.slides.find()
        self.plan = Plan(
            self.folder.path,
            self.slides.slides_dir,
            self.tissue,
            self.regions,
            self.fields,
            self.storage,
            self.slides.assume_mpp,
            self.slides.reader,
            self.slides.generated,
        )
        self._claim()

    def run_share(self) -> None:
        """Writes archives and pictures of the slides that are this process's.

        Raises:
            OSError: the disk is full.
            RuntimeError: the system ended a process.
        """
        self.folder.save_config()
        started = time.monotonic()
        own = self.slides.own(self.found)
        waiting = {name: path for name, path in own.items() if not self.plan.is_done(name, path)}
        if len(waiting) < len(own):
            logger.info(f"{len(own) - len(waiting)} slides were finished before")
        patches = 0
        with tqdm(total=len(waiting), desc="tiling", unit="slide", disable=not waiting) as bar:
            for name, record in self._tile(waiting):
                if "full" in record:
                    raise OSError(errno.ENOSPC, record["full"])
                if "failed" in record:
                    logger.warning(f"left out: {record['failed']}")
                patches += record.get("patches", 0)
                bar.update()
        seconds = time.monotonic() - started
        if patches and job.size() == 1:  # of its own share a process can't say how fast all were
            self.speed = {"seconds": round(seconds, 1), "patches_a_second": round(patches / seconds, 1)}

    def run(self) -> None:
        """Writes `patches.csv`, the contact sheet, and the section "tiling" of `metrics.json`, of all slides.

        Raises:
            OSError: the disk is full.
            ValueError: no slide could be used.
        """
        with FileLock(self.folder / ".merging"):  # shards may end at one time, and the last must see all
            figures = self._merge() | self.speed
            self.folder.set_metrics(self.stage, figures)
        self._report(figures)

    def _tile(self, waiting: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and record of each slide, as they are done."""
        processes = min(self.processes or _cores(), len(waiting))
        if processes <= 1:
            yield from ((name, tile_slide(self.plan, name, path)) for name, path in waiting.items())
            return
        # New processes, as this one may have threads and a GPU. Each opens the slides that it reads.
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            tasks = {pool.submit(tile_slide, self.plan, name, path): name for name, path in waiting.items()}
            try:
                for task in as_completed(tasks):
                    yield tasks[task], task.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"the system ended one of {processes} processes, mostly for want of memory; give the same command "
                    f"again with fewer, such as --processes {max(1, processes // 2)}. Finished slides stay"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)

    def _claim(self) -> None:
        """Writes what the folder is for, or makes sure that it is for this.

        Raises:
            ValueError: it is for other settings; names the first.
        """
        path = self.folder / RECORD
        identity = self.plan.identity()
        before: dict[str, str] = {}
        if path.is_file():
            record = read_record(self.folder.path)
            before = record["slides"]
            for name in identity.keys() | record["identity"].keys():
                had, has = record["identity"].get(name), identity.get(name)
                if had != has:
                    raise ValueError(
                        f"{self.folder.path} holds patches taken with {name} {had!r}, and {has!r} is asked for; "
                        "give the former value, or another --output_dir"
                    )
        write_json(
            path,
            {
                "kind": KIND,
                "slides_dir": str(self.slides.slides_dir.resolve()),
                "format": self.storage.format,
                "assume_mpp": self.slides.assume_mpp,
                "reader": self.slides.reader,
                "identity": identity,
                "slides": {**before, **self.found},
            },
        )

    def _merge(self) -> dict[str, Any]:
        """One table, one sheet and the figures of all slides that are finished, by whatever process."""
        names = sorted(read_record(self.folder.path)["slides"])
        records = {name: _read(self.plan.record_file(name)) for name in names}
        records = {name: record for name, record in records.items() if record is not None}
        failed = {name: _read(self.plan.failure_file(name)) for name in names if name not in records}
        failed = {name: record["failed"] for name, record in failed.items() if record is not None}
        header = csv_bytes([COLUMNS])

        def join(temporary: Path) -> None:
            with open(temporary, "wb") as table:
                table.write(header)
                for name in records:
                    table.write(self.plan.rows_file(name).read_bytes().removeprefix(header))

        write_atomically(self.folder / TABLE, join)
        left_out, classes = Counter(), Counter()
        for record in records.values():
            left_out.update(record["left_out"])
            classes.update(record["classes"])
        patches = sum(record["patches"] for record in records.values())
        shown = {name: self.folder / RECORDS / f"{name}.png" for name in records}
        what = "procedural pictures, not tissue" if self.slides.generated else "slides"
        save_contact_sheet(
            self.folder / "contact_sheet.png", shown, f"{patches} patches of {len(records)} {what}; some of each"
        )
        return {
            "slides": len(names),
            "finished": len(records),
            "waiting": len(names) - len(records) - len(failed),
            "failed": failed,
            "without_patches": [name for name, record in records.items() if not record["patches"]],
            "patches": patches,
            "classes": dict(sorted(classes.items())),
            "left_out": dict(sorted(left_out.items())),
            "tissue_mm2": round(sum(record["tissue_mm2"] for record in records.values()), 3),
            "bytes": sum(record["bytes"] for record in records.values()),
            "slide_seconds": round(sum(record["seconds"] for record in records.values()), 1),
            "generated_slides": self.slides.generated,
        }

    def _report(self, figures: dict[str, Any]) -> None:
        """Says what came out and what didn't.

        Raises:
            ValueError: nothing came out of any slide.
        """
        parts = [f"{figures['patches']} patches of {figures['finished']} slides"]
        parts += [f"{count} {name}" for name, count in figures["classes"].items()]
        logger.info("; ".join(parts))
        if figures["left_out"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in figures["left_out"].items())
            logger.info(f"fields left out: {reasons}")
        if empty := figures["without_patches"]:
            logger.warning(
                f"{len(empty)} slides gave no patch: {', '.join(empty[:SHOWN])}; look at thumbnails/, and lower "
                "--minimum_tissue or the thresholds of --tissue where tissue was missed"
            )
        if failed := figures["failed"]:
            logger.warning(f"{len(failed)} slides can't be used; metrics.json says why. The next run tries again")
        if figures["waiting"]:
            logger.info(f"{figures['waiting']} slides are left to other shards")
        if not figures["patches"] and not figures["waiting"]:
            reason = next(iter(failed.values()), f"{', '.join(empty[:SHOWN])} gave none; look at thumbnails/")
            raise ValueError(f"none of {figures['slides']} slides gave a patch: {reason}")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
