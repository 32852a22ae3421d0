"""How far colour alone goes: a random forest on colour histograms, measured as the classifier is.

Ignatov & Malivenko (arXiv 2409.11546) tell the classes of NCT-CRC-HE apart to 82 % by colour histograms. A gain by
synthetic images means little where it is a gain in colour only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset
from bundle.downstream.augmented import AugmentedPatches
from bundle.downstream.classifier import measure_held_out, require_no_other_predictions
from bundle.runs.context import RunContext

logger = logging.getLogger(__name__)

BINS = 8


class ColourControl:
    """Trains and measures a random forest on colour histograms, as a stage of `bundle.training.stage.run_stages`.

    It takes seconds and leaves no artefact, so the same command does it again, with the same result.

    Args:
        labelled: the labelled patches.
        augmented: what it is trained on, each image once.
        preprocessing: item -> item with "image" uint8 RGB [3, S, S], as the classifier sees it before it is scaled.
        context: of the run; its seed is the forest's.
        trees: number of trees.
        maximum_unused: see `bundle.downstream.classifier.DownstreamTrainer`.

    Raises:
        ValueError: images that are to be mixed by probability.
    """

    stage = "colour_control"
    pictures = ("predictions.csv",)

    def __init__(
        self,
        labelled: LabelledPatches,
        augmented: AugmentedPatches,
        preprocessing: Callable,
        context: RunContext,
        trees: int = 500,
        maximum_unused: int | None = None,
    ) -> None:
        if augmented.synthetic_share is not None:
            raise ValueError(
                f"--synthetic_share is {augmented.synthetic_share}; the colour control takes each image once and mixes "
                "by count: leave it out"
            )
        self.labelled = labelled
        self.augmented = augmented
        self.preprocessing = preprocessing
        self.folder = context.folder
        self.seed = context.seed
        self.trees = trees
        self.maximum_unused = maximum_unused

    def check(self) -> None:
        require_no_other_predictions(self.folder, "classifier")
        self.augmented.prepare()

    def run(self) -> None:
        """Trains and measures; writes its section of `metrics.json` and `predictions.csv`."""
        self.folder.open()
        started = time.monotonic()
        self.check()
        self.folder.save_config()
        forest = RandomForestClassifier(self.trees, random_state=self.seed)
        forest.fit(self.histograms(self.augmented), self.augmented.labels)
        logger.info(f"{self.stage}: {self.trees} trees on {len(self.augmented)} images")

        def probabilities(part: Any) -> np.ndarray:
            return forest.predict_proba(self.histograms(part, self.preprocessing))

        measured = measure_held_out(self.labelled, probabilities, self.folder, self.maximum_unused)
        facts = {**self.augmented.describe(), "trees": self.trees, "bins": BINS}
        seconds = round(time.monotonic() - started, 1)
        self.folder.set_metrics("labelled", self.labelled.describe())
        self.folder.set_metrics(self.stage, {**facts, **measured, "seconds": seconds})

    def histograms(self, source: Any, preprocessing: Callable | None = None) -> np.ndarray:
        """Histograms [N, 512] of all images of a source."""
        dataset = ItemDataset(source, preprocessing)
        return np.stack([colour_histogram(dataset[index]["image"].numpy()) for index in range(len(dataset))])


def colour_histogram(image: np.ndarray) -> np.ndarray:
    """Shares of the pixels in 8 x 8 x 8 equal cells of RGB, so that hues count and not only each channel's values.

    Args:
        image: uint8 [3, H, W].

    Returns:
        float [512], summing to 1; the cell of red bin r, green bin g and blue bin b is number 64 r + 8 g + b.
    """
    red, green, blue = (image // (256 // BINS)).astype(np.int64)
    counts = np.bincount(((red * BINS + green) * BINS + blue).ravel(), minlength=BINS**3)
    return counts / counts.sum()
