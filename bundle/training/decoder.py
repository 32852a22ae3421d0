"""Fine-tuning the decoder to the labelled domain, Eq. 5 of HistoDiffusion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from monai.metrics import PSNRMetric, SSIMMetric

from bundle.data.labelled import LabelledPatches
from bundle.data.loader import read_images
from bundle.data.pictures import save_grid
from bundle.data.transforms import scale_patch
from bundle.models.artefacts import fingerprint, read_artefact, save_artefact
from bundle.models.pretrained import PretrainedModels
from bundle.runs import job
from bundle.runs.shares import Part
from bundle.training.autoencoder import ReconstructionInferer, last_layer, update_discriminator
from bundle.training.classifier import load_classifier
from bundle.training.judge import Judge
from bundle.training.latents import LatentCache, draw_latents
from bundle.training.losses import DecoderLoss
from bundle.training.schedules import warm_up_and_cool_down
from bundle.training.shared_step import only
from bundle.training.stage import StageTrainer

TRAINED = ("decoder.", "post_quant_conv.")  # all that Eq. 5 changes of an AutoencoderKL
MEASURED_IMAGES = 512


class LatentsWithImages:
    """A latent cache's items of unvaried stain, with the picture that each is the latent of, in [-1, 1].

    Unvaried, because the few latent channels can't tell every hue from every other: a decoder that is to repeat all of
    them repeats none well.
    """

    def __init__(self, latents: LatentCache) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents.part) * self.latents.orientations

    def read(self, index: int) -> dict[str, Any]:
        return {**self.latents.read(index), "image": scale_patch(self.latents.image(index))}

    def weighted_items(self) -> None:
        """None: each labelled image counts the same."""
        return None


class DecoderTrainer(StageTrainer):
    """Trains decoder and post-quantisation convolution by Eq. 5.

    Encoder, diffusion model and phi_img stay as they are; that is checked by their hashes before and after.

    Args:
        optimizer: the class of both optimisers with its settings bound.
        loss: Eq. 5.
        latents: posterior of the labelled training images, from the frozen encoder; filled once for all stages.
        labelled: the labelled patches.
        pretrained: the models of the pre-training.
        cool_down: steps over which the learning rate falls to 0 at the end; it settles the shade of white.
        **stage: arguments of StageTrainer.
    """

    stage = "decoder"
    pictures = ("reconstructions.png",)
    at_once = ("discriminator",)

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        loss: DecoderLoss,
        latents: LatentCache,
        labelled: LabelledPatches,
        pretrained: PretrainedModels,
        cool_down: int = 0,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        self.make_optimizer = optimizer
        self.loss = loss
        self.latents = latents
        self.labelled = labelled
        self.pretrained = pretrained
        self.cool_down = cool_down

    def check(self) -> None:
        self.loss.reconstruction.perceptual.load()
        if self.loss.reconstruction.adversarial_weight > 0:
            self.pretrained.discriminator_file()

    def prepare(self) -> None:
        self.pretrained.prepare()
        self.labelled.prepare()
        device = self.state.device
        self.classifier, facts = load_classifier(
            self.folder / "image_classifier.pt", "image_classifier", self.labelled.classes
        )
        self.classifier.to(device)
        self.judge = Judge(self.folder.path, device, self.labelled.classes) if self.labelled.judged else None
        self.classifier_fingerprint = facts["fingerprint"]
        self.autoencoder = self.pretrained.autoencoder(device)
        self.trained = {
            name: tensor for name, tensor in self.autoencoder.named_parameters() if name.startswith(TRAINED)
        }
        for tensor in self.trained.values():
            tensor.requires_grad_(True)
        self.frozen_before = self.frozen_fingerprint()
        self.optimizer = self.make_optimizer(params=self.trained.values())
        self.scheduler = warm_up_and_cool_down(self.optimizer, cool_down=self.cool_down, steps=self.steps)
        self.discriminator = None
        if self.loss.reconstruction.adversarial_weight > 0:
            self.discriminator = self.pretrained.discriminator(device)
            self.discriminator_optimizer = self.make_optimizer(params=self.discriminator.parameters())
            self.discriminator_scheduler = warm_up_and_cool_down(
                self.discriminator_optimizer, cool_down=self.cool_down, steps=self.steps
            )

    def finished(self, done: int) -> bool:
        """As of StageTrainer; besides, a judge that was trained anew is asked again."""
        asked = self.folder.metrics().get("decoder", {}).get("judge")
        return super().finished(done) and (not done or asked == self.judge_fingerprints())

    def judge_fingerprints(self) -> dict[str, str] | None:
        return None if self.judge is None else self.judge.fingerprints

    def before_first_step(self) -> None:
        self.latents.prepare()

    def state_objects(self) -> dict[str, Any]:
        objects = {"autoencoder": self.autoencoder, "optimizer": self.optimizer, "scheduler": self.scheduler}
        if self.discriminator is not None:
            objects |= {
                "discriminator": self.discriminator,
                "discriminator_optimizer": self.discriminator_optimizer,
                "discriminator_scheduler": self.discriminator_scheduler,
            }
        return objects

    def parents(self) -> dict[str, Any]:
        return {
            "classes": self.labelled.classes,
            "labelled data": self.labelled.fingerprint,
            "autoencoder": self.pretrained.fingerprint,
            "image classifier": self.classifier_fingerprint,
            "perceptual network": self.loss.reconstruction.perceptual.describe(),
            # The learning rate falls towards the last step.
            "number of steps": self.steps if self.cool_down else None,
        }

    def frozen_fingerprint(self) -> dict[str, str]:
        """Hashes of all that must not change, by what it is."""
        encoder = {
            name: tensor for name, tensor in self.autoencoder.state_dict().items() if not name.startswith(TRAINED)
        }
        kept = self.folder / "diffusion.pt"  # not there yet where this run adapts it
        diffusion = read_artefact(
            kept if kept.is_file() else self.pretrained.pretrained_dir / "diffusion.pt", "diffusion"
        )
        return {
            "encoder": fingerprint(encoder),
            "diffusion model": fingerprint(diffusion["weights"]),
            "image classifier": fingerprint(self.classifier.state_dict()),
        }

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        batch = {name: tensor.to(self.state.device, non_blocking=True) for name, tensor in batchdata.items()}
        if self.discriminator is not None:
            self.discriminator.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts, last = self.parts(batch), last_layer(self.autoencoder)
        # The weights between the losses ask for gradients of all parts before any can be passed backward: several
        # parts go forward once, keeping what the last layer needs, and then each again, and back.
        with only(self.autoencoder, last) if len(parts) > 1 else contextlib.nullcontext():
            made = [self.decode(part, rows) for part, rows in parts]
            reconstruction = torch.cat(made) if len(parts) > 1 else made[0]
        terms, gradient = self.loss.gradient(
            batch["image"],
            reconstruction,
            batch["label"],
            self.classifier,
            last,
            self.discriminator,
            [part for part, _ in parts],
        )
        for (part, rows), rows_gradient in zip(parts, gradient.split([part.count for part, _ in parts])):
            torch.autograd.backward(self.decode(part, rows) if len(parts) > 1 else reconstruction, rows_gradient)
        job.sum_gradients(self.trained.values())
        self.optimizer.step()
        self.scheduler.step()
        if self.discriminator is not None:
            terms["discriminator"] = update_discriminator(
                self.discriminator,
                self.discriminator_optimizer,
                batch["image"],
                reconstruction.detach(),
                self.rows.weight,
            )
            self.discriminator_scheduler.step()
        return self.numbers(terms)

    def decode(self, part: Part, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """Reconstructions of a part from new latents of its images, fp32."""
        with self.drawing(part):
            latents = draw_latents(rows, self.state.device)
            with self.autocast():
                return self.autoencoder.decode(latents).float()

    def finish(self) -> None:
        after = self.frozen_fingerprint()
        if after != self.frozen_before:
            raise RuntimeError(f"what must stay frozen has changed: before {self.frozen_before}, after {after}")
        measured = self.measure()
        self.folder.set_metrics(
            "decoder", {**measured, "judge": self.judge_fingerprints(), "unchanged": after, **self.effort()}
        )
        save_artefact(
            self.artefact_path,
            "decoder",
            self.autoencoder,
            weights={
                name: tensor for name, tensor in self.autoencoder.state_dict().items() if name.startswith(TRAINED)
            },
            classes=self.labelled.classes,
            autoencoder_fingerprint=self.pretrained.fingerprint,
            image_classifier_fingerprint=self.classifier_fingerprint,
            data_fingerprint=self.labelled.fingerprint,
            steps=self.state.iteration,
            identity=self.whole_identity(),
        )

    def measure(self) -> dict[str, Any]:
        """Reconstructions before and after, on labelled images that no part of Eq. 5 was trained on."""
        judged = len(self.labelled.part("judge_validation"))
        parts = {"same_slides": "judge_validation" if judged else "validation"}
        if len(self.labelled.part("test")):
            parts["held_out_slides"] = "test"
        before = self.pretrained.autoencoder(self.state.device)
        measured: dict[str, Any] = {}
        pictures = []
        for name, part in parts.items():
            images, labels = self.images(part)
            versions = {"before": reconstruct(before, images, self.context.inference_batch_size)}
            versions["after"] = reconstruct(self.autoencoder, images, self.context.inference_batch_size)
            figures = {"images": len(images), "original": {"agreement": self.agreement(images, labels)}}
            for when, reconstruction in versions.items():
                figures[when] = {
                    **self.distances(images, reconstruction),
                    "agreement": self.agreement(reconstruction, labels),
                }
            measured[name] = figures
            shown = torch.linspace(0, len(images) - 1, 12).round().long()
            pictures += [part[shown] for part in (images, versions["before"], versions["after"])]
        save_grid(self.folder / "reconstructions.png", torch.cat(pictures), columns=12)
        first = measured["same_slides"]
        network = self.loss.reconstruction.perceptual.name
        headline = {}
        for when in ("before", "after"):
            headline |= {f"{name}_{when}": first[when][name] for name in ("psnr", "ssim", "perceptual_distance")}
            headline[f"lpips_{when}"] = first[when]["perceptual_distance"] if network == "lpips" else None
        return {**headline, "perceptual_network": network, **measured}

    def images(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """At most `MEASURED_IMAGES` images of a part, evenly spaced, [N, 3, S, S] in [-1, 1], and their labels."""
        source = self.labelled.part(part, MEASURED_IMAGES)
        return scale_patch(read_images(source)), torch.as_tensor(source.labels)

    def distances(self, images: torch.Tensor, reconstructions: torch.Tensor) -> dict[str, float]:
        """PSNR in dB and SSIM on [0, 1], the perceptual distance on [-1, 1]; means over images."""
        unit, other = (images + 1) / 2, (reconstructions + 1) / 2
        psnr = PSNRMetric(max_val=1.0)(other, unit)
        ssim = SSIMMetric(spatial_dims=2, data_range=1.0)(other, unit)
        with torch.no_grad():
            pairs = zip(
                images.split(self.context.inference_batch_size),
                reconstructions.split(self.context.inference_batch_size),
            )
            distance = torch.cat([self.loss.reconstruction.perceptual(left, right) for left, right in pairs])
        return {
            "psnr": round(psnr.mean().item(), 3),
            "ssim": round(ssim.mean().item(), 4),
            "perceptual_distance": round(distance.mean().item(), 5),
        }

    def agreement(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float] | None:
        """Share of images in which the judge sees the label, by view; None without a judge."""
        if self.judge is None:
            return None
        return {view: figures["accuracy"] for view, figures in self.judge.agreement(images, labels).items()}


@torch.no_grad()
def reconstruct(autoencoder: torch.nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Decoded posterior means, clipped to [-1, 1], on the CPU."""
    device, reconstruction = next(autoencoder.parameters()).device, ReconstructionInferer()
    return torch.cat([reconstruction(batch.to(device), autoencoder).cpu() for batch in images.split(batch_size)])
