"""Stage 2: the unconditional diffusion model on scaled latents, Eq. 3 of HistoDiffusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as functional

from bundle.data.loader import read_images
from bundle.data.pictures import save_grid
from bundle.data.transforms import scale_patch
from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.sampling import LatentModels, Sampling, sample_images
from bundle.diffusion.schedule import NoiseSchedule
from bundle.models.artefacts import ARTEFACT_HEAD, build_alike, load_artefact, require_same, save_artefact
from bundle.models.ema import ExponentialMovingAverage
from bundle.runs import job
from bundle.runs.randomness import ImageNoise
from bundle.training.latents import LatentCache, draw_latents
from bundle.training.schedules import warm_up_and_cool_down
from bundle.training.stage import StageTrainer

LOSS_TYPES = {"mse": functional.mse_loss, "l1": functional.l1_loss}


class LatentDiffusionTrainer(StageTrainer):
    """What training a diffusion model on cached latents is, wherever the model comes from.

    A subclass has, at the latest after `prepare`: diffusion (the network), optimizer, scheduler, schedule, ema,
    autoencoder and autoencoder_facts.

    Args:
        latents: source of {"mean", "std"} items, with `patches` that have held-out ones.
        optimizer: the optimiser's class with its settings bound.
        warm_up: steps of rising learning rate.
        ema_decay: decay of the averaged weights that sampling uses.
        loss_type: "mse" (the paper's Eq. 3) or "l1" (what its code runs).
        min_snr_gamma: None, or gamma of min-SNR weighting.
        maximum_gradient_norm: None, or the norm gradients are clipped to.
        sample_seeds: seeds of the images in `samples.png`.
        num_inference_steps: DDIM steps of the sample pictures.
        eta: of DDIM in the sample pictures.
        **stage: arguments of StageTrainer.
    """

    stage = "diffusion"
    pictures = ("samples.png",)

    def __init__(
        self,
        latents: Any,
        optimizer: Callable[..., torch.optim.Optimizer],
        warm_up: int = 0,
        ema_decay: float = 0.9999,
        loss_type: str = "mse",
        min_snr_gamma: float | None = None,
        maximum_gradient_norm: float | None = None,
        sample_seeds: list[int] | range = range(64),
        num_inference_steps: int = 50,
        eta: float = 1.0,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"--diffusion#trainer#loss_type is {loss_type!r}; it must be one of {sorted(LOSS_TYPES)}")
        self.latents = latents
        self.make_optimizer = optimizer
        self.warm_up = warm_up
        self.ema_decay = ema_decay
        self.loss_type = loss_type
        self.min_snr_gamma = min_snr_gamma
        self.maximum_gradient_norm = maximum_gradient_norm
        self.sample_seeds = list(sample_seeds)
        self.num_inference_steps = num_inference_steps
        self.eta = eta
        self.autoencoder: torch.nn.Module | None = None
        self.autoencoder_facts: dict[str, Any] = {}

    def start_optimizer(self, trained: Iterable[torch.nn.Parameter]) -> None:
        """Makes the optimiser of the weights that are trained, and its warm-up."""
        self.optimizer = self.make_optimizer(params=trained)
        self.scheduler = warm_up_and_cool_down(self.optimizer, warm_up=self.warm_up)

    def state_objects(self) -> dict[str, Any]:
        return {"diffusion": self.diffusion, "ema": self.ema, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def before_first_step(self) -> None:
        self.latents.prepare()

    @property
    def latent(self) -> LatentScale:
        """Between the autoencoder's latents and those that the network sees."""
        return LatentScale.read(self.autoencoder_facts["latent"])

    def draw(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z_t, t and what the network should predict there, of cached posteriors {"mean", "std"}; new at each call."""
        latents = self.latent.scaled(draw_latents(batch, self.state.device))
        noise = torch.randn_like(latents)
        timesteps = torch.randint(self.schedule.timesteps, (len(latents),), device=latents.device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        return noisy, timesteps, self.schedule.target(latents, noise, timesteps)

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, float]:
        self.diffusion.train()
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.accumulate(batchdata, self.backward)
        job.sum_gradients(self.diffusion.parameters())
        if self.maximum_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), self.maximum_gradient_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update(self.present_weights())
        return self.numbers(terms)

    def backward(self, batch: dict[str, torch.Tensor], weight: float) -> dict[str, torch.Tensor]:
        """The loss of some rows, after its gradient times `weight` was passed backward."""
        noisy, timesteps, target = self.draw(batch)
        with self.autocast():
            prediction = self.inferer(noisy, self.diffusion, timesteps)
        losses = LOSS_TYPES[self.loss_type](prediction.float(), target, reduction="none").flatten(1).mean(1)
        loss = (losses * self.schedule.loss_weight(timesteps, self.min_snr_gamma)).mean()
        (weight * loss).backward()
        return {"loss": loss}

    def present_weights(self) -> dict[str, torch.Tensor]:
        """The network's weights under the names that the artefact has."""
        return self.diffusion.state_dict()

    def sample(self, seeds: list[int]) -> torch.Tensor:
        """Unguided images from the averaged weights, one seed an image: fp32 [len(seeds), 3, S, S] in [-1, 1]."""
        models = LatentModels(
            self.averaged_network(),
            self.autoencoder,
            self.schedule,
            self.autoencoder_facts["latent"],
            self.autoencoder_facts["patch_size"],
        )
        sampling = Sampling(self.num_inference_steps, self.eta)
        return sample_images(models, seeds, sampling, self.context.inference_batch_size, self.autocast)

    @torch.no_grad()
    def held_out_loss(self, network: torch.nn.Module, draws: int = 4) -> float:
        """Mean squared error of a network on held-out patches, unweighted, over evenly spread noise levels.

        The same noise levels and noise whatever was trained, so that runs on the same patches can be compared.
        """
        images = read_images(self.latents.patches.part("validation"))
        levels = torch.linspace(0, self.schedule.timesteps - 1, len(images) * draws).round().long()
        # A fixed shuffle, so that each image meets levels from the whole range.
        levels = levels[torch.randperm(len(levels), generator=torch.Generator().manual_seed(0))]
        total = 0.0
        for start in range(0, len(levels), self.context.inference_batch_size):
            places = torch.arange(start, min(start + self.context.inference_batch_size, len(levels)))
            batch = scale_patch(images[places % len(images)].to(self.state.device))
            latents = self.latent.scaled(self.autoencoder.encode(batch)[0])
            noise = ImageNoise(places.tolist(), latents.device)(tuple(latents.shape))
            timesteps = levels[places].to(latents.device)
            noisy = self.schedule.add_noise(latents, noise, timesteps)
            with self.autocast():
                prediction = network(noisy, timesteps)
            error = prediction.float() - self.schedule.target(latents, noise, timesteps)
            total += error.square().flatten(1).mean(1).sum().item()
        return total / len(levels)

    def averaged_network(self) -> torch.nn.Module:
        """A copy of the network with the averaged weights, in evaluation mode."""
        network = build_alike(self.diffusion).to(self.state.device).eval()
        network.load_state_dict(self.ema.weights)
        return network

    def save_samples(self, path: Any) -> None:
        """Saves the fixed seeds' images as a grid marked as synthetic."""
        facts = {
            "Model": self.artefact_path.name,
            "Step": str(self.state.iteration),
            "Seeds": f"{self.sample_seeds[0]} to {self.sample_seeds[-1]}",
            "TrainedOn": (
                "built-in generated patches" if self.latents.patches.built_in else "patches given by the user"
            ),
        }
        save_grid(path, self.sample(self.sample_seeds), synthetic=facts)


class DiffusionTrainer(LatentDiffusionTrainer):
    """Trains a DiffusionModelUNet from its random start.

    Args:
        diffusion: the network, built by `bundle.models.artefacts.build`.
        schedule: the forward process and what the network predicts.
        latents: the latent cache; its autoencoder's file is completed with the latent scale.
        **trainer: further arguments of LatentDiffusionTrainer.
    """

    def __init__(
        self, diffusion: torch.nn.Module, schedule: NoiseSchedule, latents: LatentCache, **trainer: Any
    ) -> None:
        super().__init__(latents=latents, **trainer)
        self.diffusion = diffusion
        self.start_optimizer(diffusion.parameters())
        self.schedule = schedule
        self.ema = ExponentialMovingAverage(diffusion.state_dict(), self.ema_decay)

    def parents(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder_facts["fingerprint"], "data": self.latents.patches.fingerprint}

    def prepare(self) -> None:
        """Loads the autoencoder; the first time, encodes the patches and completes `autoencoder.pt` by their scale."""
        path = self.latents.autoencoder_file
        self.latents.patches.prepare()
        autoencoder, facts = load_artefact(path, "autoencoder")
        require_same("the data", str(path), facts["data_fingerprint"], "this run", self.latents.patches.fingerprint)
        takes, makes = self.diffusion.definition["in_channels"], autoencoder.definition["latent_channels"]
        if takes != makes:
            raise ValueError(
                f"{path} makes latents of {makes} channels, the diffusion model takes {takes}: give "
                f"--latent_channels {makes}, or another --output_dir"
            )
        if "latent" not in facts:
            # Estimated once, kept with the weights, and never estimated again downstream.
            facts["latent"] = self.latents.statistics()
            known = {name: facts[name] for name in facts.keys() - ARTEFACT_HEAD}
            save_artefact(path, "autoencoder", autoencoder, **known)
        if self.folder.metrics().get("latent") != facts["latent"]:
            self.folder.set_metrics("latent", facts["latent"])
        self.autoencoder_facts = facts
        self.autoencoder = autoencoder.to(self.state.device).requires_grad_(False)

    def finish(self) -> None:
        self.save_samples(self.folder / "samples.png")
        self.folder.set_metrics("diffusion", {**self.effort(), "loss": self.held_out_loss(self.averaged_network())})
        save_artefact(
            self.artefact_path,
            "diffusion",
            self.diffusion,
            weights=self.ema.weights,
            raw_weights={name: tensor.detach().cpu() for name, tensor in self.diffusion.state_dict().items()},
            schedule=self.schedule.describe(),
            autoencoder_fingerprint=self.autoencoder_facts["fingerprint"],
            **self.latent.facts(),
            patch_size=self.autoencoder_facts["patch_size"],
            data_fingerprint=self.latents.patches.fingerprint,
            steps=self.state.iteration,
            identity=self.whole_identity(),
        )
