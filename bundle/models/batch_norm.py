"""Batch norm over the items of all processes."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bundle.runs.job import size, summed, summed_with_gradient

PLAIN = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


class JointBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance in training are those of the batch of all processes together.

    torch.nn.SyncBatchNorm does the same on GPUs alone; this one does it on CPUs too, so that what is tested there is
    what runs on GPUs. Shares of different sizes count by their sizes.
    """

    def _check_input_dim(self, features: torch.Tensor) -> None:
        if features.dim() < 2:
            raise ValueError(f"batch norm needs features [B, C, ...], got {tuple(features.shape)}")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, C, ...], normalised over all axes but C."""
        if not self.training or size() == 1:
            return super().forward(features)
        axes = [0, *range(2, features.dim())]
        shape = [1, -1] + [1] * (features.dim() - 2)
        values = features.float()
        count = summed(values.new_tensor([values.numel() / values.shape[1]]))
        mean = summed_with_gradient(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = summed_with_gradient(centred.square().sum(axes)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * count / (count - 1), rate)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(features.dtype)


def batch_norms(network: torch.nn.Module) -> list[_BatchNorm]:
    """All batch norms of a network, whatever their number of axes."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def join_batch_norms(network: torch.nn.Module) -> None:
    """Has the batch norms of a network, in place, normalise over all processes.

    Raises:
        ValueError: one is of a class of its own, such as timm's that have an activation in them.
    """
    for module in batch_norms(network):
        if type(module) not in (*PLAIN, JointBatchNorm):
            raise ValueError(
                f"several processes can't share the batch norm {type(module).__name__} of this network: train it in "
                "one process, or take a network with group norm or layer norm"
            )
        module.__class__ = JointBatchNorm  # weights, statistics and their names in a file stay
