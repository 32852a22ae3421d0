"""Activation checkpointing (Chen et al., arXiv 1604.06174): blocks are computed anew in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets.autoencoderkl import AEKLResBlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch.utils.checkpoint import checkpoint

# What autoencoder and diffusion model keep most of their activations in. AutoencoderKL's own option computes a whole
# encoder or decoder anew, which then keeps all its activations at once, and DiffusionModelUNet has none.
BLOCKS = (AEKLResBlock, DiffusionUNetResnetBlock, SpatialAttentionBlock)


def checkpoint_blocks(network: torch.nn.Module) -> int:
    """Has the blocks of a network, in place, keep their inputs alone for the backward pass; the number of them.

    Weights and their names, results and gradients stay. No block draws at random, so no random state need be kept.
    """
    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = functools.partial(_forward, type(block).forward.__get__(block))
    return len(blocks)


def _forward(forward: Callable[..., torch.Tensor], *inputs: Any, **named: Any) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
