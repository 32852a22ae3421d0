"""How dark and of what hue images are stained, and how varied they are, beside real ones."""

from __future__ import annotations

import torch

from bundle.metrics.frechet import frechet_distance


def density_statistics(images: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the optical density of each channel, fp32 [N, 6].

    Args:
        images: RGB [N, 3, H, W] in [-1, 1]; the density is that of `bundle.data.stain.rgb_to_optical_density`.
    """
    values = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    density = -((values + 1) / 256).log().flatten(2)
    return torch.cat([density.mean(2), density.std(2)], dim=1)


def stain_distance(images: torch.Tensor, real: torch.Tensor, reference: torch.Tensor | None = None) -> float:
    """Fréchet distance of the density statistics, each in units of its standard deviation over a reference.

    Args:
        images, real: what is compared, RGB [N, 3, H, W] and [M, 3, H, W] in [-1, 1].
        reference: real images of all classes, for comparing a class that itself hardly varies; `real` by default.
    """
    unit = density_statistics(real if reference is None else reference).std(0).clamp(min=1e-3)
    return frechet_distance(density_statistics(images) / unit, density_statistics(real) / unit)


def relative_diversity(features: torch.Tensor, real: torch.Tensor) -> float:
    """Mean distance between two images over that between two real ones, [N, D] and [M, D]; 1 where as varied."""
    return (torch.pdist(features.float()).mean() / torch.pdist(real.float()).mean()).item()
