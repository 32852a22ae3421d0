"""Low-rank adapters: fine-tuning few numbers of a large network. LoRA (Hu et al., arXiv 2106.09685), Eq. 3."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn.utils import parametrize

PLACE = "parametrizations.weight."  # where torch keeps a parametrized weight in its layer


class LowRankUpdate(nn.Module):
    """W -> W + alpha / rank * B A, where a convolution's W is the matrix [out, in * height * width].

    A [rank, inputs] starts Gaussian (of variance 1 / inputs), B [out, rank] zero, and so does the update (section 4.1).
    """

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        inputs = weight[0].numel()
        # Drawn on the CPU: the same seed gives the same adapters on every device.
        self.A = nn.Parameter((torch.randn(rank, inputs) / inputs**0.5).to(weight))
        self.B = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.scale = alpha / rank

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * (self.B @ self.A).reshape(weight.shape)


def add_adapters(network: nn.Module, rank: int, alpha: float | None = None, match: str = "") -> list[nn.Parameter]:
    """Freezes a network and adds an adapter to its linear and convolution layers; its output stays what it was.

    Args:
        network: changed in place; its state dict has other names until `merge_adapters`.
        rank: largest rank of the change of each weight.
        alpha: the update's scale is alpha / rank; None means rank, a scale of 1.
        match: regular expression searched for in a layer's name ("attn" or "conv_in"); empty means all layers.

    Returns:
        the adapters' parameters, A and B of each layer: the only ones that require a gradient. Initial values come out
        of torch's random state.

    Raises:
        ValueError: a rank below 1, no layer that matches, or a network that has adapters already.
    """
    if rank < 1:
        raise ValueError(f"the adapters' rank is {rank}; it must be at least 1")
    if adapted(network):
        raise ValueError(f"the network has adapters already, at {adapted(network)[0]!r}: merge them first")
    layers = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and re.search(match, name)
    ]
    if not layers:
        raise ValueError(f"no linear or convolution layer's name matches {match!r}")
    network.requires_grad_(False)
    parameters = []
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank, rank if alpha is None else alpha)
        parametrize.register_parametrization(layer, "weight", update)
        parameters += [update.A, update.B]
    return parameters


def merge_adapters(network: nn.Module) -> None:
    """Makes every adapted weight a plain one of the same value, in place; all weights stay frozen."""
    for name in adapted(network):
        parametrize.remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=True)


@torch.no_grad()
def merged_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """What `state_dict` would be after `merge_adapters`, with the network left as it is: for averages and for saving.

    Returns:
        state dict with the names of the network without adapters; adapted weights are new tensors, the others the
        network's own.
    """
    weights = {name: tensor for name, tensor in network.state_dict().items() if PLACE not in name}
    for name in adapted(network):
        weights[f"{name}.weight".lstrip(".")] = network.get_submodule(name).weight
    return weights


def adapted(network: nn.Module) -> list[str]:
    """Names of the layers with an adapter; the network's own name is empty."""
    return [name for name, layer in network.named_modules() if parametrize.is_parametrized(layer, "weight")]
