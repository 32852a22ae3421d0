"""The study: every row of the table, run by run, each found again where it was done before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.chain import run_config
from bundle.data.split import fingerprint_split, read_split
from bundle.files import write_json
from bundle.run_folder import RunFolder
from bundle.study.pools import StudyPools
from bundle.study.rows import COLOUR, Row
from bundle.study.table import write_tables

logger = logging.getLogger(__name__)

VARIANTS = {"plain": False, "normalised": True}  # whether all images are brought to one pair of stains


class Study:
    """Trains the classifier for every row, variant and seed, and writes the table after each.

    Args:
        folder: the run's folder.
        rows: see :func:`bundle.study.rows.choose_rows`.
        variants: of `VARIANTS`.
        seeds: how many runs of each row.
        seed: of the first; run i has seed + i.
        adapted_dir: the adaptation that the labelled split and the guided pool come from.
        pools: makes pools and selections; with `vary_split` a function of folder that gives one for each seed.
        classification: settings of configs/classify.json.
        steps: optimiser steps of every row but those that ask for a share of them.
        strong_stain: settings of configs/classify.json for rows with strong stain augmentation.
        vary_split: whether each seed redraws the labelled images, and does everything after it anew.

    Raises:
        ValueError: an unknown variant.
    """

    def __init__(
        self,
        folder: RunFolder,
        rows: Sequence[Row],
        variants: Sequence[str],
        seeds: int,
        seed: int,
        adapted_dir: str | Path,
        data: Mapping[str, Any],
        chain: Mapping[str, Mapping[str, Any]],
        classification: Mapping[str, Any],
        steps: int,
        strong_stain: Mapping[str, Any],
        vary_split: bool = False,
    ) -> None:
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown or not variants:
            raise ValueError(f"--variants is {list(variants)}; it must name some of {', '.join(VARIANTS)}")
        self.folder = folder
        self.rows = list(rows)
        self.variants = list(variants)
        self.seeds = [seed + number for number in range(seeds)]
        self.adapted_dir = Path(adapted_dir).expanduser()
        self.data = dict(data)
        self.chain = {name: dict(settings) for name, settings in chain.items()}
        self.classification = dict(classification)
        self.steps = steps
        self.strong_stain = dict(strong_stain)
        self.vary_split = vary_split
        self.selections: dict[tuple[str, int], Path | Exception] = {}

    def run(self, next_command: str = "") -> None:
        """Runs what is missing; a run that fails is noted in the table, and the next one begins.

        Raises:
            RuntimeError: every run failed.
        """
        self.folder.open()
        try:
            self.folder.save_config()
            runs = self.planned()
            for number, run in enumerate(runs):
                if run["file"].is_file() and self.recorded(run)["status"] == "done":
                    continue
                logger.info(f"study: run {number + 1} of {len(runs)}: {run['name']}")
                self.perform(run)
                self.write()
            self.write()
            if all(self.recorded(run)["status"] != "done" for run in runs):
                raise RuntimeError(f"every run failed; the first one so: {self.recorded(runs[0])['status']}")
        finally:
            self.folder.close()
        self.folder.report(["table.md", "table.html", "results.csv", "accuracy_by_ratio.png"], next_command)

    def planned(self) -> list[dict[str, Any]]:
        """All runs, the first seed of every row before the second of any, so that a first look comes early."""
        return [self.plan(row, variant, seed) for seed in self.seeds for row in self.rows for variant in self.variants]

    def plan(self, row: Row, variant: str, seed: int) -> dict[str, Any]:
        folder = self.folder / "runs" / row.name / variant / f"seed_{seed}"
        settings = {**self.classification, **row.settings, "seed": seed, "normalise_stain": VARIANTS[variant]}
        settings["classifier_steps"] = max(1, round(self.steps * row.steps))
        if row.stain:
            settings |= self.strong_stain
        if row.pool is not None:
            settings |= {"selection": row.selection, "ratio": row.ratio}
        name = f"{row.title}, {variant}, seed {seed}"
        return {
            "row": row,
            "variant": variant,
            "seed": seed,
            "name": name,
            "settings": settings,
            "folder": folder,
            "file": folder / "run.json",
        }

    def perform(self, run: dict[str, Any]) -> None:
        """One run; what it came to is in its run.json."""
        row = run["row"]
        facts = {"row": row.name, "variant": run["variant"], "seed": run["seed"], "settings": run["settings"]}
        try:
            settings = dict(run["settings"])
            adapted = self.adaptation(run["seed"])
            if row.pool is not None:
                settings["selection_file"] = str(self.selection(row.pool, run["seed"]))
            run_config(
                "classify.json",
                "colour_control" if row.name == COLOUR else "run",
                **{**self.data, **settings},
                split_file=str(adapted / "split.csv"),
                output_dir=str(run["folder"]),
            )
            metrics = json.loads((run["folder"] / "metrics.json").read_text(encoding="utf-8"))
            split = fingerprint_split(read_split(adapted / "split.csv"))
            facts |= {"status": "done", "split": split, "metrics": metrics}
        except Exception as error:  # one broken row must not cost the others
            logger.exception(f"study: {run['name']} failed")
            while error.__cause__ is not None:
                error = error.__cause__
            facts["status"] = f"failed: {type(error).__name__}: {error}"
        write_json(run["file"], facts)

    def recorded(self, run: dict[str, Any]) -> dict[str, Any]:
        """What is known of a run.

        Raises:
            ValueError: it was done with other settings; the first that differs is named.
        """
        if not run["file"].is_file():
            return {"status": "not run yet"}
        facts = json.loads(run["file"].read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(run["settings"]))
        for name in {**facts["settings"], **wanted}:
            if facts["status"] == "done" and facts["settings"].get(name) != wanted.get(name):
                raise ValueError(
                    f"{run['folder']} was run with --{name} {facts['settings'].get(name)}, this study asks for "
                    f"{wanted.get(name)}: give the former setting, or another --output_dir"
                )
        return facts

    def place(self, seed: int) -> Path:
        """Where what belongs to a seed's labelled split is kept."""
        return self.folder.path / "splits" / f"seed_{seed}" if self.vary_split else self.folder.path

    def pools(self, seed: int) -> StudyPools:
        return StudyPools(self.place(seed), self.data, **self.chain)

    def adaptation(self, seed: int) -> Path:
        """The adaptation of a seed: the one given, or with `vary_split` one on labels drawn anew."""
        if not self.vary_split:
            return self.adapted_dir
        folder = self.place(seed) / "adapt"
        if not (folder / "latent_classifier.pt").is_file():
            settings = {**self.data, **self.chain["adaptation"], "seed": seed}
            settings.pop("patch_size", None)  # is the pre-training's
            run_config("adapt.json", **settings, output_dir=str(folder))
        return folder

    def selection(self, pool: str, seed: int) -> Path:
        """The selection of a pool, made once; an error is kept as well, so that it isn't run into again and again."""
        key = (pool, seed if self.vary_split else self.seeds[0])
        if key not in self.selections:
            try:
                self.selections[key] = self.pools(seed).select(pool, self.adaptation(seed))
            except Exception as error:
                self.selections[key] = error
                raise
        found = self.selections[key]
        if isinstance(found, Exception):
            raise found
        return found

    def write(self) -> None:
        """The table of what there is so far."""
        runs = [{**run, "facts": self.recorded(run)} for run in self.planned()]
        write_tables(self.folder, self.rows, self.variants, runs, self.vary_split)
