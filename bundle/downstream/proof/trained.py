"""A network that trains on the pictures of a row: from scratch, or fine-tuned from the weights of a trunk."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose

from bundle.data.loader import ItemDataset
from bundle.data.transforms import RandOrientationd, ScalePatchd, scale_patch
from bundle.downstream.classifier import DownstreamTrainer
from bundle.downstream.proof.bench import Group
from bundle.downstream.proof.imagery import Pictures, Ref
from bundle.downstream.proof.rows import Row
from bundle.models.artefacts import fingerprint, load_artefact
from bundle.models.classifiers import EncoderClassifier
from bundle.models.feature_classifier import FeatureClassifier
from bundle.runs.checks import check_counts
from bundle.runs.context import RunContext
from bundle.training.classifier import load_classifier

MIXED = {"mixup": {"mixup_alpha": 0.2}, "cutmix": {"cutmix_alpha": 1.0}}  # as their papers have them


@dataclass(frozen=True)
class Training:
    """How a network of every row trains.

    Args:
        steps: optimiser steps, whatever the number of pictures.
        batch_size: pictures a step.
        lr: the optimiser's largest rate, of AdamW.
        weight_decay: of AdamW.
        label_smoothing: in [0, 1).
        ema_decay: of the averaged weights, which are the ones tested.
        checkpoint_interval: steps between checkpoints.
        seed: of initial weights and of what is drawn.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 0.0005
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    ema_decay: float = 0.99
    checkpoint_interval: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch_size=self.batch_size, checkpoint_interval=self.checkpoint_interval)


class TrainedBackbone:
    """A network that learns all its weights from the pictures of a row.

    Every label trains: nothing is held back to validate with, so the last averaged weights are tested.

    Args:
        name: in folders and tables.
        trunk: name of a network of timm's; arguments: further arguments of it.
        pictures: of the study.
        training: how it trains.
        side: pixels a side that the network sees.
        weights: file of the weights it starts from; None for random ones.
        pretrained_dir: pre-training whose encoder rows may start from; None for none.
        device: where to compute.
    """

    def __init__(
        self,
        name: str,
        trunk: str,
        pictures: Pictures,
        training: Training,
        side: int = 64,
        arguments: Mapping[str, Any] | None = None,
        weights: Path | None = None,
        pretrained_dir: str | Path | None = None,
        device: Any = "cpu",
    ) -> None:
        self.name = name
        self.trunk = trunk
        self.pictures = pictures
        self.training = training
        self.side = side
        self.arguments = dict(arguments or {})
        self.weights = weights
        self.pretrained_dir = None if pretrained_dir is None else Path(pretrained_dir).expanduser()
        self.device = device

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        start = None
        if self.weights is not None:
            network = FeatureClassifier(self.trunk, 0, self.side, arguments=self.arguments)
            network.load_trunk(self.weights)
            start = fingerprint(network.state_dict())
        return {
            "trunk": self.trunk,
            "arguments": self.arguments,
            "side": self.side,
            "start": start,
            **vars(self.training),
        }

    def lacking(self, row: Row) -> str | None:
        return "give --pretrained_dir" if row.start is not None and self.pretrained_dir is None else None

    def predict(self, row: Row, learned: Sequence[Group], tested: Sequence[Ref], folder: Path) -> np.ndarray:
        source = Learned(self.pictures, learned, row)
        trainer = self.trainer(source, row, folder)
        try:
            trainer.run()
        finally:
            trainer.folder.close()
        network = load_classifier(trainer.artefact_path, trainer.stage)[0].to(self.device)
        found = []
        for start in range(0, len(tested), 64):
            images = [self.pictures.picture(ref, row.view) for ref in tested[start : start + 64]]
            batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
            with torch.inference_mode():
                found.append(network(scale_patch(batch).to(self.device)).argmax(1).cpu())
        shutil.rmtree(folder)  # what it came to is kept by whoever asked
        return torch.cat(found).numpy()

    def trainer(self, source: Learned, row: Row, folder: Path) -> StudyTrainer:
        """What trains the network of one run."""
        settings = self.training
        context = RunContext(folder, self.device, settings.seed, checkpoint_interval=settings.checkpoint_interval)
        transform = Compose([RandOrientationd("image"), ScalePatchd("image")])
        dataset = ItemDataset(source, transform)
        if row.start is None:
            architecture = functools.partial(
                FeatureClassifier, trunk=self.trunk, arguments=self.arguments, input_side=self.side
            )
        else:
            definition = load_artefact(self.pretrained_dir / "autoencoder.pt", "autoencoder")[1]["definition"]
            architecture = functools.partial(
                EncoderClassifier, autoencoder=definition, extra_channels=[128, 256], head_channels=32, norm_groups=8
            )
        return StudyTrainer(
            context=context,
            dataset=dataset,
            batch_size=settings.batch_size,
            steps=settings.steps,
            labelled=source,
            augmented=source,
            architecture=architecture,
            optimizer=functools.partial(torch.optim.AdamW, lr=settings.lr, weight_decay=settings.weight_decay),
            schedule=functools.partial(
                WarmupCosineSchedule, warmup_steps=settings.steps // 20, warmup_multiplier=0.01, t_total=settings.steps
            ),
            label_smoothing=settings.label_smoothing,
            trunk_weights=self.weights if row.start is None else None,
            encoder=None if row.start is None else self.pretrained_dir / "autoencoder.pt",
            preprocessing=ScalePatchd("image"),
            validation_interval=settings.steps,
            ema_decay=settings.ema_decay,
            **MIXED.get(row.mix, {}),
        )


class StudyTrainer(DownstreamTrainer):
    """A DownstreamTrainer without validation tiles, which measures nothing itself.

    Args:
        encoder: artefact of an autoencoder whose encoder it starts from; None for none.
        **classifier: arguments of DownstreamTrainer.
    """

    def __init__(self, encoder: Path | None = None, **classifier: Any) -> None:
        super().__init__(**classifier)
        self.encoder = encoder

    def start_from_pretraining(self) -> None:
        super().start_from_pretraining()
        if self.encoder is not None:
            self.network.load_trunk(load_artefact(self.encoder, "autoencoder")[0].state_dict())

    def validation_loss(self, network: torch.nn.Module) -> float:
        return -float(self.state.iteration)  # the last weights are kept

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        return self.augmented.describe()


@dataclass
class Learned:
    """The pictures of a row in memory, as the labelled and as the augmented patches of a DownstreamTrainer.

    Args:
        pictures: of the study.
        groups: what is learned from.
        row: whose `share` says how often synthetic pictures are seen, and `balanced` whether classes are as often.
    """

    pictures: Pictures
    groups: Sequence[Group]
    row: Row
    normalise_stain: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.classes = self.pictures.tiles.classes
        self.patch_size = self.pictures.tiles.patch_size
        made = [(group, ref) for group in self.groups for ref in group.refs]
        self.images = [self.pictures.picture(ref, group.treatment, group.copy) for group, ref in made]
        self.labels = np.array([ref.label for _, ref in made])
        self.synthetic = np.array([bool(ref.pool) for _, ref in made])

    def prepare(self) -> Learned:
        return self

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        for image in self.images:
            digest.update(image)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        return {"real_images": int((~self.synthetic).sum()), "synthetic_images": int(self.synthetic.sum())}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> dict[str, Any]:
        """{"image": uint8 RGB [3, S, S], "label": place in the classes} of one picture."""
        image = torch.from_numpy(self.images[index].transpose(2, 0, 1).copy())
        return {"image": image, "label": int(self.labels[index])}

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        """The places of each kind of picture with its probability; None where each picture counts the same."""
        kinds = np.zeros(len(self), int)
        shares = {0: 1.0}
        if self.row.share is not None and self.synthetic.any():
            kinds, shares = self.synthetic.astype(int), {0: 1 - self.row.share, 1: self.row.share}
        if self.row.balanced:
            number = len(self.classes)
            places = [np.flatnonzero((kinds == kind) & (self.labels == at)) for kind in shares for at in range(number)]
            weights = [share / number for share in shares.values() for _ in range(number)]
            kept = [(place, weight) for place, weight in zip(places, weights) if len(place)]
            total = sum(weight for _, weight in kept)
            return [place for place, _ in kept], np.array([weight / total for _, weight in kept])
        if len(shares) == 1:
            return None
        return [np.flatnonzero(kinds == kind) for kind in shares], np.array(list(shares.values()))
