"""Classifier-guided synthesis as a MONAI inferer: from seeds and labels to images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.samplers import HIGHEST_ETA, SAMPLERS, Callback, check_eta, timestep_pairs
from bundle.diffusion.sampling import Sampling, sample_images
from bundle.diffusion.schedule import NoiseSchedule
from bundle.models.adapted import AdaptedModels
from bundle.runs.precision import autocast_dtype

# DDIM's is the authors'; the other was found on patches: docs/results/diary.md.
RECOMMENDED_ETA = {"ddim": 1.0, "sde_dpm_solver++": 1.4}


class GuidedLatentInferer(Inferer):
    """Images of seeds and classes by a diffusion model that a classifier of noisy latents guides.

    The diffusion model runs under autocast where `precision` asks for it; the classifier's gradient and decoding are in
    fp32. Source: Ye et al. (arXiv 2308.04020), Eq. 6 to 8; see `bundle.diffusion.samplers` for each sampler.

    Args:
        guidance_scale: g >= 0; 0 is unguided.
        sampler: "ddim", "ddpm", "dpm_solver++" or "sde_dpm_solver++".
        num_inference_steps: network evaluations for one image, from 1 to the schedule's T.
        spacing: how the steps are spread over t: see `bundle.diffusion.samplers.timestep_pairs`.
        eta: of "ddim", 0 (deterministic) to 1, and of "sde_dpm_solver++", 0 or more; the other samplers have none. None
            for what `RECOMMENDED_ETA` has for the sampler.
        guidance_interval: lowest and highest t with guidance, both included; None for all that the classifier knows.
        guidance_maximum_norm: limit of g sqrt(1 - alpha_bar_t) |gradient| / |epsilon| of an image; None for none.
        guidance_temperature: what the logits are divided by; None for what the adaptation fitted.
        precision: "fp32", "bf16" or "auto" (bf16 where the hardware computes in it).

    Attributes:
        ratios: g sqrt(1 - alpha_bar_t) |gradient| / |epsilon|, before the limit, of each image made so far: the median
            over its guided steps.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    def __init__(
        self,
        guidance_scale: float = 3.0,
        sampler: str = "sde_dpm_solver++",
        num_inference_steps: int = 25,
        spacing: str = "log_snr",
        eta: float | None = None,
        guidance_interval: Sequence[int] | None = None,
        guidance_maximum_norm: float | None = None,
        guidance_temperature: float | None = None,
        precision: str = "auto",
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"--sampler is {sampler!r}; it must be one of {', '.join(SAMPLERS)}")
        eta = RECOMMENDED_ETA.get(sampler, 0.0) if eta is None else eta
        check_eta(sampler, eta)
        if guidance_interval is not None and len(guidance_interval) != 2:
            raise ValueError(f"--guidance_interval is {guidance_interval}; it needs the lowest and the highest t")
        autocast_dtype(precision, torch.device("cpu"))  # refuses an unknown one
        timestep_pairs(NoiseSchedule(), 1, spacing)
        self.sampling = Sampling(num_inference_steps, float(eta), sampler, spacing)
        self.guidance_scale = float(guidance_scale)
        self.guidance_interval = None if guidance_interval is None else [int(t) for t in guidance_interval]
        self.guidance_maximum_norm = None if guidance_maximum_norm is None else float(guidance_maximum_norm)
        self.guidance_temperature = None if guidance_temperature is None else float(guidance_temperature)
        self.precision = precision
        self.ratios: list[float] = []
        temperature = 1.0 if guidance_temperature is None else guidance_temperature
        some = torch.zeros(1, dtype=torch.int64)  # refuses impossible settings before anything is read
        ClassifierGuidance(torch.add, some, self.guidance_scale, guidance_interval, guidance_maximum_norm, temperature)

    def __call__(
        self,
        inputs: torch.Tensor | Sequence[int],
        network: AdaptedModels,
        labels: torch.Tensor,
        guidance_scale: torch.Tensor | None = None,
        callback: Callback | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """Images of one batch.

        Args:
            inputs: the seed of each image, int64 [B]; equal seeds have equal noise, whatever the class.
            network: the adapted models; they are prepared here where nobody has.
            labels: the class of each image, int64 [B].
            guidance_scale: g of each image, [B]; None for the inferer's own.
            callback: called with (number of steps done, scaled z) before the first step and after each step.

        Returns:
            fp32 [B, 3, S, S] in [-1, 1], on the CPU.

        Raises:
            ValueError: more steps than the schedule has, or an interval beyond what the classifier knows.
        """
        seeds = torch.as_tensor(inputs).tolist()
        ratios: list[tuple[int, torch.Tensor]] = []
        guidance = self.guidance(network, torch.as_tensor(labels), guidance_scale, ratios)
        images = sample_images(
            network,
            seeds,
            self.sampling,
            batch_size=len(seeds),
            autocast=lambda: self._autocast(network),
            guidance_for=lambda batch: guidance,
            callback=callback,
        )
        if ratios:
            self.ratios += torch.stack([ratio for _, ratio in ratios]).quantile(0.5, dim=0).tolist()
        return images

    def guidance(
        self,
        network: AdaptedModels,
        labels: torch.Tensor,
        guidance_scale: torch.Tensor | None = None,
        ratios: list[tuple[int, torch.Tensor]] | None = None,
        kind: type[ClassifierGuidance] = ClassifierGuidance,
    ) -> ClassifierGuidance:
        """The guidance of one batch, by this inferer's settings.

        Args:
            network: the adapted models; they are prepared here where nobody has.
            labels: the class of each image, int64 [B].
            guidance_scale: g of each image, [B]; None for the inferer's own.
            ratios: see `ClassifierGuidance`.
            kind: the class of the result.

        Raises:
            ValueError: more steps than the schedule has, or an interval beyond what the classifier knows.
        """
        settings = self.settings(network)
        return kind(
            network.classifier,
            labels.to(network.device),
            self.guidance_scale if guidance_scale is None else guidance_scale.to(network.device),
            settings["guidance_interval"],
            settings["guidance_maximum_norm"],
            settings["guidance_temperature"],
            ratios,
        )

    def settings(self, network: AdaptedModels) -> dict[str, Any]:
        """All settings that decide the pixels, as plain data, with what the models decide filled in.

        Raises:
            ValueError: more steps than the schedule has, or an interval beyond what the classifier knows.
        """
        network.prepare()
        timestep_pairs(network.schedule, self.sampling.steps, self.sampling.spacing)
        highest = network.maximum_timestep - 1
        interval = self.guidance_interval or [0, highest]
        if interval[1] > highest:
            raise ValueError(f"--guidance_interval is {interval}, but the classifier was trained for t up to {highest}")
        temperature = network.temperature if self.guidance_temperature is None else self.guidance_temperature
        settings = {
            "sampler": self.sampling.sampler,
            "steps": self.sampling.steps,
            "spacing": self.sampling.spacing,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": interval,
            "guidance_maximum_norm": self.guidance_maximum_norm,
            "guidance_temperature": temperature,
            "precision": str(autocast_dtype(self.precision, network.device)).removeprefix("torch."),
        }
        # Pools of the stochastic solver from before it had an eta are those of eta = 1: they keep their identity.
        sampler, eta = self.sampling.sampler, self.sampling.eta
        named = sampler in HIGHEST_ETA and (sampler, eta) != ("sde_dpm_solver++", 1.0)
        return {**settings, "eta": eta} if named else settings

    def identity(self, network: AdaptedModels) -> dict[str, Any]:
        """The identity of a pool of these images, see `bundle.synthesis.pool.Pool`."""
        settings = self.settings(network)
        return {"generator": "HistoDiffusion", "model": network.fingerprint, "settings": settings}

    def _autocast(self, network: AdaptedModels) -> torch.autocast:
        dtype = autocast_dtype(self.precision, network.device)
        return torch.autocast(network.device.type, dtype, enabled=dtype != torch.float32)
