"""The study: every row of the table, run by run, each found again where it was done before."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from filelock import FileLock

from bundle.data.split import fingerprint_split, read_split
from bundle.downstream.study.finished import finished_rows, finished_runs
from bundle.downstream.study.pools import MADE_WITH, LabelledSplit, StudyPools
from bundle.downstream.study.rows import COLOUR, Row
from bundle.downstream.study.table import write_tables
from bundle.downstream.study.training import DONE, FAILED, Training, one_line, train, training_processes
from bundle.runs.files import write_json
from bundle.runs.folder import RunFolder
from bundle.runs.processes import leave_torchrun
from bundle.selection.table import read_selection

logger = logging.getLogger(__name__)

VARIANTS = {"plain": False, "normalised": True}  # whether all images are brought to one pair of stains


class Study:
    """Trains the classifier for every row, variant and seed, and writes the table after each.

    Of several processes of one torchrun each trains its share of them; what several need is made by the one that comes
    first. Who ends last writes the whole table.

    Args:
        folder: the run's folder.
        rows: see :func:`bundle.downstream.study.rows.choose_rows`.
        variants: of `VARIANTS`; or their names with commas.
        seeds: how many runs of each row.
        seed: of the first; run i has seed + i.
        labelled: which labelled images each seed has.
        data, chain: see :class:`bundle.downstream.study.pools.StudyPools`.
        training: how the classifiers of all rows are trained.
        classifiers: folders of finished trainings by name, rows of their own; see `bundle.downstream.study.finished`.

    Raises:
        ValueError: an unknown variant, or finished trainings where each seed draws its own labels.
    """

    def __init__(
        self,
        folder: RunFolder,
        rows: Sequence[Row],
        variants: Sequence[str] | str,
        seeds: int,
        seed: int,
        labelled: LabelledSplit,
        data: Mapping[str, Any],
        chain: Mapping[str, Mapping[str, Any]],
        training: Training,
        classifiers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        self.variants = [name.strip() for name in variants.split(",")] if isinstance(variants, str) else list(variants)
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or not self.variants:
            raise ValueError(f"--variants is {self.variants}; it must name some of {', '.join(VARIANTS)}")
        if classifiers and labelled.vary:
            raise ValueError("--classifiers were trained on one labelled split: leave out --vary_split True")
        self.folder = folder
        self.rows = list(rows)
        self.classifiers = dict(classifiers or {})
        self.finished_rows = finished_rows(self.classifiers)
        self.seeds = [seed + number for number in range(seeds)]
        self.labelled = labelled
        self.data = dict(data)
        self.chain = {name: dict(settings) for name, settings in chain.items()}
        self.training = training
        self._made: dict[Hashable, Any] = {}
        self._making = FileLock(Path(folder.path) / ".making.lock")

    def run(self, next_command: str = "") -> None:
        """Runs what is missing; a run that fails is noted in the table, and the next one begins.

        Raises:
            ValueError: a run was done with other settings or another split.
            RuntimeError: every run failed.
        """
        self.folder.open()
        try:
            rank, size = leave_torchrun()  # a training of this process is not shared with the others
            self.folder.save_config()
            self.read_finished()
            runs = self.planned()
            for run in runs:
                self.require_same(run)
            runs = runs[rank::size]
            self.perform([run for run in runs if self.recorded(run)["status"] != DONE])
            self.write()
            if runs and all(self.recorded(run)["status"] != DONE for run in runs):
                raise RuntimeError(f"every run failed; the first one so: {self.recorded(runs[0])['status']}")
        finally:
            self.folder.close()
        self.folder.report(["table.md", "table.html", "results.csv", "accuracy_by_ratio.png"], next_command)

    def planned(self) -> list[dict[str, Any]]:
        """All runs, the first seed of every row before the second of any, so that a first look comes early."""
        return [self.plan(row, variant, seed) for seed in self.seeds for row in self.rows for variant in self.variants]

    def plan(self, row: Row, variant: str, seed: int) -> dict[str, Any]:
        """A run: its row, variant, seed, name and folder, the "settings" of its classifier, and in "made_with" those
        that the images depend on."""
        settings = self.training.settings(row, seed=seed, normalise_stain=VARIANTS[variant])
        made_with = {"patch_size": self.data["patch_size"], "vary_split": self.labelled.vary}
        if self.labelled.vary:
            made_with |= {**self.labelled.labels, "adaptation": self.chain["adaptation"]}
        if row.pool is not None:
            settings |= {"selection": row.selection, "ratio": row.ratio}
            own = {row.pool: self.chain["pools"][row.pool]} if row.pool in self.chain["pools"] else {}
            names = ("selection",) if own else MADE_WITH[row.pool]
            made_with |= {**{name: self.chain[name] for name in names}, "pools": own}
        return {
            "row": row,
            "variant": variant,
            "seed": seed,
            "name": f"{row.title}, {variant}, seed {seed}",
            "settings": settings,
            "made_with": made_with,
            "folder": self.folder / "runs" / row.name / variant / f"seed_{seed}",
        }

    def perform(self, runs: Sequence[dict[str, Any]]) -> None:
        """Trains what is missing, some at a time, and writes the table after each."""
        with training_processes(self.training.parallel_runs) as trainers:
            under_way: set[Future] = set()
            for number, run in enumerate(runs):
                logger.info(f"study: run {number + 1} of {len(runs)} still to do: {run['name']}")
                under_way |= self.begin(run, trainers)
                if len(under_way) >= self.training.parallel_runs:
                    under_way = self.finished(under_way)
            while under_way:
                under_way = self.finished(under_way)

    def begin(self, run: dict[str, Any], trainers: Executor) -> set[Future]:
        """Has a run trained, after what it needs was made; none where that failed, which its run.json then says."""
        row = run["row"]
        facts = {"row": row.name, **{name: run[name] for name in ("variant", "seed", "settings", "made_with")}}
        try:
            pools = self.pools(run["seed"])
            places = {"split_file": str(pools.split_file), "output_dir": str(run["folder"])}
            settings = {**pools.labelled_data, **run["settings"], **places}
            if row.pool is not None:
                settings["selection_file"], facts["selection"] = self.selection(row.pool, run["seed"])
            facts["split"] = self.split(run["seed"])
        except Exception as error:  # one broken row must not cost the others
            logger.exception(f"study: {run['name']} failed")
            write_json(run["folder"] / "run.json", {**facts, "status": FAILED + one_line(error)})
            return set()
        run_id = "colour_control" if row.name == COLOUR else "run"
        return {trainers.submit(train, run["name"], run["folder"], facts, run_id, settings)}

    def finished(self, under_way: set[Future]) -> set[Future]:
        """Waits for one or more runs to end, and writes the table; the others.

        Raises:
            concurrent.futures.process.BrokenProcessPool: a process was killed, as by a system out of memory.
        """
        ended, others = wait(under_way, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()
        self.write()
        return others

    def recorded(self, run: dict[str, Any]) -> dict[str, Any]:
        """What is known of a run."""
        path = run["folder"] / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"status": "not run yet"}

    def require_same(self, run: dict[str, Any]) -> None:
        """Refuses a run that was done with other settings, or with other labelled images.

        Raises:
            ValueError: names the first setting that differs.
        """
        facts = self.recorded(run)
        if facts["status"] != DONE:
            return
        for part in ("settings", "made_with"):
            former, wanted = facts.get(part, {}), json.loads(json.dumps(run[part]))
            for name in {**former, **wanted}:
                if former.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{run['folder']} was run with --{name} {former.get(name)}, this study asks for "
                        f"{wanted.get(name)}: give the former setting, or another --output_dir"
                    )
        found = self.split(run["seed"])
        if facts["split"] != found:
            raise ValueError(
                f"{run['folder']} was run on the labelled split {facts['split']}, and {self.split_file(run['seed'])} "
                f"is {found}: give the former --adapted_dir, or another --output_dir"
            )

    def place(self, seed: int) -> Path:
        """Where what belongs to a seed's labelled split is kept."""
        return self.folder / "splits" / f"seed_{seed}" if self.labelled.vary else self.folder.path

    def split_file(self, seed: int) -> Path:
        folder = self.place(seed) / "adapt" if self.labelled.vary else Path(self.labelled.adapted_dir).expanduser()
        return folder / "split.csv"

    def split(self, seed: int) -> str:
        """The fingerprint of a seed's labelled split, which exists."""
        path = self.split_file(seed)
        return self.once(("split", path), lambda: fingerprint_split(read_split(path)))

    def pools(self, seed: int) -> StudyPools:
        """What belongs to the labelled split of a seed, drawn and adapted to here where each has its own."""
        folder, adapted_dir = self.place(seed), self.split_file(seed).parent

        def make() -> StudyPools:
            if not self.labelled.vary:
                return StudyPools(folder, adapted_dir, self.data, self.chain)
            # Of built-in patches each seed has its own, and their folder holds those of one.
            own = {"cache_dir": str(folder / "cache")} if self.data["dataset_dir"] is None else {}
            pools = StudyPools(folder, adapted_dir, {**self.data, **own}, self.chain, seed)
            pools.adapt(adapted_dir, **self.labelled.labels)
            return pools

        return self.once(("pools", folder), make)

    def selection(self, pool: str, seed: int) -> tuple[str, str]:
        """The selection of a pool, and a hash of what it chose.

        Raises:
            ValueError: another row or seed was run with another choice, as before the pool was extended.
        """
        folder = self.place(seed)

        def make() -> tuple[str, str]:
            path = self.pools(seed).select(pool)
            chosen = sorted((row.file, row.ratio or 0, row.random_ratio or 0) for row in read_selection(path)[0])
            digest = hashlib.sha256(repr(chosen).encode()).hexdigest()
            for run in self.planned():
                if run["row"].pool == pool and self.place(run["seed"]) == folder:
                    recorded = self.recorded(run)
                    if recorded["status"] == DONE and recorded["selection"] != digest:
                        raise ValueError(
                            f"{path} has changed since {run['folder']} was run, as when its pool was extended: study "
                            "it with another --output_dir"
                        )
            return str(path), digest

        return self.once(("selection", pool, folder), make)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What several runs share; an error is kept as well, so that it isn't run into again and again.

        One process makes it at a time; the next one finds it made.
        """
        if key not in self._made:
            try:
                with self._making:
                    self._made[key] = make()
            except Exception as error:
                self._made[key] = error
        if isinstance(self._made[key], Exception):
            raise self._made[key]
        return self._made[key]

    def write(self) -> None:
        """The table of what there is so far."""
        runs = [{**run, "facts": self.recorded(run)} for run in self.planned()]
        rows = [*self.rows, *self.finished_rows]
        write_tables(self.folder, rows, self.variants, [*runs, *self.read_finished()], self.labelled.vary)

    def read_finished(self) -> list[dict[str, Any]]:
        """The runs that were trained elsewhere."""
        if not self.classifiers:
            return []
        variants = {VARIANTS[name]: name for name in self.variants}
        return finished_runs(self.classifiers, variants, self.split_file(self.seeds[0]))
