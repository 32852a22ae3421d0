"""Between the autoencoder's latents and those that diffusion works on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class LatentScale:
    """z = scale * (latents - centre): about 0 in each channel, of variance 1 over all.

    Rombach et al. (arXiv 2112.10752, Appendix G) scale; the centre is ours. Noise has the mean 0, latents have not, and
    at the last timestep of the usual schedule a tenth of them is left: a model trained on latents that aren't centred
    and started from pure noise has a colour cast.

    Args:
        scale: above 0.
        centre: of each channel; zeros for a diffusion model that was trained on latents as they are.
        mean: of each channel's latents, unscaled.
    """

    scale: float
    centre: tuple[float, ...]
    mean: tuple[float, ...]

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> LatentScale:
        """Of the "latent" of an `autoencoder.pt`; without a "centre" it was pre-trained before latents were centred."""
        mean = tuple(facts["mean"])
        return cls(facts["scale"], tuple(facts.get("centre", [0.0] * len(mean))), mean)

    def facts(self) -> dict[str, Any]:
        """What an artefact says of the latents that it was trained on."""
        return {"latent_scale": self.scale} | ({"latent_centre": list(self.centre)} if any(self.centre) else {})

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's latents [B, C, h, w] as diffusion takes them."""
        return self.scale * (latents - self._by_channel(self.centre, latents))

    def unscaled(self, scaled: torch.Tensor) -> torch.Tensor:
        """The other way, for the decoder."""
        return scaled / self.scale + self._by_channel(self.centre, scaled)

    def scaled_mean(self) -> torch.Tensor:
        """The mean of each channel as diffusion has it, [C]: 0 where latents are centred."""
        return self.scale * (torch.tensor(self.mean) - torch.tensor(self.centre))

    @staticmethod
    def _by_channel(values: tuple[float, ...], latents: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=latents.dtype, device=latents.device)[:, None, None]
