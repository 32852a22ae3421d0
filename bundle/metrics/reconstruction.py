"""How held-out patches are compared with their reconstructions, through MONAI's metrics."""

from __future__ import annotations

from typing import Any

import torch


def image_as_label(batch: dict[str, Any], device: torch.device, non_blocking: bool, **kwargs: Any) -> tuple:
    """MONAI's `prepare_batch` for reconstruction: the image is its own label."""
    images = batch["image"].to(device, non_blocking=non_blocking)
    return images, images


def unit_range(output: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, label) mapped from [-1, 1] to [0, 1]: SSIM's luminance term depends on where zero is."""
    return (output["pred"] + 1) / 2, (output["label"] + 1) / 2


def signed_range(output: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, label) as they are, in [-1, 1]: what perceptual networks expect."""
    return output["pred"], output["label"]


class PairDistance:
    """A distance of image pairs as a column [B, 1], the form MONAI's metrics gather batches of different size in."""

    def __init__(self, distance: torch.nn.Module) -> None:
        self.distance = distance

    def __call__(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.distance(prediction, label)[:, None]
