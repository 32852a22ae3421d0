"""The classifier that the augmentation is for, trained on real and selected images, tested once at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from bundle.data.labelled import LabelledPatches
from bundle.data.labelled_part import LabelledPart
from bundle.downstream.augmented import AugmentedPatches
from bundle.metrics.classification import summarise
from bundle.metrics.held_out import held_out_report
from bundle.models.artefacts import fingerprint
from bundle.runs import job
from bundle.runs.folder import RunFolder
from bundle.runs.plots import save_confusion
from bundle.runs.shares import one_for_all_rows
from bundle.runs.tables import write_csv
from bundle.training.classifier import ImageClassifierTrainer

logger = logging.getLogger(__name__)

HELD_OUT = ("test", "unused")  # held-out slides, and other tiles of the slides that were trained on
PREDICTIONS = "predictions.csv"


class DownstreamTrainer(ImageClassifierTrainer):
    """Trains a classifier on real training images and the selected synthetic ones.

    The published code of HistoDiffusion (arXiv 2308.04020) keeps the epoch that is best on the test set. Here the
    validation part chooses the weights, and the test part is looked at once, when the training has ended.

    Args:
        augmented: what is trained on.
        schedule: the learning-rate schedule's class with its settings bound; takes the optimiser.
        label_smoothing: in [0, 1).
        mixup_alpha, cutmix_alpha: parameters of the Beta distributions of mixup (arXiv 1710.09412) and CutMix (arXiv
            1905.04899), 0 or more; 0 leaves it out. With both, each batch gets one of them, either as likely.
        trunk_weights: local weights of the trunk to start from; None starts from random ones.
        maximum_unused: at most so many tiles of the part "unused" are measured, evenly spaced over the classes; None
            for all.
        **classifier: arguments of ImageClassifierTrainer.

    Raises:
        ValueError: settings out of range.
    """

    stage = "classifier"
    pictures = ("confusion.png", PREDICTIONS)

    def __init__(
        self,
        augmented: AugmentedPatches,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        trunk_weights: str | Path | None = None,
        maximum_unused: int | None = None,
        **classifier: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"--train#trainer#label_smoothing is {label_smoothing}; it must be 0 or more, and below 1")
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if alpha < 0:
                raise ValueError(f"--train#trainer#{name} is {alpha}; it must be 0 or more")
        super().__init__(**classifier)
        self.augmented = augmented
        self.make_schedule = schedule
        self.label_smoothing = label_smoothing
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.trunk_weights = trunk_weights
        self.maximum_unused = maximum_unused

    def check(self) -> None:
        require_no_other_predictions(self.folder, "colour_control")
        super().check()
        self.augmented.prepare()

    def start_from_pretraining(self) -> None:
        self.trunk_fingerprint = None
        if self.trunk_weights is not None:
            self.network.load_trunk(self.trunk_weights)
            self.trunk_fingerprint = fingerprint(self.network.trunk.state_dict())

    def prepare(self) -> None:
        super().prepare()
        self.augmented.prepare()
        self.schedule = self.make_schedule(self.optimizer)
        # torchvision's draw from torch's generator, which each step seeds; timm's draw from numpy's.
        kinds = ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha))
        mixes = [kind(alpha=alpha, num_classes=len(self.labelled.classes)) for kind, alpha in kinds if alpha > 0]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        in_parts = job.size() > 1 or self.context.accumulate > 1
        self.data_loader.step_sampler.rows_before = int(in_parts and self.mix is not None)

    def state_objects(self) -> dict[str, Any]:
        return {**super().state_objects(), "schedule": self.schedule}

    def parents(self) -> dict[str, Any]:
        return {
            **super().parents(),
            "synthetic images": self.augmented.fingerprint,
            "trunk weights": self.trunk_fingerprint,
        }

    def attach_handlers(self) -> None:
        self.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.schedule.step())
        super().attach_handlers()

    def train_loss(self, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = batch["image"].to(self.state.device, non_blocking=True)
        targets = labels
        if self.mix is not None:
            with one_for_all_rows():
                images, targets = self.mix(images, labels)
            # An image is mixed with the one before it, which of a part's first is the row in front.
            before = self.data_loader.step_sampler.rows_before
            images, targets = images[before:], targets[before:]
        logits = self.train_logits({"image": images}).float()
        return logits, cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        return {**self.augmented.describe(), **measure_classifier(self, network)}

    def facts(self) -> dict[str, Any]:
        return {"patch_size": self.labelled.patch_size, "normalise_stain": self.augmented.normalise_stain}


def measure_classifier(trainer: ImageClassifierTrainer, network: torch.nn.Module) -> dict[str, Any]:
    """Figures on the validation images, then those of :func:`measure_held_out`; saves `confusion.png` of the test.

    Args:
        trainer: with `labelled`, `folder` and `maximum_unused`.
        network: its classifier.
    """

    def probabilities(part: LabelledPart) -> np.ndarray:
        return trainer.predict_source(network, part)[0].softmax(1).numpy()

    measured = measure_held_out(trainer.labelled, probabilities, trainer.folder, trainer.maximum_unused)
    classes = trainer.labelled.classes
    if "test" in measured:
        save_confusion(trainer.folder / "confusion.png", measured["test"]["confusion"], classes, "held-out slides")
    return {"validation": summarise(*trainer.predict(network, "validation"), classes), **measured}


def measure_held_out(
    labelled: LabelledPatches,
    classify: Callable[[LabelledPart], np.ndarray],
    folder: RunFolder,
    maximum_unused: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures a classifier on the held-out parts that have images, and saves `predictions.csv`.

    The table has the columns file, part, class, predicted and, for each class, probability_<class>.

    Args:
        labelled: the labelled patches.
        classify: part -> probabilities [N, K] of its images in order.
        folder: of the run.
        maximum_unused: see DownstreamTrainer.

    Returns:
        {part: figures of `bundle.metrics.held_out.held_out_report`}.
    """
    classes, measured, rows = labelled.classes, {}, []
    for name in HELD_OUT:
        part = labelled.part(name, maximum_unused if name == "unused" else None)
        if not len(part):
            logger.warning(f"no image in part {name}: nothing is measured on it")
            continue
        probabilities = classify(part)
        measured[name] = held_out_report(probabilities, part.labels, classes)
        rows += predictions(part, name, probabilities, classes)
        accuracy, (low, high) = measured[name]["accuracy"], measured[name]["intervals"]["accuracy"]
        logger.info(
            f"part {name}, {len(part)} images: accuracy {accuracy:.3f} ({low:.3f} to {high:.3f}), macro F1 "
            f"{measured[name]['macro_f1']:.3f}"
        )
    if rows:
        write_csv(folder / PREDICTIONS, rows)
    return measured


def predictions(part: LabelledPart, name: str, probabilities: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """Rows of `predictions.csv` of one part."""
    return [
        {
            "file": file,
            "part": name,
            "class": classes[label],
            "predicted": classes[of.argmax()],
            **{f"probability_{of_class}": f"{value:.6f}" for of_class, value in zip(classes, of)},
        }
        for file, label, of in zip(part.files, part.labels, probabilities)
    ]


def require_no_other_predictions(folder: RunFolder, section: str) -> None:
    """Refuses a folder in which another classifier's figures stand beside what would be overwritten.

    Raises:
        ValueError: `metrics.json` has that section.
    """
    if section in folder.metrics():
        raise ValueError(
            f"{folder.path} holds the results of {section}, and its {PREDICTIONS} would be overwritten: choose another "
            "--output_dir"
        )
