"""Selecting from a pool on the disk: scores, more images where there are too few, the table and the picture."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bundle.data.pictures import save_labelled_grid
from bundle.data.sources import UnreadableImage
from bundle.runs.files import write_json
from bundle.runs.folder import RunFolder
from bundle.runs.sums import content_hash
from bundle.selection.rules import acceptance
from bundle.selection.selector import Selector
from bundle.selection.table import SelectionRow, write_selection
from bundle.synthesis.pool import marks_of
from bundle.synthesis.stored_pool import MAKE, StoredPool, number_to_ask

logger = logging.getLogger(__name__)

MARGIN = 1.2  # of candidates over what the acceptance so far asks for, since that is an estimate
SHOWN_IMAGES = 8  # of each class, kept and rejected ones


class PoolSelection:
    """Decides which images of a pool are used; a stage of `run_stages`.

    Each run reads and scores the pool as it is, so there is nothing to resume but its extension: what was asked for is
    written down before it is made, and a run that was killed in between first has the rest made.

    Args:
        selector: scores and decides.
        pool: the pool.
        folder: where the selection is kept.
        maximum_rounds: the pool is extended so many times at most; 0 takes it as it is.
        maximum_candidates: and to at most so many images of a class.
    """

    stage = "selection"
    pictures = ("selection.csv", "selection.json", "selection.png")
    rounds_file = "extension.json"

    def __init__(
        self,
        selector: Selector,
        pool: StoredPool,
        folder: RunFolder,
        maximum_rounds: int = 3,
        maximum_candidates: int = 2000,
    ) -> None:
        if not isinstance(maximum_rounds, int) or maximum_rounds < 0:
            raise ValueError(f"--maximum_rounds is {maximum_rounds!r}; it must be an integer of at least 0")
        self.selector = selector
        self.pool = pool
        self.folder = folder
        self.maximum_rounds = maximum_rounds
        self.maximum_candidates = maximum_candidates

    def check(self) -> None:
        """Refuses a pool that is none or not of these classes, a wrong table of images that are not used, and features
        that can't be computed, before a scorer is trained; of each class one image is looked into.

        Raises:
            FileNotFoundError, ValueError: names the file, and what to do.
        """
        self.selector.scorer.feature_extractor()
        keys = self.pool.require_classes(self.selector.labelled.classes)
        self.selector.excluded(self.pool)
        for name, seed in dict(keys).items():
            with contextlib.suppress(UnreadableImage):  # which is left out later, and said
                self.pool.read(name, seed)

    def run(self) -> None:
        """Writes `selection.csv`, `selection.json`, `selection.png` and the section "selection" of `metrics.json`.

        Raises:
            ValueError: a file that does not belong to the pool; names it.
        """
        self.folder.open()
        self.folder.save_config()
        started = time.monotonic()
        self.selector.prepare()
        rounds = self._rounds()
        if rounds:
            self._extend(rounds[-1])
        while True:
            self.selector.add_pool(self.pool)
            rows, facts = self.selector.decide(self.pool)
            asked = self._missing(rows, facts)
            if not asked or len(rounds) >= self.maximum_rounds or self.pool.extend is None:
                break
            rounds.append(asked)
            write_json(self.folder / self.rounds_file, {"of": self._identity(), "rounds": rounds})
            self._extend(asked)
        write_selection(self.folder / "selection.csv", rows, facts)
        self._save_picture(rows)
        seconds = time.monotonic() - started
        self.folder.set_metrics(
            "selection", {**self._figures(rows, facts), "rounds": rounds, "seconds": round(seconds, 1)}
        )
        self._report(rows, facts)

    # Extending the pool.

    def _identity(self) -> str:
        """Hash of all that decides how a pool is extended."""
        limit, excluded = self.maximum_candidates, sorted(self.selector.excluded(self.pool))
        return content_hash([self.pool.hash, self.selector.settings(), self.selector.quotas, limit, excluded])

    def _rounds(self) -> list[dict[str, int]]:
        """What an earlier run of the same settings asked for, {class: images in all} in each round."""
        path = self.folder / self.rounds_file
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return content["rounds"] if content.get("of") == self._identity() else []

    def _missing(self, rows: Sequence[SelectionRow], facts: dict[str, Any]) -> dict[str, int]:
        """{class: images the pool should have in all} of classes that are short and may have more."""
        counts = Counter(name for name, _ in self.pool.keys(self.selector.classes))
        accepted = acceptance(rows, self.selector.classes)
        asked = {}
        for name, short in facts["shortfall"].items():
            if not any(short.values()):
                continue
            quota = max(self.selector.quotas[name].values())
            wanted = math.ceil(MARGIN * quota / accepted[name]) if accepted[name] else 2 * counts[name]
            wanted = min(max(wanted, counts[name] + 1), self.maximum_candidates)
            if wanted > counts[name]:
                asked[name] = wanted
        return asked

    def _extend(self, asked: dict[str, int]) -> None:
        """Has images made until there are as many of each class as asked for."""
        seeds: dict[str, set[int]] = {name: set() for name in self.selector.classes}
        for name, seed in self.pool.keys(self.selector.classes):
            seeds[name].add(seed)
        settings = self.pool.recorded_command()[1]
        numbers: dict[int, list[str]] = {}
        for name, total in asked.items():
            if len(seeds[name]) < total:
                numbers.setdefault(number_to_ask(seeds[name], settings.get("seed", 0), total), []).append(name)
        for number, names in numbers.items():
            logger.info(
                f"the pool is too small for the quotas: images of {', '.join(names)} are made by the command it "
                "records (--maximum_rounds 0 takes the pool as it is)"
            )
            self.pool.make_more(names, number, self.folder / "extension")

    # Showing the outcome.

    def _save_picture(self, rows: Sequence[SelectionRow]) -> None:
        """The nearest kept ones of each class, and the first by seed of those that the gates refused."""
        images, names = [], []
        for name in self.selector.classes:
            own = [row for row in rows if row.label == name]
            kept = sorted((row for row in own if row.kept), key=lambda row: row.rank)
            refused = [row for row in own if row.rank is None or row.reason.startswith("copy of ")]
            for title, shown in (("kept", kept), ("rejected", refused)):
                names.append(f"{name} {title}")
                pictures = [self.pool.read(row.label, row.seed) for row in shown[:SHOWN_IMAGES]]
                white = np.full((self.pool.patch_size, self.pool.patch_size, 3), 255, np.uint8)
                images += pictures + [white] * (SHOWN_IMAGES - len(pictures))
        columns = [str(number) for number in range(1, SHOWN_IMAGES + 1)]
        path = self.folder / "selection.png"
        save_labelled_grid(path, np.stack(images), names, columns, marks_of(self.pool.identity))

    def _figures(self, rows: Sequence[SelectionRow], facts: dict[str, Any]) -> dict[str, Any]:
        accepted = acceptance(rows, self.selector.classes)
        by_class = {}
        for name in self.selector.classes:
            own = [row for row in rows if row.label == name]
            reasons = Counter("copy" if row.reason.startswith("copy of ") else row.reason for row in own)
            kept = {
                ratio: quota - facts["shortfall"][name][ratio] for ratio, quota in self.selector.quotas[name].items()
            }
            by_class[name] = {
                "candidates": len(own),
                "acceptance": round(accepted[name], 4),
                "kept": kept,
                "shortfall": facts["shortfall"][name],
                "reasons": dict(sorted(reasons.items())),
                "entropy_limit": round(facts["entropy_limits"][name], 4),
            }
        return {
            "pool": facts["pool"],
            "pool_hash": facts["pool_hash"],
            "settings": facts["settings"],
            "classes": by_class,
            "unreadable": {
                f"{name}_{seed}": reason for (name, seed), reason in sorted(self.selector.unreadable.items())
            },
        }

    def _report(self, rows: Sequence[SelectionRow], facts: dict[str, Any]) -> None:
        """Says what was kept, and what is missing and how to get it."""
        largest = max(self.selector.ratios)
        counts = Counter(row.label for row in rows)
        accepted = acceptance(rows, self.selector.classes)
        width = max(map(len, self.selector.classes))
        lines = [
            f"{name:{width}}  {counts[name]:6} candidates, acceptance {accepted[name]:.2f}, kept "
            f"{self.selector.quotas[name][largest] - facts['shortfall'][name][largest]} of "
            f"{self.selector.quotas[name][largest]} at {largest} %"
            for name in self.selector.classes
        ]
        if self.selector.exclude is not None:
            count = facts["settings"]["excluded"]
            lines.append(f"not used, as readers rejected them: {count} ({self.selector.exclude})")
        logger.info("selection:\n" + "\n".join(lines))
        if self.selector.unreadable:
            logger.warning(f"{len(self.selector.unreadable)} images of the pool can't be read and were left out")
        short = [name for name in self.selector.classes if facts["shortfall"][name][largest]]
        if not short:
            return
        if self.pool.extend is None:
            remedy = (
                "the pool does not say how it is extended: make more images with the command that made it (of this "
                f"bundle: {MAKE} {self.pool.folder} --classes {','.join(short)} and a larger --num_images), then give "
                "this command again"
            )
        else:
            remedy = "raise --maximum_rounds or --selection#work#maximum_candidates, or ask for smaller --ratios"
        logger.warning(f"too few images pass for {', '.join(short)}: {remedy}. Rejected images don't take their place")
