"""Training the unified ViT-cGAN: in each step the discriminator, which is the classifier too, and the generator."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch.nn.functional import cross_entropy

from bundle.baselines.collapse import compare_with_real
from bundle.baselines.losses import discriminator_loss, generator_loss, gradient_penalty
from bundle.baselines.samples import averaged_copy, draw_classes, save_samples
from bundle.baselines.vit_cgan.augmentation import Augmentation
from bundle.baselines.vit_cgan.record import History
from bundle.baselines.vit_cgan.selection import SelectiveAugmentation
from bundle.baselines.vit_cgan.weighting import Losses, LossWeighting
from bundle.data.loader import read_images
from bundle.downstream.classifier import measure_classifier
from bundle.models.artefacts import build, save_artefact
from bundle.models.ema import ExponentialMovingAverage
from bundle.training.classifier import ImageClassifierTrainer

logger = logging.getLogger(__name__)

CLASSIFIER = "classifier"  # its artefact and its figures are those of configs/classify.json
REAL, GENERATED = "real", "generated"  # the classification losses that are weighed
COMPARED_REAL = 2048  # at most so many training images say what real ones are like


class VitCganTrainer(ImageClassifierTrainer):
    """Trains generator and discriminator; keeps the averaged generator, and the classifier that validated best.

    One step, with x real, y its class, and G(z, y') generated:

    - discriminator and classifier: the adversarial loss of scores D(x, y) and D(G(z, y'), y'); R1 every
      `penalty_interval` steps, times that interval (lazy, StyleGAN2, arXiv 1912.04958, section 3.1); and the weighted
      cross-entropies of the real images and of those generated ones that the selection takes;
    - generator: its adversarial loss, and its share of the cross-entropy of y' (AC-GAN, arXiv 1610.09585).

    The discriminator sees every image augmented. The teacher that chooses is the average of the discriminator's
    weights (mean teacher, arXiv 1703.01780); it sees them as they are.

    Args:
        generator_architecture: the generator's class with its settings bound; `num_classes` and `side` are added.
        generator_optimizer: the optimiser's class with its settings bound.
        weighting: names of the classification losses -> how they are weighed against each other.
        augmentation: of what the discriminator sees.
        losses: what is added to the adversarial ones, and how much it counts.
        selection: which generated images join the classification loss.
        generator_ema_decay: decay of the averaged generator, which makes the pools.
        picture_interval: steps between pictures and comparisons with real images.
        compared_images: generated images of each class that are compared, 4 or more.
        maximum_unused: see `bundle.downstream.classifier.DownstreamTrainer`.
        **classifier: arguments of ImageClassifierTrainer; `architecture` and `optimizer` are the discriminator's.

    Raises:
        ValueError: too few compared images.
    """

    stage = "vit_cgan"
    divisible = False  # a step chooses among the generated images of a whole batch
    pictures = ("samples.png", "confusion.png", "predictions.csv", "classifier.pt")

    def __init__(
        self,
        generator_architecture: functools.partial,
        generator_optimizer: Callable[..., torch.optim.Optimizer],
        weighting: Callable[..., LossWeighting],
        augmentation: Augmentation,
        losses: Losses,
        selection: SelectiveAugmentation,
        generator_ema_decay: float = 0.999,
        picture_interval: int = 500,
        compared_images: int = 32,
        maximum_unused: int | None = None,
        **classifier: Any,
    ) -> None:
        if compared_images < 4:
            raise ValueError(f"--train#trainer#compared_images is {compared_images}; it must be 4 or more")
        super().__init__(**classifier)
        self.generator_architecture = generator_architecture
        self.make_generator_optimizer = generator_optimizer
        self.make_weighting = weighting
        self.augmentation = augmentation
        self.losses = losses
        self.selection = selection
        self.generator_ema_decay = generator_ema_decay
        self.picture_interval = picture_interval
        self.compared_images = compared_images
        self.maximum_unused = maximum_unused

    def check(self) -> None:
        super().check()
        self.build_generator()

    def build_generator(self) -> torch.nn.Module:
        """The generator for these data, with its random start."""
        self.labelled.prepare()
        return build(functools.partial(self.generator_architecture, **self.known()), self.seed)

    def prepare(self) -> None:
        super().prepare()
        device = self.state.device
        self.weighting = self.make_weighting(names=[REAL, GENERATED]).to(device)
        learned = list(self.weighting.parameters())
        if learned:
            self.optimizer.add_param_group({"params": learned, "lr": self.weighting.rate, "weight_decay": 0.0})
        self.generator = self.build_generator().to(device)
        self.generator_optimizer = self.make_generator_optimizer(params=self.generator.parameters())
        self.generator_ema = ExponentialMovingAverage(self.generator.state_dict(), self.generator_ema_decay)
        self.teacher = self.averaged_network()
        self.history = History()

    def state_objects(self) -> dict[str, Any]:
        return {
            **super().state_objects(),
            "weighting": self.weighting,
            "generator": self.generator,
            "generator_optimizer": self.generator_optimizer,
            "generator_ema": self.generator_ema,
            "history": self.history,
        }

    def attach_handlers(self) -> None:
        def due(engine: Any, step: int) -> bool:
            return step % self.picture_interval == 0 or step == self.steps

        self.add_event_handler(Events.ITERATION_COMPLETED(event_filter=due), self.look)
        super().attach_handlers()

    # One step.

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        images = batchdata["image"].to(self.state.device, non_blocking=True)
        labels = batchdata["label"].to(self.state.device, non_blocking=True)
        self.network.train()
        self.generator.train()
        terms = self.numbers(self.update_discriminator(images, labels) | self.update_generator(len(images)))
        self.history.chosen += terms["chosen"]
        return terms

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise [B, Z] and classes [B], each as likely."""
        device = self.state.device
        noise = torch.randn(count, self.generator.noise_dimension, device=device)
        return noise, torch.randint(len(self.labelled.classes), (count,), device=device)

    def generate(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return self.generator(noise, labels).float()

    def judge(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [B] and logits [B, classes] of augmented images, fp32."""
        seen = self.augmentation(images)
        with self.autocast():
            scores, logits = self.network.judge(seen, labels)
        return scores.float(), logits.float()

    def update_discriminator(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(images)
        noise, wanted = self.draw(count)
        with torch.no_grad():
            generated = self.generate(noise, wanted)
        chosen = self.choose(images, labels, generated, wanted)
        scores, logits = self.judge(torch.cat([images, generated]), torch.cat([labels, wanted]))
        adversarial = discriminator_loss(scores[:count], scores[count:])
        smoothed = functools.partial(cross_entropy, label_smoothing=self.losses.label_smoothing)
        entropies = {REAL: smoothed(logits[:count], labels)}
        if chosen.any():
            entropies[GENERATED] = smoothed(logits[count:][chosen], wanted[chosen])
        weights = self.weighting.weights()
        weighted = self.weighting(entropies, self.network.shared_weight)
        loss = adversarial + self.losses.classification_weight * weighted
        terms = {"discriminator": adversarial, "classifier": entropies[REAL]}
        if self.losses.penalty_due(self.state.iteration):
            seen = self.augmentation(images)
            penalty = gradient_penalty(lambda batch: self.network.judge(batch, labels)[0], seen)
            loss = loss + self.losses.penalty_weight * self.losses.penalty_interval * penalty
            terms["gradient_penalty"] = penalty
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.ema.update(self.network.state_dict())
        accuracy = (logits[:count].argmax(1) == labels).float().mean()
        terms |= {"accuracy": accuracy, "chosen": chosen.float().mean(), "real_score": scores[:count].mean()}
        terms |= {"generated_score": scores[count:].mean()}
        return terms | {f"weight_{name}": weight for name, weight in weights.items()}

    @torch.no_grad()
    def choose(
        self, images: torch.Tensor, labels: torch.Tensor, generated: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Which generated images join the classification loss, bool [B]."""
        if not self.selection.started(self.state.iteration):
            return torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
        self.teacher.load_state_dict(self.ema.weights)
        with self.autocast():
            scores, logits = self.teacher.judge(torch.cat([images, generated]), torch.cat([labels, wanted]))
        real, scores = scores.float().split([len(images), len(generated)])
        probabilities = logits[len(images) :].float().softmax(1)
        return self.selection.choose(probabilities, wanted, scores, real)

    def update_generator(self, count: int) -> dict[str, torch.Tensor]:
        noise, wanted = self.draw(count)
        self.network.requires_grad_(False)
        scores, logits = self.judge(self.generate(noise, wanted), wanted)
        adversarial, classification = generator_loss(scores), cross_entropy(logits, wanted)
        self.generator_optimizer.zero_grad(set_to_none=True)
        (adversarial + self.losses.generator_class_weight * classification).backward()
        self.network.requires_grad_(True)
        self.generator_optimizer.step()
        self.generator_ema.update(self.generator.state_dict())
        return {"generator": adversarial, "generator_class": classification}

    # What is looked at along the way, and at the end.

    def averaged_generator(self) -> torch.nn.Module:
        network = averaged_copy(self.generator, self.generator_ema)
        network.settle()
        return network

    def show(self, generator: torch.nn.Module, path: Path) -> dict[str, Any]:
        """Saves a picture; compares images with real training images, and says where they have collapsed or failed."""
        classes = self.labelled.classes
        images = draw_classes(generator, len(classes), self.compared_images, self.context.inference_batch_size)
        save_samples(path, images, self.labelled, self.artefact_path.name, self.state.iteration)
        part = self.labelled.part("train", COMPARED_REAL)
        labels = np.repeat(np.arange(len(classes)), self.compared_images)
        found = compare_with_real(images, labels, read_images(part), part.labels, classes)
        for warning in found["warnings"]:
            logger.warning(f"{self.stage}, step {self.state.iteration}: {warning}")
        return found

    def look(self) -> None:
        path = self.folder / "pictures" / f"samples_{self.state.iteration:06d}.png"
        self.history.rows.append({"step": self.state.iteration, **self.show(self.averaged_generator(), path)})

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """The classifier's figures, as those of configs/classify.json; held-out tiles are looked at here alone."""
        return {
            "real_images": len(self.labelled.part("train")),
            **measure_classifier(self, network),
            "best_step": self.best.step,
            **self.effort(),
        }

    def finish(self) -> None:
        classifier, generator = self.averaged_network(self.best.weights), self.averaged_generator()
        found = self.show(generator, self.folder / "samples.png")
        self.folder.set_metrics("labelled", self.labelled.describe())
        self.folder.set_metrics(CLASSIFIER, self.measure(classifier))
        self.folder.set_metrics(
            self.stage,
            {
                "compared_with_real": found,
                "along_the_way": self.history.rows,
                # Of all steps, those before the selection starts included.
                "chosen_for_each_real": round(self.history.chosen / self.state.iteration, 4),
                **self.effort(),
            },
        )
        facts = {
            "classes": self.labelled.classes,
            "patch_size": self.labelled.patch_size,
            "normalise_stain": bool(self.labelled.store.normalise_stain),
            "data_fingerprint": self.labelled.fingerprint,
            "steps": self.state.iteration,
            "identity": self.whole_identity(),
        }
        save_artefact(self.folder / f"{CLASSIFIER}.pt", CLASSIFIER, classifier, **facts)
        save_artefact(self.artefact_path, self.stage, generator, **facts)
