"""Selective augmentation of a pool: scores are gathered as images come, and decided on when all are there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import read_images
from bundle.data.sources import UnreadableImage
from bundle.data.split import fingerprint_split
from bundle.models.artefacts import require_same
from bundle.runs.opening import OpenedOnUse
from bundle.selection.exclusion import read_exclusion
from bundle.selection.rules import Candidates, RealImages, Rules, decide, quotas, shortfall
from bundle.selection.scorer import Scorer
from bundle.selection.scores import Centroids, descriptors, entropy_limits
from bundle.selection.table import SelectionRow
from bundle.synthesis.pool import Key, image_file
from bundle.synthesis.stored_pool import StoredPool

logger = logging.getLogger(__name__)

LABELLED_PARTS = ("train", "validation")


class Selector(OpenedOnUse):
    """Scores candidates one by one and decides on all of them together.

    What is decided depends on which images were added, not on their order, nor on how many came at a time. Nothing is
    read before :meth:`prepare`, which the other methods call.

    Args:
        scorer: the trained scorer.
        labelled: the labelled patches that it was trained on.
        rules: how to decide.
        ratios: synthetic images in percent of the labelled ones that train.
        balanced: as many of each class, see :func:`bundle.selection.rules.quotas`.
        distance: see :class:`bundle.selection.scores.Centroids`; the centroids are of the part "train".
        entropy_quantile: see :meth:`bundle.selection.scorer.Scorer.entropy_limits`.
        exclude: table of images that are not used, as readers rejected them: the `rejected.csv` of a reading of this
            pool. None for none. The random control takes no heed of it, as of no gate.

    Attributes:
        classes: names in order.
        quotas: {class: {ratio: images}}.
        unreadable: {(class, seed): reason} of the broken files that :meth:`add_pool` met.

    Raises:
        ValueError: a setting out of its range.
    """

    opened = ("real", "limits", "real_counts", "quotas", "classes")

    def __init__(
        self,
        scorer: Scorer,
        labelled: LabelledPatches,
        rules: Rules = Rules(),
        ratios: Sequence[int] = (50, 100, 200, 300),
        balanced: bool = False,
        distance: str = "squared_l2",
        entropy_quantile: float = 0.95,
        exclude: str | Path | None = None,
    ) -> None:
        some = torch.zeros(1, dtype=torch.int64)
        entropy_limits(some, some, some, 1, entropy_quantile)  # refuses an impossible one before anything is read
        quotas({"": 1}, ratios)
        self.scorer = scorer
        self.labelled = labelled
        self.rules = rules
        self.ratios = sorted(set(ratios))
        self.balanced = balanced
        self.entropy_quantile = entropy_quantile
        self.exclude = exclude
        self.centroids = Centroids(distance)
        self.unreadable: dict[Key, str] = {}
        self._added: dict[Key, None] = {}
        self._waiting: list[torch.Tensor] = []
        self._scored: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def open(self) -> None:
        """Reads the scorer and the labelled images.

        Raises:
            FileNotFoundError, ValueError: there is no scorer, or it was trained on other labelled images.
        """
        labelled, scorer = self.labelled, self.scorer
        theirs = scorer.facts["data_fingerprint"]
        require_same("the labelled data", str(scorer.path), theirs, "this selection", labelled.fingerprint)
        classes = scorer.classes
        train = labelled.part("train")
        labels = torch.from_numpy(train.labels)
        self.centroids.fit(scorer.score(read_images(train))[1], labels, len(classes))
        parts = [labelled.part(name) for name in LABELLED_PARTS]
        self.real = RealImages(
            [file for part in parts for file in part.files],
            torch.cat([torch.from_numpy(part.labels) for part in parts]),
            torch.cat([descriptors(read_images(part)) for part in parts]),
        )
        self.limits = scorer.entropy_limits(self.entropy_quantile)
        # Those that train: validation tiles are in no batch, so they are no part of what is enlarged.
        self.real_counts = labelled.counts()["train"]
        self.quotas = quotas(self.real_counts, self.ratios, self.balanced)
        self.classes = classes

    def has(self, name: str, seed: int) -> bool:
        """Whether the image of a class and seed was added."""
        return (name, seed) in self._added

    def add(self, images: np.ndarray | torch.Tensor, names: Sequence[str], seeds: Sequence[int]) -> None:
        """Takes candidates; those of a class and seed that were added before are passed over.

        Args:
            images: uint8 RGB [N, S, S, 3], as in the pool.
            names: the class each was made for.
            seeds: their seeds.

        Raises:
            ValueError: an unknown class, or images of another size than the scorer takes.
        """
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise ValueError(f"candidates of the class {unknown[0]!r}: the scorer knows {', '.join(self.classes)}")
        for image, key in zip(torch.as_tensor(np.array(images)), zip(names, map(int, seeds))):
            if key not in self._added:
                self._added[key] = None
                self._waiting.append(image.permute(2, 0, 1))
            if len(self._waiting) == self.scorer.batch_size:
                self._score()

    def add_pool(self, pool: StoredPool) -> None:
        """Takes the images of a pool on the disk that were not added before; leaves out, and names, broken files.

        Raises:
            ValueError: a file that does not belong to the pool, or an image of another size; names it.
        """
        keys = pool.keys(self.classes)
        new = [key for key in keys if not self.has(*key) and key not in self.unreadable]
        for name, seed in tqdm(new, "selection", unit="image", dynamic_ncols=True, mininterval=1.0):
            try:
                image = pool.read(name, seed)
            except UnreadableImage as error:
                logger.warning(f"left out, as it can't be read: {pool.folder / error.file} ({error.reason})")
                self.unreadable[name, seed] = error.reason
            else:
                self.add(image[None], [name], [seed])

    def _score(self) -> None:
        """Scores the images that wait; always as many at once, but for the last ones before a decision."""
        if self._waiting:
            images = torch.stack(self._waiting)
            self._scored.append((*self.scorer.score(images), descriptors(images)))
            self._waiting = []

    def candidates(self) -> Candidates:
        """All images added so far.

        Raises:
            ValueError: there are none.
        """
        self._score()
        if not self._scored:
            raise ValueError("there is no candidate to select from: the pool gave no readable image")
        probabilities, features, described = (torch.cat(parts) for parts in zip(*self._scored))
        self._scored = [(probabilities, features, described)]
        names, seeds = zip(*self._added)
        return Candidates(
            files=[image_file(name, seed) for name, seed in self._added],
            labels=torch.tensor([self.classes.index(name) for name in names]),
            seeds=torch.tensor(seeds),
            probabilities=probabilities,
            distances=self.centroids(features),
            descriptors=described,
            features=features,
        )

    def decide(self, pool: Any) -> tuple[list[SelectionRow], dict[str, Any]]:
        """Decides on all candidates.

        Args:
            pool: the pool that they are of: its `folder`, and the `hash` of its identity.

        Returns:
            the rows and facts of :func:`bundle.selection.table.write_selection`.
        """
        excluded = self.excluded(pool)
        candidates = replace(self.candidates(), excluded=excluded)
        rows = decide(candidates, self.real, self.limits, self.quotas, self.classes, self.rules, self.centroids)
        return rows, {
            "pool": str(Path(pool.folder).absolute()),
            "pool_hash": pool.hash,
            "split": fingerprint_split(self.labelled.rows),
            "classes": self.classes,
            "ratios": self.ratios,
            "labelled": self.real_counts,
            "quotas": self.quotas,
            "shortfall": shortfall(rows, self.quotas),
            "settings": {**self.settings(), "excluded": len(excluded)},
            "entropy_limits": dict(zip(self.classes, self.limits.tolist())),
        }

    def excluded(self, pool: Any) -> set[str]:
        """Names within the pool of the images that readers rejected; see :func:`read_exclusion`."""
        return set() if self.exclude is None else read_exclusion(self.exclude, pool)

    def settings(self) -> dict[str, Any]:
        """All that decides besides the images, as plain data."""
        return {
            **asdict(self.rules),
            "balanced": self.balanced,
            "distance": self.centroids.metric,
            "entropy_quantile": self.entropy_quantile,
            "dropout_passes": self.scorer.facts["passes"],
            **self.scorer.fingerprints,
        }
