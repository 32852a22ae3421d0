"""Training a class-conditional StyleGAN2 on the labelled training images."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from bundle.baselines.collapse import compare_with_real
from bundle.baselines.losses import discriminator_loss, generator_loss, gradient_penalty
from bundle.baselines.samples import SHOWN_IMAGES, averaged_copy, draw_classes, draw_images, save_samples
from bundle.baselines.stylegan2.networks import StyleGAN2Generator
from bundle.baselines.stylegan2.regularisation import (
    AdaptiveAugmentation,
    PathLengthPenalty,
    Regularisation,
    lazy_optimizer,
    path_lengths,
)
from bundle.data.labelled import LabelledPatches
from bundle.data.loader import read_images
from bundle.models.artefacts import build, save_artefact
from bundle.models.ema import ExponentialMovingAverage
from bundle.training.stage import StageTrainer

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 512  # real training images that generated ones are compared with, as many of each class
PATH_SHARE = 2  # the path length is measured on this part of a batch, as memory asks for (arXiv 1912.04958, appendix B)


class Course:
    """What was measured along the way, by step, in a form that a checkpoint can hold."""

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.measured)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.measured = dict(state)


class StyleGAN2Trainer(StageTrainer):
    """Trains generator and discriminator by the non-saturating logistic loss (Goodfellow et al., arXiv 1406.2661).

    A step updates the discriminator on real and generated images, then the generator on the same generated ones through
    the updated discriminator. R1 (arXiv 1801.04406) and path length (arXiv 1912.04958) follow as updates of their own
    every so many steps, in fp32. What is kept is the moving average of the generator.

    Args:
        generator, discriminator: the networks' classes with their settings bound; the number of classes and the side
            come from the data.
        optimizer: the class of both optimisers with its settings bound, see
            :func:`bundle.baselines.stylegan2.regularisation.lazy_optimizer`.
        labelled: the labelled patches; the part "train" alone is used.
        augmentation: of what the discriminator sees.
        regularisation: weights and intervals of R1 and path length.
        mixing_probability: share of images with styles of two latents.
        label_ramp: steps at which the class begins to count and at which it counts fully, linear between them: a
            training that begins without classes doesn't collapse to one picture a class (Shahbazi et al., arXiv
            2201.06578). [0, 0] for classes from the first step.
        ema_decay: decay of the averaged generator.
        watch_interval: steps between two comparisons with the real images, for `metrics.json`.
        **stage: arguments of StageTrainer.

    Raises:
        ValueError: a number out of range.
    """

    stage = "stylegan2"
    pictures = ("samples.png",)
    divisible = False  # a step's four updates and its statistics of a batch are of one process

    def __init__(
        self,
        generator: functools.partial,
        discriminator: functools.partial,
        optimizer: Callable[..., torch.optim.Adam],
        labelled: LabelledPatches,
        augmentation: AdaptiveAugmentation,
        regularisation: Regularisation,
        mixing_probability: float = 0.9,
        label_ramp: Sequence[int] = (0, 0),
        ema_decay: float = 0.999,
        watch_interval: int = 500,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        if not 0 <= mixing_probability <= 1:
            raise ValueError(f"--train#trainer#mixing_probability is {mixing_probability}; it must lie between 0 and 1")
        if len(label_ramp) != 2 or not 0 <= label_ramp[0] <= label_ramp[1] <= self.steps:
            raise ValueError(
                f"--train#trainer#label_ramp is {list(label_ramp)}; it needs two steps in order, between 0 and the "
                f"{self.steps} --stylegan2_steps"
            )
        self.generator_class = generator
        self.discriminator_class = discriminator
        self.make_optimizer = optimizer
        self.labelled = labelled
        self.augmentation = augmentation
        self.regularisation = regularisation
        self.mixing_probability = mixing_probability
        self.label_ramp = [int(step) for step in label_ramp]
        self.ema_decay = ema_decay
        self.watch_interval = watch_interval
        self.path_penalty = PathLengthPenalty()
        self.course = Course()
        self.generator: StyleGAN2Generator | None = None

    def build_networks(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Both networks for these data, with their random start."""
        self.labelled.prepare()
        known = {"num_classes": len(self.labelled.classes), "side": self.labelled.patch_size}
        pair = (self.generator_class, self.discriminator_class)
        return tuple(build(functools.partial(one, **known), self.seed + place) for place, one in enumerate(pair))

    def check(self) -> None:
        _, discriminator = self.build_networks()
        batch, group = self.data_loader.items_per_batch, discriminator.deviation.group
        if batch % min(group, batch):
            raise ValueError(
                f"--stylegan2_batch_size is {batch}; it must be a multiple of --train#discriminator#group, which is "
                f"{group}"
            )
        counts = self.labelled.counts()["train"]
        rare = [name for name in self.labelled.classes if counts[name] < 2]
        if rare:
            raise ValueError(
                f"{counts[rare[0]]} training images of {rare[0]!r}: a generator needs 2 or more of each class"
            )

    def prepare(self) -> None:
        self.generator, self.discriminator = (
            network.to(self.state.device, memory_format=torch.channels_last) for network in self.build_networks()
        )
        lazy = self.regularisation
        intervals = (
            lazy.path_interval if lazy.path_weight > 0 else None,
            lazy.r1_interval if lazy.r1_weight > 0 else None,
        )
        self.optimizer, self.discriminator_optimizer = (
            self.make_optimizer(params=network.parameters(), **lazy_optimizer(self.make_optimizer, interval))
            for network, interval in zip((self.generator, self.discriminator), intervals)
        )
        self.ema = ExponentialMovingAverage(self.generator.state_dict(), self.ema_decay)

    def state_objects(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "ema": self.ema,
            "augmentation": self.augmentation,
            "path_length": self.path_penalty,
            "course": self.course,
        }

    def parents(self) -> dict[str, Any]:
        return {"classes": self.labelled.classes, "labelled data": self.labelled.part("train").fingerprint}

    def attach_handlers(self) -> None:
        self.add_event_handler(Events.ITERATION_COMPLETED(every=self.watch_interval), self.watch)
        super().attach_handlers()

    def label_weight(self) -> float:
        """How much the class counts in this step, in [0, 1]."""
        start, end = self.label_ramp
        if self.state.iteration >= end:
            return 1.0
        return max(0.0, (self.state.iteration - start) / max(1, end - start))

    def latents(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two z for each image, [2, B, D], and which layers have the style of the second, bool [B, L]."""
        device, layers = self.state.device, self.generator.layers
        latents = torch.randn(2, count, self.generator.latent_channels, device=device)
        first_of_second = torch.randint(1, layers, (count, 1), device=device)
        mixing = torch.rand(count, 1, device=device) < self.mixing_probability
        return latents, mixing & (torch.arange(layers, device=device) >= first_of_second)

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        real = batchdata["image"].to(self.state.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batchdata["label"].to(self.state.device, non_blocking=True)
        weight = self.label_weight()
        self.discriminator.requires_grad_(True)
        latents, mixed = self.latents(len(labels))
        with self.autocast():
            generated = self.generator(latents, labels, weight, mixed)
        real = self.augmentation(real)
        # One augmentation for both updates: the images and, through it, their gradients are the same.
        shown = self.augmentation(generated)
        with self.autocast():
            real_logits = self.discriminator(real, labels, weight)
            generated_logits = self.discriminator(shown.detach(), labels, weight)
        terms = {"discriminator": discriminator_loss(real_logits, generated_logits)}
        update(self.discriminator_optimizer, terms["discriminator"])
        lazy = self.regularisation
        if lazy.r1_due(self.state.iteration):
            penalty = gradient_penalty(lambda images: self.discriminator(images, labels, weight), real)
            update(self.discriminator_optimizer, lazy.r1_weight * lazy.r1_interval * penalty)
            terms["r1"] = penalty
        self.discriminator.requires_grad_(False)
        with self.autocast():
            terms["generator"] = generator_loss(self.discriminator(shown, labels, weight))
        update(self.optimizer, terms["generator"])
        if lazy.path_due(self.state.iteration):
            terms["path_length"] = self.regularise_path(labels[: max(1, len(labels) // PATH_SHARE)], weight)
        self.ema.update(self.generator.state_dict())
        self.augmentation.observe(real_logits)
        terms |= {"real_logit": real_logits.mean(), "generated_logit": generated_logits.mean()}
        state = {"augmentation": self.augmentation.probability, "overfitting": self.augmentation.overfitting}
        return {**self.numbers(terms), **state, "label_weight": weight}

    def regularise_path(self, labels: torch.Tensor, weight: float) -> torch.Tensor:
        """One update by the path-length penalty; returns the mean length."""
        latents, mixed = self.latents(len(labels))
        styles = self.generator.styles(latents, labels, weight, mixed)
        noise = functools.partial(torch.randn, device=self.state.device)
        lengths = path_lengths(self.generator.synthesis(styles, noise), styles)
        factor = self.regularisation.path_weight * self.regularisation.path_interval
        update(self.optimizer, factor * self.path_penalty(lengths))
        return lengths.mean()

    def averaged_network(self) -> StyleGAN2Generator:
        return averaged_copy(self.generator, self.ema)

    def save_samples(self, path: Path) -> None:
        """Saves the same seeds of each class as a grid marked as synthetic."""
        images = draw_classes(
            self.averaged_network(), len(self.labelled.classes), SHOWN_IMAGES, self.context.inference_batch_size
        )
        save_samples(path, images, self.labelled, self.artefact_path.name, self.state.iteration)

    def watch(self) -> dict[str, Any]:
        """Compares the averaged generator with the real training images, and warns of a collapse."""
        part = self.labelled.part("train", COMPARED_IMAGES)
        labels = part.labels.tolist()
        images = draw_images(self.averaged_network(), range(len(labels)), labels, self.context.inference_batch_size)
        found = compare_with_real(images, labels, read_images(part), labels, self.labelled.classes)
        self.course.measured[str(self.state.iteration)] = found
        for warning in found["warnings"]:
            logger.warning(f"{self.stage}, step {self.state.iteration}: {warning}")
        return found

    def finish(self) -> None:
        network = self.averaged_network()
        network.measure_mean_styles()
        self.save_samples(self.folder / "samples.png")
        measured = self.course.measured.get(str(self.state.iteration)) or self.watch()
        self.folder.set_metrics("labelled", self.labelled.describe())
        self.folder.set_metrics(
            self.stage,
            {
                **measured,
                "augmentation": self.augmentation.probability,
                "course": self.course.measured,
                **self.effort(),
            },
        )
        save_artefact(
            self.artefact_path,
            self.stage,
            network,
            classes=self.labelled.classes,
            patch_size=self.labelled.patch_size,
            data_fingerprint=self.labelled.part("train").fingerprint,
            steps=self.state.iteration,
            identity=self.whole_identity(),
        )


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of an optimiser down a loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
