"""The proof: every backbone, amount of labels, row and split, each run found again where it was made before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bundle.downstream.proof.choice import choose, quota
from bundle.downstream.proof.declaration import Declaration, declare, require_declared
from bundle.downstream.proof.frozen import Features
from bundle.downstream.proof.imagery import Pictures, Ref
from bundle.downstream.proof.rows import BASELINE, CONTROLS, SYNTHETIC, Row
from bundle.downstream.proof.scoring import Measured, Scores, gather
from bundle.downstream.proof.splits import Split, Splits
from bundle.downstream.proof.tabulate import write_pages
from bundle.downstream.proof.tiles import StudyTiles
from bundle.downstream.proof.treatments import PLAIN
from bundle.runs.files import write_atomically
from bundle.runs.folder import RunFolder
from bundle.runs.sums import content_hash
from bundle.runs.tables import write_csv

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Group:
    """Pictures that are learned from, with one treatment.

    Attributes:
        refs: which.
        treatment, copy: see :meth:`bundle.downstream.proof.imagery.Pictures.picture`.
        weight: of each.
    """

    refs: Sequence[Ref]
    treatment: str
    copy: int = 0
    weight: float = 1.0


class Backbone(Protocol):
    """What learns from pictures and classifies others.

    Attributes:
        name: in folders and tables.
        identity: plain data that decides what it learns, for a resumed study.
    """

    name: str
    identity: Any

    def lacking(self, row: Row) -> str | None:
        """Why a row means nothing for it; None where it does."""

    def predict(self, row: Row, learned: Sequence[Group], tested: Sequence[Ref], folder: Path) -> np.ndarray:
        """Class of each tested picture, int [M]; the folder is for what a long training keeps."""


class Proof:
    """Runs what is missing and writes the pages.

    Args:
        folder: of the study.
        tiles, splits, pictures: what is learned from and tested on.
        backbones: what learns, by name.
        rows: see :func:`bundle.downstream.proof.rows.choose_rows`; those that were asked for by name must all be
            possible.
        named: whether rows were asked for by name.
        copies: treated copies of each labelled tile, in every row that has copies.
        base: the row whose copies and view synthetic rows have; None for the best baseline of each backbone and amount.
        declared: path of a study file; None where nothing is declared.
        features: of the frozen backbone by which images of pools are chosen; None where there is none.

    Raises:
        ValueError: settings out of range.
    """

    def __init__(
        self,
        folder: RunFolder,
        material: tuple[StudyTiles, Splits, Pictures],
        backbones: Mapping[str, Backbone],
        rows: Sequence[Row],
        named: bool = False,
        copies: int = 4,
        base: str | None = None,
        declared: str | Path | None = None,
        features: Features | None = None,
    ) -> None:
        if not isinstance(copies, int) or isinstance(copies, bool) or copies < 1:
            raise ValueError(f"--copies is {copies!r}; it must be an integer of at least 1")
        known = [row.name for row in rows if row.kind == BASELINE]
        if base is not None and base not in known:
            raise ValueError(f"--base is {base!r}; it must be a baseline among --rows: {', '.join(known)}")
        self.folder = folder
        self.tiles, self.splits, self.pictures = material
        self.backbones = dict(backbones)
        self.rows = list(rows)
        self.named = named
        self.copies = copies
        self.base = base
        self.declared = declared
        self.features = features
        self.notes: list[str] = []
        self.chosen: dict[tuple, list[Ref]] = {}

    def run(self, next_command: str = "") -> None:
        """Runs what is missing, writes the pages after each amount of labels.

        Raises:
            ValueError: unfit data; a run that was made with other settings; a study file that changed.
        """
        self.folder.open()
        try:
            has_runs = any((self.folder / "runs").glob("**/*.npz"))
            declaration = declare(self.declared, self.folder.path, has_runs)
            self.tiles.prepare()
            splits = self.splits.plan(self.tiles)
            self.notes = [*self.tiles.notes, *self.splits.notes(self.tiles)]
            amounts = list(dict.fromkeys(split.amount for split in splits))
            numbers = {name: getattr(self.splits, name) for name in ("draws", "folds", "seed")}
            require_declared(declaration, numbers, self.backbones, amounts, [row.name for row in self.rows])
            self.folder.save_config()
            write_csv(self.folder / "tiles.csv", self.tiles.describe())
            scores: dict[tuple[str, str], Scores] = {}
            for name, backbone in self.backbones.items():
                rows = self.possible(backbone)
                for amount in amounts:
                    own = [split for split in splits if split.amount == amount]
                    scores[name, amount] = self.measure(backbone, amount, own, rows)
                    self.write(scores, declaration)
        finally:
            self.folder.close()
        self.folder.report(["table.md", "table.html", "label_curve.png", "slides.csv", "results.csv"], next_command)

    def possible(self, backbone: Backbone) -> list[Row]:
        """The rows that a backbone can have with what is given; the notes say which it can't.

        Raises:
            ValueError: one of them was asked for by name.
        """
        found = []
        for row in self.rows:
            flag = self.pictures.lacking(row.treatments)
            rare = row.only == "rare" and self.splits.rare_class is None
            reason = f"give --{flag}" if flag else "give --rare_class" if rare else backbone.lacking(row)
            if reason is None:
                found.append(row)
            elif self.named and (flag or rare):
                raise ValueError(f"--rows asks for {row.name}, which needs more: {reason}")
            else:
                self.notes.append(f"not run with {backbone.name}: {row.name} ({reason})")
        return found

    def measure(self, backbone: Backbone, amount: str, splits: Sequence[Split], rows: Sequence[Row]) -> Scores:
        """All rows at one amount of labels: controls first, which decide what synthetic rows stand on."""
        found: dict[str, Measured] = {}
        rare = amount not in map(str, self.splits.numbers)
        for row in (row for row in rows if row.kind in CONTROLS):
            if row.balanced and not rare:  # classes have as many labels
                continue
            found[row.name] = self.measure_row(backbone, splits, row, row)
        scores = Scores(self.tiles, splits, found)
        # What can't be laid under synthetic images is no base.
        possible = [row for row in rows if row.name in found and row.kind == BASELINE and row.start is None]
        best = Scores(self.tiles, splits, {row.name: found[row.name] for row in possible}).best()
        base = next((row for row in rows if row.name == (self.base or best)), None)
        for row in (row for row in rows if row.kind == SYNTHETIC):
            if row.only == "rare" and not rare:
                continue
            if base is None:
                raise ValueError(f"no tile of a new slide is tested, so no base is found for {row.name}: give --base")
            found[row.name] = self.measure_row(backbone, splits, row, base)
        scores.measured = found
        scores.base = base.name if base else ""
        return scores

    def measure_row(self, backbone: Backbone, splits: Sequence[Split], row: Row, base: Row) -> Measured:
        """A row over all splits, on the copies and view of another."""
        laid = row
        if row.kind == SYNTHETIC:
            laid = dataclasses.replace(
                row,
                copies=row.copies or base.copies,
                view=base.view if row.view == PLAIN else row.view,
                mix=row.mix or base.mix,
                balanced=row.balanced or base.balanced,
            )
        predicted, synthetic, helped = {}, [], []
        for split in splits:
            place = self.folder / "runs" / backbone.name / split.folder
            name = f"{row.name}_on_{base.name}" if row.kind == SYNTHETIC else row.name
            path = place / name / f"{split.name}.npz"
            images = self.chosen_images(laid, split)
            identity = self.identity(backbone, laid, split, images)
            if path.is_file():
                with np.load(path) as content:
                    require_same(path, json.loads(str(content["identity"])), identity)
                    predicted[split.name] = content["predicted"].astype(int)
            else:
                logger.info(f"{backbone.name}, {split.amount} labels, {row.name}, {split.name}")
                tested = [Ref("", int(self.tiles.labels[at]), int(at)) for at in split.test]
                learned = self.learned(laid, split, images)
                answer = backbone.predict(laid, learned, tested, path.with_suffix(""))
                predicted[split.name] = np.asarray(answer, int)
                content = {"predicted": answer.astype(np.int16), "identity": np.array(json.dumps(identity))}
                write_atomically(path, lambda temporary, content=content: np.savez_compressed(temporary, **content))
            synthetic.append(len(images))
            helped.append(self.help(row, split))
        right = gather(self.tiles, splits, predicted, self.splits.draws)
        most = None if None in helped else max(helped)
        return Measured(row, right, float(np.mean(synthetic)), len(predicted), len(splits), most)

    def help(self, row: Row, split: Split) -> int | None:
        """How many labels the generator of a row's pool saw beyond those of the split; None where it isn't said."""
        if row.pool is None:
            return 0
        seen = self.pictures.learned_from(row.pool, split)
        return None if seen is None else len(seen - {self.tiles.tiles[at].sha256 for at in split.train})

    def learned(self, row: Row, split: Split, images: Sequence[Ref]) -> list[Group]:
        """All pictures that a row learns from."""
        real = [Ref("", int(self.tiles.labels[at]), int(at)) for at in split.train]
        groups = [Group(real, row.view)] + self.copied(real, row.view, row.copies)
        if not images:
            return groups
        own = row.pool_copies or row.copies
        made = [Group(images, row.view)] + self.copied(images, row.view, own)
        if row.share is not None:
            sizes = [sum(len(group.refs) for group in side) for side in (groups, made)]
            total = sum(sizes)
            shares = (1 - row.share, row.share)
            groups, made = (
                [dataclasses.replace(group, weight=share * total / size) for group in side]
                for side, size, share in zip((groups, made), sizes, shares)
            )
        return groups + made

    def copied(self, refs: Sequence[Ref], view: str, copies: str | None) -> list[Group]:
        if copies is None:
            return []
        chain = copies if view == PLAIN else f"{view}+{copies}"
        return [Group(refs, chain, number) for number in range(self.copies)]

    def chosen_images(self, row: Row, split: Split) -> list[Ref]:
        """The synthetic images of a row."""
        if row.pool is None:
            return []
        key = (row.pool, row.selection, row.ratio, row.only, row.view, split.amount, split.name)
        if key not in self.chosen:
            candidates = self.pictures.candidates(row.pool, split)
            asked = np.array([ref.label for ref in candidates])
            labels = self.tiles.labels[split.train]
            wanted = quota(labels, len(self.tiles.classes), row.ratio)
            if row.only is not None:
                name = self.splits.rare_class if row.only == "rare" else row.only
                others = np.array(self.tiles.classes) != name
                # In percent of the most labels that a class has: that is what it lacks.
                wanted = np.where(others, 0, -(-np.bincount(labels).max() * row.ratio // 100))
            if self.features is None and row.selection != "random":
                raise ValueError(
                    f"{row.name} chooses images by features: name a frozen trunk with --trunk, or take random rows"
                )
            if row.selection == "random":
                features, real = np.zeros((len(asked), 1)), np.zeros((len(labels), 1))
            else:
                tiles = [Ref("", int(self.tiles.labels[at]), int(at)) for at in split.train]
                features, real = self.features(candidates, row.view), self.features(tiles, row.view)
            seed = self.splits.seed + 1000 * split.fold + split.draw
            places = choose(row.selection, features, asked, real, labels, wanted, seed)
            self.chosen[key] = [candidates[place] for place in places]
        return self.chosen[key]

    def identity(self, backbone: Backbone, row: Row, split: Split, images: Sequence[Ref]) -> dict[str, Any]:
        """All that decides a run's predictions, as plain data."""

        def digest(places: Sequence[int]) -> str:
            return hashlib.sha256(
                repr([(self.tiles.tiles[at].sha256, self.tiles.tiles[at].label) for at in places]).encode()
            ).hexdigest()

        settings = {
            name: value
            for name, value in dataclasses.asdict(row).items()
            if name not in ("title", "kind", "transductive")
        }
        chains = {group.treatment for group in self.learned(row, split, images)}
        return {
            "labelled tiles": digest(split.train),
            "tested tiles": digest(split.test),
            "row": settings,
            "copies": self.copies,
            "treatments": sorted(map(self.pictures.identity, chains)),
            "patch_size": self.tiles.patch_size,
            "backbone": backbone.identity,
            "synthetic images": content_hash([self.pictures.digest(ref) for ref in images]),
        }

    def write(self, scores: Mapping[tuple[str, str], Scores], declaration: Declaration) -> None:
        """The pages of what there is so far."""
        write_pages(self.folder, scores, declaration, self.splits, self.notes)


def require_same(path: Path, former: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a run that was made with other settings.

    Raises:
        ValueError: names the first that differs.
    """
    wanted = json.loads(json.dumps(wanted))
    for name in {**former, **wanted}:
        if former.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} was made with other {name} ({former.get(name)}; now {wanted.get(name)}): give the former "
                "setting, or another --output_dir"
            )
