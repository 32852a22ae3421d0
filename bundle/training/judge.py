"""The judge: classifiers of real tiles that no generator, selection or downstream classifier saw.

A share of synthetic images that "show the asked class" means nothing without the judge's own accuracy on real tiles of
other slides, and little if colour alone persuades it. So there are three classifiers: one in colour and two that are
denied it, and each file carries its own accuracy.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import ItemDataset
from bundle.data.pictures import to_uint8
from bundle.data.transforms import RandDensityd, RandOrientationd, ScalePatchd, scale_patch
from bundle.data.views import VIEWS, Viewd, look
from bundle.metrics.classification import summarise
from bundle.models.artefacts import require_same
from bundle.runs.context import RunContext
from bundle.training.classifier import ImageClassifierTrainer, load_classifier

logger = logging.getLogger(__name__)

NO_JUDGE = "it needs two or more labelled images of each class that nothing else learns from, and none are left"


class JudgeTrainer(ImageClassifierTrainer):
    """Trains one of the judge's classifiers on labelled tiles outside the labelled subset.

    Args:
        view: one of `VIEWS`.
        labelled: the labelled patches.
        density: probability and scale of the stain variation (`bundle.data.transforms.RandDensityd`).
        context: as of StageTrainer; a judge's seed is the run's plus 1.
        **classifier: further arguments of ImageClassifierTrainer.
    """

    section = "judge"

    def __init__(
        self, view: str, labelled: LabelledPatches, density: tuple[float, float], context: RunContext, **classifier: Any
    ) -> None:
        self.stage = f"judge_{view}"
        self.view = view
        plain = [Viewd("image", view), ScalePatchd("image")]
        # Random order matters: stain is varied before a judge loses sight of it, so that grey has no fixed brightness.
        random = [RandDensityd("image", *density), RandOrientationd("image")]
        dataset = ItemDataset(labelled.part("judge_training"), Compose(random + plain))
        super().__init__(
            preprocessing=Compose(plain),
            labelled=labelled,
            context=context,
            seed=context.seed + 1,
            dataset=dataset,
            **classifier,
        )

    def run(self) -> None:
        """Trains it, or says why there can be none."""
        self.folder.open()
        self.pretrained.prepare()
        if self.labelled.judged:
            super().run()
        else:
            logger.warning(
                f"no {self.stage}: {NO_JUDGE}. Use fewer labels (--labels_per_class, --label_fraction) to leave some"
            )

    def parents(self) -> dict[str, Any]:
        return {**super().parents(), "judged by": self.labelled.part("judge_training").fingerprint}

    def validation_loss(self, network: torch.nn.Module) -> float:
        logits, labels = self.predict(network, "judge_validation")
        return torch.nn.functional.cross_entropy(logits, labels).item()

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """Its own accuracy: on tiles of the slides it learned from, and on held-out slides where there are any."""
        parts = {"judge_validation": "same_slides", "test": "held_out_slides"}
        self.measured = {
            name: summarise(*self.predict(network, part), self.labelled.classes)
            for part, name in parts.items()
            if len(self.labelled.part(part))
        }
        return self.measured

    def facts(self) -> dict[str, Any]:
        return {"view": self.view, "measured": self.measured}


def judge_trainers(**trainer: Any) -> list[JudgeTrainer]:
    """Trains the judge, one classifier for each view of the tiles.

    Args:
        **trainer: arguments of JudgeTrainer but the view.
    """
    return [JudgeTrainer(view=view, **trainer) for view in VIEWS]


class Judge:
    """The trained judge of a run.

    Args:
        folder: where `judge_colour.pt`, `judge_grey.pt` and `judge_normalised.pt` are.
        device: where to compute.
        classes: the names, in order, that it must know; None for its own.

    Attributes:
        classes: names in order.
        fingerprints: {view: that of its weights}.
        measured: {view: {"same_slides", "held_out_slides": its own figures on real tiles}}.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or knows other classes.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str = "cpu", classes: list[str] | None = None
    ) -> None:
        self.device = torch.device(device)
        self.networks, self.measured, self.fingerprints = {}, {}, {}
        for view in VIEWS:
            network, facts = load_classifier(Path(folder) / f"judge_{view}.pt", f"judge_{view}", classes)
            self.networks[view] = network.to(self.device)
            self.measured[view] = facts["measured"]
            self.fingerprints[view] = facts["fingerprint"]
            if view != VIEWS[0]:
                require_same("the classes", "one of the judge's views", self.classes, view, facts["classes"])
            self.classes = facts["classes"]

    def logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """{view: fp32 [B, classes]} of images [B, 3, S, S] in [-1, 1], of the size the judge was trained on.

        Images are rounded to 8 bits first, as a file would hold them.
        """
        return {view: self._apply(network, images, view) for view, network in self.networks.items()}

    def features(self, images: torch.Tensor, view: str) -> torch.Tensor:
        """What one view's network sees before its last layer, pooled over the image: fp32 [B, D]. Images likewise."""
        network, last = self.networks[view], self.networks[view].fc
        network.fc = torch.nn.Identity()
        try:
            return self._apply(network, images, view)
        finally:
            network.fc = last

    @torch.no_grad()
    def _apply(self, network: torch.nn.Module, images: torch.Tensor, view: str, batch_size: int = 64) -> torch.Tensor:
        seen = torch.from_numpy(np.stack([look(picture, view) for picture in to_uint8(images)])).permute(0, 3, 1, 2)
        batches = scale_patch(seen).split(batch_size)
        return torch.cat([network(batch.to(self.device)).float().cpu() for batch in batches])

    def agreement(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, dict[str, Any]]:
        """{view: figures of `bundle.metrics.classification.summarise`} with the classes the images should show."""
        return {view: summarise(logits, labels.cpu(), self.classes) for view, logits in self.logits(images).items()}
