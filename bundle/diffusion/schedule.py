"""The forward process q(z_t | z_0) and the conversions between what a network may predict.

Notation of Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239): alpha_bar_t is the
product of 1 - beta up to t, and z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) epsilon (their Eq. 4).
"""

from __future__ import annotations

import torch

PREDICTION_TYPES = ("epsilon", "v")
BETA_SCHEDULES = ("scaled_linear", "linear")


class NoiseSchedule:
    """Betas and cumulative products of a discrete diffusion process.

    Args:
        timesteps: T, the number of noise levels; t runs from 0 (almost clean) to T - 1 (almost noise).
        beta_start: first beta.
        beta_end: last beta. HistoDiffusion's code uses 0.0155 where LDM-4 has 0.0195.
        beta_schedule: "scaled_linear" (linear in the square root of beta: what latent diffusion calls "linear") or
            "linear" (linear in beta).
        prediction_type: what the network predicts, "epsilon" or "v" (Salimans & Ho, arXiv 2202.00512, Section 4).

    Raises:
        ValueError: an unknown name, or betas outside 0 < start <= end < 1.
    """

    def __init__(
        self,
        timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0155,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "epsilon",
    ) -> None:
        if timesteps < 1:
            raise ValueError(f"timesteps is {timesteps}; a diffusion process needs at least 1")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"betas must satisfy 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")
        if beta_schedule not in BETA_SCHEDULES:
            raise ValueError(f"beta_schedule is {beta_schedule!r}; it must be one of {BETA_SCHEDULES}")
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {PREDICTION_TYPES}")
        self.timesteps = timesteps
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.beta_schedule = beta_schedule
        self.prediction_type = prediction_type
        # float64, because 1 - alpha_bar_0 is 0.0015 and products of a thousand factors follow.
        if beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
        else:
            betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        self.betas = betas
        self.alpha_bar = torch.cumprod(1 - betas, dim=0)

    def describe(self) -> dict:
        """The arguments that rebuild this schedule, for an artefact."""
        names = ("timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
        return {name: getattr(self, name) for name in names}

    def alpha_bar_at(self, timesteps: torch.Tensor) -> torch.Tensor:
        """alpha_bar_t, float64 [B], on the device of `timesteps`, to which the table moves once and stays."""
        if self.alpha_bar.device != timesteps.device:
            self.alpha_bar = self.alpha_bar.to(timesteps.device)
        return self.alpha_bar[timesteps]

    def coefficients(self, timesteps: torch.Tensor, dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) as fp32 [B, 1, ...] with `dimensions` axes in all."""
        alpha_bar = self.alpha_bar_at(timesteps).reshape(-1, *[1] * (dimensions - 1))
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """A sample of q(z_t | z_0), Ho et al. Eq. 4.

        Args:
            latents: scaled latents z_0 [B, ...].
            noise: standard normal epsilon, same shape.
            timesteps: t in [0, T - 1], int64 [B].
        """
        signal, sigma = self.coefficients(timesteps, latents.ndim)
        return signal * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should predict at z_t: epsilon, or v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) z_0."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self.coefficients(timesteps, latents.ndim)
        return signal * noise - sigma * latents

    def epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """epsilon from the network's prediction at z_t; for v: sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, sigma = self.coefficients(timesteps, noisy.ndim)
        return signal * prediction + sigma * noisy

    def loss_weight(self, timesteps: torch.Tensor, min_snr_gamma: float | None) -> torch.Tensor:
        """Weight of each item's squared error, fp32 [B].

        None gives 1 (the simple loss). Otherwise min-SNR weighting (Hang et al., arXiv 2303.09556, Section 3.4):
        min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v, with SNR = alpha_bar / (1 - alpha_bar).
        """
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        alpha_bar = self.alpha_bar_at(timesteps)
        ratio = alpha_bar / (1 - alpha_bar)
        divisor = ratio if self.prediction_type == "epsilon" else ratio + 1
        return (ratio.clamp(max=min_snr_gamma) / divisor).float()
