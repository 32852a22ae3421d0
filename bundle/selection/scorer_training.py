"""Training the scorer of selective augmentation, and the scorers of folds that say how sure it may be."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from sklearn.model_selection import StratifiedKFold

from bundle.data.labelled import LabelledPatches
from bundle.data.labelled_part import LabelledPart
from bundle.data.loader import ItemDataset, read_images
from bundle.data.split import SplitRow
from bundle.data.transforms import scale_patch
from bundle.data.views import look_at, require_view
from bundle.metrics.classification import summarise
from bundle.models.artefacts import read_artefact, require_same
from bundle.runs.context import RunContext
from bundle.runs.randomness import mix_seed
from bundle.runs.sums import file_sha256
from bundle.selection.scorer import dropout_masks, expected_softmax, full_batches
from bundle.training.classifier import ClassifierTrainer
from bundle.training.schedules import warm_up_and_cool_down


class LabelledFold(LabelledPart):
    """The labelled images, of train and validation, in one of several folds, or those outside it.

    Args:
        patches: the labelled patches.
        fold: number of the fold, 0 to folds - 1.
        folds: how many there are; each has about the same share of each class.
        seed: of the assignment.
        inside: whether the images in the fold are meant, or all others.
    """

    def __init__(self, patches: LabelledPatches, fold: int, folds: int, seed: int, inside: bool) -> None:
        super().__init__(patches, "train")
        self.fold = fold
        self.folds = folds
        self.seed = seed
        self.inside = inside

    @functools.cached_property
    def rows(self) -> list[SplitRow]:
        """The images, by class and file within train and validation.

        Raises:
            ValueError: more folds than the largest class has images.
        """
        parts = self.patches.parts
        rows = parts["train"] + parts["validation"]
        labels = [row.label for row in rows]
        largest = max(map(labels.count, self.patches.classes))
        if self.folds > largest:
            raise ValueError(
                f"--folds is {self.folds}, and no class has more than {largest} labelled images; give at most as many"
            )
        splitter = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():  # of a class that is not in every fold, which may be
            warnings.simplefilter("ignore", UserWarning)
            chosen = list(splitter.split(np.zeros(len(rows)), labels))[self.fold][1 if self.inside else 0]
        return [rows[place] for place in chosen]


class ScorerTrainer(ClassifierTrainer):
    """Trains a scorer for a fixed number of steps and keeps its last averaged weights.

    Nothing is chosen by validation, so that the scorers of folds, whose held-out images then are that in earnest, are
    trained by the same recipe as the one that is used.

    Args:
        stage: its name.
        labelled: the labelled patches.
        training, held_out: what it is trained on, and what it is measured on.
        steps: as of StageTrainer. The learning rate falls linearly to 0 over the last half of them.
        passes: passes of Monte-Carlo dropout, see :func:`bundle.selection.scorer.dropout_masks`.
        trunk_weights: a file the trunk starts from, or None for random weights.
        view: one of `bundle.data.views.VIEWS`, in which the training loader hands out its pictures. A scorer in grey or
            of normalised stain can't choose by colours.
        **classifier: further arguments of ClassifierTrainer.
    """

    section = "scorer"

    def __init__(
        self,
        stage: str,
        labelled: LabelledPatches,
        training: LabelledPart,
        held_out: LabelledPart,
        steps: int,
        passes: int = 10,
        trunk_weights: str | Path | None = None,
        view: str = "colour",
        **classifier: Any,
    ) -> None:
        self.stage = stage
        self.view = require_view(view)
        self.training = training
        self.held_out = held_out
        self.passes = passes
        self.trunk_weights = None if trunk_weights is None else Path(trunk_weights).expanduser()
        # A validation interval of all steps gives "the best of one": the last.
        super().__init__(labelled=labelled, steps=steps, validation_interval=steps, **classifier)

    def start_from_pretraining(self) -> None:
        if self.trunk_weights is not None:
            self.network.load_trunk(self.trunk_weights)

    def prepare(self) -> None:
        super().prepare()
        self.scheduler = warm_up_and_cool_down(self.optimizer, cool_down=self.steps // 2, steps=self.steps)
        self.masks = dropout_masks(self.network, self.passes, mix_seed(self.seed)).to(self.state.device)

    def state_objects(self) -> dict[str, Any]:
        return {**super().state_objects(), "scheduler": self.scheduler}

    def parents(self) -> dict[str, Any]:
        return {
            **super().parents(),
            "number of steps": self.steps,  # the learning rate falls towards the last
            "training images": self.training.fingerprint,
            "held-out images": self.held_out.fingerprint,
            "trunk weights": None if self.trunk_weights is None else file_hash(self.trunk_weights),
        }

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        output = super()._iteration(engine, batchdata)
        self.scheduler.step()
        return output

    @torch.no_grad()
    def probabilities(self, network: torch.nn.Module) -> torch.Tensor:
        """Expected softmax of the held-out images, float64 [N, K], on the CPU."""
        expected = []
        for batch, count in full_batches(
            look_at(read_images(self.held_out), self.view), self.context.inference_batch_size
        ):
            features = network.features(scale_patch(batch.to(self.state.device)))
            expected.append(expected_softmax(network, features, self.masks)[:count])
        return torch.cat(expected).cpu()

    @property
    def held_out_labels(self) -> torch.Tensor:
        return torch.from_numpy(self.held_out.labels)

    def validation_loss(self, network: torch.nn.Module) -> float:
        return functional.nll_loss(self.probabilities(network).log(), self.held_out_labels).item()

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """Its own accuracy on the images it was not trained on."""
        self.expected = self.probabilities(network)
        return {"held_out": summarise_expected(self.expected, self.held_out_labels, self.labelled.classes)}

    def facts(self) -> dict[str, Any]:
        return {"held_out": {"probabilities": self.expected, "labels": self.held_out_labels}}


class FinalScorerTrainer(ScorerTrainer):
    """Trains the scorer that is used, on the part "train" alone; takes up what the scorers of the folds say.

    Args:
        labelled: the labelled patches.
        folds: how many scorers are trained besides, each without a fold of the labelled images.
        dataset: of the part "train". Those of the folds have its transform.
        **scorer: further arguments of ScorerTrainer, which the folds share.

    Attributes:
        folds: stages "scorer_fold_1" to "scorer_fold_<folds>", which must have ended before this one begins.

    Raises:
        ValueError: fewer than two folds.
    """

    def __init__(
        self,
        labelled: LabelledPatches,
        folds: int,
        dataset: ItemDataset,
        steps: int,
        context: RunContext,
        **scorer: Any,
    ) -> None:
        if not isinstance(folds, int) or folds < 2:
            raise ValueError(f"--folds is {folds!r}; it must be an integer of at least 2")
        shared = {**scorer, "labelled": labelled, "steps": steps, "context": context}
        seed = context.seed
        super().__init__(
            stage="scorer",
            training=labelled.part("train"),
            held_out=labelled.part("validation"),
            dataset=dataset,
            **shared,
        )
        self.folds = []
        for fold in range(folds):
            stage = f"scorer_fold_{fold + 1}"
            training, held_out = (LabelledFold(labelled, fold, folds, seed, inside) for inside in (False, True))
            self.folds.append(
                ScorerTrainer(
                    stage=stage,
                    training=training,
                    held_out=held_out,
                    dataset=ItemDataset(training, dataset.transform),
                    **shared,
                )
            )

    @property
    def stages(self) -> list[ScorerTrainer]:
        """All of them in the order in which they run."""
        return [*self.folds, self]

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """Accuracy on the validation part, and of the scorers of the folds on what each of them did not see."""
        validation = super().measure(network)["held_out"]
        parts = []
        for fold in self.folds:
            artefact = read_artefact(fold.artefact_path, fold.stage)
            own, theirs = self.labelled.fingerprint, artefact["data_fingerprint"]
            require_same("the labelled data", str(self.artefact_path), own, str(fold.artefact_path), theirs)
            parts.append(artefact["held_out"])
        self.out_of_fold = {name: torch.cat([part[name] for part in parts]) for name in ("probabilities", "labels")}
        out_of_fold = summarise_expected(**self.out_of_fold, classes=self.labelled.classes)
        self.measured = {"validation": validation, "out_of_fold": out_of_fold}
        return self.measured

    def facts(self) -> dict[str, Any]:
        return {
            "out_of_fold": self.out_of_fold,
            "measured": self.measured,
            "dropout_masks": self.masks.cpu(),
            "passes": len(self.masks),
            "view": self.view,
        }


def summarise_expected(probabilities: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> dict[str, Any]:
    """:func:`bundle.metrics.classification.summarise` of probabilities, whose logarithms are logits."""
    return summarise(probabilities.log(), labels, classes)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {str(path)!r}: check --scorer_weights")
    return file_sha256(path)
