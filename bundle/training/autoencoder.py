"""Stage 1: the latent autoencoder, Eq. 4 of HistoDiffusion."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.inferers import Inferer

from bundle.data.hashes import HASHES_FILE, write_hashes
from bundle.data.pictures import save_grid
from bundle.models.artefacts import save_artefact
from bundle.runs import job
from bundle.runs.shares import Part, add_means
from bundle.training.losses import AutoencoderLoss, hinge_discriminator_loss, patch_logits
from bundle.training.schedules import warm_up_and_cool_down
from bundle.training.shared_step import only
from bundle.training.stage import StageTrainer

logger = logging.getLogger(__name__)


class AutoencoderTrainer(StageTrainer):
    """Trains AutoencoderKL and a PatchDiscriminator with two optimisers.

    Args:
        autoencoder: built by `bundle.models.artefacts.build`.
        discriminator: likewise; its last output is raw logits.
        loss: Eq. 4.
        optimizer: the class of both optimisers with its settings bound.
        cool_down: steps over which the autoencoder's learning rate falls to 0 at the end.
        evaluator: measures held-out reconstructions at the end; its metrics go to `metrics.json`.
        patches: the training patches (`bundle.data.patches.TrainingPatches`).
        **stage: arguments of StageTrainer.
    """

    stage = "autoencoder"
    at_once = ("discriminator",)

    def __init__(
        self,
        autoencoder: torch.nn.Module,
        discriminator: torch.nn.Module,
        loss: AutoencoderLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        evaluator: Any,
        patches: Any,
        cool_down: int = 0,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        self.autoencoder = autoencoder
        self.discriminator = discriminator
        self.loss = loss
        self.autoencoder_optimizer = optimizer(params=autoencoder.parameters())
        self.discriminator_optimizer = optimizer(params=discriminator.parameters())
        self.cool_down = cool_down
        self.scheduler = warm_up_and_cool_down(self.autoencoder_optimizer, cool_down=cool_down, steps=self.steps)
        self.evaluator = evaluator
        self.patches = patches

    def state_objects(self) -> dict[str, Any]:
        return {
            "autoencoder": self.autoencoder,
            "discriminator": self.discriminator,
            "autoencoder_optimizer": self.autoencoder_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "scheduler": self.scheduler,
        }

    def parents(self) -> dict[str, Any]:
        return {
            "data": self.patches.fingerprint,
            "perceptual network": self.loss.perceptual.describe(),
            "number of steps": self.steps if self.cool_down else None,  # the learning rate falls towards the last
        }

    def prepare(self) -> None:
        self.loss.perceptual.load()
        self.patches.prepare()

    def before_first_step(self) -> None:
        self.patches.require_batch(self.data_loader.items_per_batch)
        if job.is_first():
            self.save_training_input(self.folder / "pictures" / "training_input.png")

    def attach_handlers(self) -> None:
        self.evaluator.add_event_handler(Events.COMPLETED, self._show_validation)
        super().attach_handlers()

    def _show_validation(self, evaluator: Any) -> None:
        """Puts what was measured along the way into the step's output, for the handlers that come later."""
        if self.state.output:
            self.state.output[0] |= {f"validation_{name}": value for name, value in evaluator.state.metrics.items()}

    def save_training_input(self, path: Path, images: int = 64) -> None:
        """Saves what the network will really see: the first transformed training patches."""
        keys = [
            key for batch in itertools.islice(self.data_loader.step_sampler.whole_batches(), images) for key in batch
        ]
        save_grid(path, torch.stack([torch.as_tensor(self.data_loader.dataset[key]["image"]) for key in keys[:images]]))
        logger.info(f"what the network sees is in {path}")

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        images = batchdata["image"].to(self.state.device, non_blocking=True)
        adversarial = self.loss.adversarial(self.state.iteration)
        self.autoencoder.train()
        self.discriminator.train()
        self.autoencoder_optimizer.zero_grad(set_to_none=True)
        parts = self.parts({"image": images})
        if adversarial and len(parts) > 1:
            terms, reconstruction = self.backward_twice(images, parts)
        else:
            terms, reconstruction = self.backward(parts, self.discriminator if adversarial else None)
        job.sum_gradients(self.autoencoder.parameters())
        self.autoencoder_optimizer.step()
        self.scheduler.step()
        if adversarial:
            terms["discriminator"] = update_discriminator(
                self.discriminator, self.discriminator_optimizer, images, reconstruction, self.rows.weight
            )
        return self.numbers(terms)

    def forward(self, part: Part, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstructions of a part, fp32, and the mean and standard deviation of the posterior."""
        with self.drawing(part), self.autocast():
            reconstruction, mean, std = self.inferer(images, self.autoencoder)
        return reconstruction.float(), mean, std

    def backward(
        self, parts: list[tuple[Part, dict[str, torch.Tensor]]], discriminator: torch.nn.Module | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Passes each part through all networks and back; the terms, and the last part's reconstruction, detached."""
        terms: dict[str, torch.Tensor] = {}
        for part, rows in parts:
            reconstruction, mean, std = self.forward(part, rows["image"])
            added = self.loss.backward(
                rows["image"], reconstruction, mean, std, last_layer(self.autoencoder), discriminator, part
            )
            terms = add_means(terms, added, part.count / self.rows.count)
        return terms, reconstruction.detach()

    def backward_twice(
        self, images: torch.Tensor, parts: list[tuple[Part, dict[str, torch.Tensor]]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The same where the adversarial weight asks for gradients of all parts before any can be passed backward.

        All parts go forward once, keeping what the last layer needs; then each goes forward again, and back.
        """
        last = last_layer(self.autoencoder)
        with only(self.autoencoder, last):
            reconstruction = torch.cat([self.forward(part, rows["image"])[0] for part, rows in parts])
        terms, gradient = self.loss.gradient(
            images, reconstruction, last, self.discriminator, [part for part, _ in parts]
        )
        kl: dict[str, torch.Tensor] = {}
        for (part, rows), gradient_here in zip(parts, gradient.split([part.count for part, _ in parts])):
            made = self.forward(part, rows["image"])
            kl_here = self.loss.backward_posterior(*made, gradient_here, part)
            kl = add_means(kl, {"kl": kl_here}, part.count / self.rows.count)
        terms |= kl
        return {"loss": self.loss.total(terms), **terms}, reconstruction.detach()

    def measure_together(self) -> None:
        self.evaluator.run()

    def finish(self) -> None:
        measured = {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        network = self.loss.perceptual.name
        self.folder.set_metrics(
            "autoencoder",
            {
                **measured,
                # Only the distance in LPIPS's own network may bear its name.
                "lpips": measured["perceptual_distance"] if network == "lpips" else None,
                "perceptual_network": network,
                **self.patches.describe(),
                **self.effort(),
            },
            forget=("latent", "diffusion"),
        )
        # Held-out patches too: what was tried out on them has seen them.
        write_hashes(self.folder / HASHES_FILE, self.patches.store.sha256)
        # Fine-tuning the decoder goes on training it.
        save_artefact(self.folder / "discriminator.pt", "discriminator", self.discriminator)
        save_artefact(
            self.artefact_path,
            "autoencoder",
            self.autoencoder,
            patch_size=self.patches.patch_size,
            normalise_stain=self.patches.store.normalise_stain,
            data_fingerprint=self.patches.fingerprint,
            steps=self.state.iteration,
            identity=self.whole_identity(),
        )


def update_discriminator(
    discriminator: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    reconstruction: torch.Tensor,
    weight: float = 1.0,
) -> torch.Tensor:
    """One hinge step of the discriminator on images and their reconstructions; returns the loss.

    Where these are the rows of one process, their mean counts `weight` in that of the batch.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = hinge_discriminator_loss(patch_logits(discriminator, images), patch_logits(discriminator, reconstruction))
    (weight * loss).backward()
    job.sum_gradients(discriminator.parameters())
    optimizer.step()
    return loss.detach()


def last_layer(autoencoder: torch.nn.Module) -> torch.Tensor:
    """Weight of the decoder's last convolution, where the adaptive weights are measured."""
    return [weight for weight in autoencoder.decoder.parameters() if weight.ndim == 4][-1]


class ReconstructionInferer(Inferer):
    """The deterministic reconstruction: the decoded posterior mean."""

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """RGB images [B, 3, H, W] in [-1, 1] -> reconstructions, same shape, clipped to [-1, 1]."""
        return network.decode(network.encode(inputs)[0]).float().clamp(-1, 1)
