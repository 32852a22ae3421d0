"""Classifiers with attention pooling: phi_img of Eq. 5 and phi_z of Eq. 6 of HistoDiffusion (arXiv 2308.04020).

All are normalised by groups: in a batch norm an item's gradient, which guides sampling, would depend on its batch.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import AutoencoderKL
from monai.networks.nets.autoencoderkl import AEKLDownsample, AEKLResBlock
from monai.networks.nets.diffusion_model_unet import AttnMidBlock, get_down_block, get_timestep_embedding
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

__all__ = ["EncoderClassifier", "HalfUNetClassifier"]

NORM_EPSILON = 1e-6  # of every group norm in latent diffusion


class AttentionPool(nn.Module):
    """Group norm, SiLU, then one attention whose query is the mean over positions; a projection to classes.

    Source: CLIP (Radford et al., arXiv 2103.00020), section 2.4; as the head of a classifier, ADM (Dhariwal & Nichol,
    arXiv 2105.05233), section 4. Like there the mean is a token of its own among keys and values.

    Args:
        channels: C, channels of the features.
        side: height and width of the features.
        classes: number of logits.
        head_channels: channels of one attention head; a divisor of C.
        norm_groups: groups of the norm; a divisor of C.
        dropout: share of the pooled features dropped before the projection, in training.
        spatial_dims: 2, or 3 for volumes.

    Raises:
        ValueError: a number that doesn't divide C.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        classes: int,
        head_channels: int,
        norm_groups: int,
        dropout: float = 0.0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.shape = (channels,) + (side,) * spatial_dims
        self.heads = heads_of(channels, head_channels)
        self.norm = nn.GroupNorm(norm_groups, channels, eps=NORM_EPSILON)
        self.positions = nn.Parameter(torch.randn(side**spatial_dims + 1, channels) / channels**0.5)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, side, side] to logits [B, classes].

        Raises:
            ValueError: features of another size; the positional embedding is learned for one.
        """
        if features.shape[1:] != self.shape:
            raise ValueError(f"the features are {tuple(features.shape[1:])}, the attention pool takes {self.shape}")
        tokens = silu(self.norm(features)).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positions
        # Only the mean's output is used, so only its query is made.
        parts = self.query(tokens[:, :1]), self.key(tokens), self.value(tokens)
        heads = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        pooled = scaled_dot_product_attention(*heads).flatten(1)
        return self.projection(self.dropout(pooled))


class TimeEmbedding(nn.Sequential):
    """Timesteps int64 [B] to [B, 4 * channels]: sinusoids, then two linear layers, as in MONAI's DiffusionModelUNet."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        return super().forward(get_timestep_embedding(timesteps, self[0].in_features).to(self[0].weight.dtype))


class HalfUNetClassifier(nn.Module):
    """phi_z of Eq. 6 (arXiv 2308.04020): the class of a noised latent, from the downward half of a diffusion UNet.

    The architecture is that of ADM's noisy classifier (arXiv 2105.05233, section 4): the UNet's levels down, its middle
    block, attention pooling. Departing from ADM, the time embedding is added rather than a scale and shift, and levels
    are halved by a strided convolution: what MONAI's DiffusionModelUNet does, whose blocks these are.

    MONAI's DiffusionModelEncoder isn't used: it flattens its features into a linear layer instead of pooling them by
    attention, halves after the last level too, and has no middle block.

    Args:
        in_channels: channels of a latent.
        side: height and width of a latent; all levels but the last halve it.
        num_classes: number of classes.
        channels: channels of each level.
        attention_levels: for each level, whether its residual blocks are followed by attention.
        num_res_blocks: residual blocks in a level, one number or one for each level.
        head_channels: channels of one attention head, in levels with attention, the middle block and the pool.
        norm_groups: groups of every norm; a divisor of all channels.
        dropout: share of the pooled features dropped in training; MONAI's blocks have no dropout.
        spatial_dims: 2, or 3 for volumes.

    Raises:
        ValueError: lists of different lengths, or numbers that don't divide what they should.
    """

    def __init__(
        self,
        in_channels: int,
        side: int,
        num_classes: int,
        channels: list[int],
        attention_levels: list[bool],
        num_res_blocks: int | list[int],
        head_channels: int,
        norm_groups: int,
        dropout: float = 0.0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if len(attention_levels) != len(channels):
            raise ValueError(f"attention_levels {attention_levels} and channels {channels} differ in length")
        for width, attention in zip(channels, attention_levels):
            if attention:
                heads_of(width, head_channels)
        self.pool = AttentionPool(
            channels[-1],
            halved(side, len(channels) - 1),
            num_classes,
            head_channels,
            norm_groups,
            dropout,
            spatial_dims,
        )
        self.time_embedding = TimeEmbedding(channels[0])
        shared = {
            "spatial_dims": spatial_dims,
            "temb_channels": 4 * channels[0],
            "norm_num_groups": norm_groups,
            "norm_eps": NORM_EPSILON,
            "num_head_channels": head_channels,
            "use_flash_attention": True,
        }
        self.first = Convolution(spatial_dims, in_channels, channels[0], conv_only=True)
        self.levels = nn.ModuleList(
            get_down_block(
                in_channels=channels[max(level - 1, 0)],
                out_channels=channels[level],
                num_res_blocks=blocks,
                add_downsample=level < len(channels) - 1,
                resblock_updown=False,
                with_attn=attention_levels[level],
                with_cross_attn=False,
                transformer_num_layers=0,
                cross_attention_dim=None,
                **shared,
            )
            for level, blocks in enumerate(ensure_tuple_rep(num_res_blocks, len(channels)))
        )
        self.middle = AttnMidBlock(in_channels=channels[-1], **shared)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noised latents [B, in_channels, side, side] and their timesteps, int64 [B], to logits [B, num_classes]."""
        embedding = self.time_embedding(timesteps)
        features = self.first(latents)
        for level in self.levels:
            features, _ = level(features, embedding)
        return self.pool(self.middle(features, embedding))


class EncoderClassifier(nn.Module):
    """phi_img of Eq. 5 (arXiv 2308.04020): the latent autoencoder's encoder, then attention pooling.

    The encoder's last convolution, to latent channels, is dropped; its last norm stays, so that what follows starts
    from features of a known scale. A shallow encoder leaves a thousand positions with a small receptive field: each
    entry of `extra_channels` adds a level that halves the side.

    With `timesteps` it is a time-dependent classifier of noised latents, for Eq. 6: the time embedding is added to
    every level's input, one bias for each channel, zero at the start so that a pre-trained trunk begins as it was.

    Args:
        autoencoder: definition of an AutoencoderKL, `{"_target_": "AutoencoderKL", **arguments}`.
        num_classes: number of classes.
        side: height and width S of an input.
        extra_channels: channels of the levels after the encoder's; may be empty.
        head_channels: channels of one head of the attention pool.
        norm_groups: groups of the norms after the encoder.
        dropout: share of the pooled features dropped in training.
        timesteps: whether the network is told the timestep.
        in_channels: channels of an input, if they are not the autoencoder's.

    Raises:
        ValueError: another network's definition, or numbers that don't divide what they should.
    """

    def __init__(
        self,
        autoencoder: dict[str, Any],
        num_classes: int,
        side: int,
        extra_channels: list[int],
        head_channels: int,
        norm_groups: int,
        dropout: float = 0.0,
        timesteps: bool = False,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        arguments = dict(autoencoder)
        target = arguments.pop("_target_", None)
        if target != "AutoencoderKL":
            raise ValueError(f"the trunk is an AutoencoderKL's encoder, but the definition names {target!r}")
        if in_channels is not None:
            arguments["in_channels"] = in_channels
        # Out of a whole autoencoder: its defaults and checks stay MONAI's, and weights keep their names.
        self.encoder = AutoencoderKL(**arguments).encoder
        del self.encoder.blocks[-1]
        spatial_dims = self.encoder.spatial_dims
        widths = [*self.encoder.channels, *extra_channels]
        final_side = halved(side, len(widths) - 1)
        self.extra = nn.ModuleList()
        for level in range(len(self.encoder.channels), len(widths)):
            before, width = widths[level - 1 : level + 1]
            self.extra.append(AEKLDownsample(spatial_dims, before))
            self.extra.append(AEKLResBlock(spatial_dims, before, norm_groups, NORM_EPSILON, width))
        self.pool = AttentionPool(
            widths[-1], final_side, num_classes, head_channels, norm_groups, dropout, spatial_dims
        )
        self.time_embedding = TimeEmbedding(widths[0]) if timesteps else None
        # A level's input has the channels of the level before, the first level's those of the first convolution.
        self.time_biases = nn.ModuleList(
            nn.Linear(4 * widths[0], width) for width in ([widths[0], *widths[:-1]] if timesteps else [])
        )
        for layer in self.time_biases:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        """Images or latents [B, in_channels, S, S] to logits [B, num_classes].

        Args:
            images: what to classify.
            timesteps: int64 [B] if the network was made with `timesteps`, else None.

        Raises:
            ValueError: timesteps missing, or given to a network that has no use for them.
        """
        if (timesteps is None) != (self.time_embedding is None):
            raise ValueError(
                f"timesteps are {'missing' if timesteps is None else 'given'}, but this classifier was made with "
                f"timesteps={self.time_embedding is not None}"
            )
        embedding = None if timesteps is None else silu(self.time_embedding(timesteps))
        biases = iter(self.time_biases)
        features = images
        for index, block in enumerate([*self.encoder.blocks, *self.extra]):
            features = block(features)
            if embedding is not None and (index == 0 or isinstance(block, AEKLDownsample)):
                features = features + next(biases)(embedding).reshape(features.shape[:2] + (1,) * (features.ndim - 2))
        return self.pool(features)

    def load_trunk(self, weights: dict[str, torch.Tensor]) -> None:
        """Copies a pre-trained autoencoder's encoder into the trunk, all but its last convolution.

        Args:
            weights: state dict of the whole AutoencoderKL.

        Raises:
            ValueError: an encoder of another architecture, with both sides named; nothing is copied then.
        """
        dropped = f"encoder.blocks.{len(self.encoder.blocks)}."
        given = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
        given = {name.removeprefix("encoder."): given[name] for name in given if not name.startswith(dropped)}
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        own = {name: tuple(tensor.shape) for name, tensor in self.encoder.state_dict().items()}
        wrong = [name for name in sorted(own.keys() | shapes.keys()) if own.get(name) != shapes.get(name)]
        if wrong:
            shown = ", ".join(f"{name}: given {shapes.get(name)}, trunk {own.get(name)}" for name in wrong[:4])
            raise ValueError(f"the encoder has another architecture: {len(wrong)} tensors differ ({shown})")
        self.encoder.load_state_dict(given)


def heads_of(channels: int, head_channels: int) -> int:
    """The number of heads; unlike MONAI's blocks it names the numbers that don't fit."""
    if channels % head_channels != 0:
        raise ValueError(f"{channels} channels can't be split into heads of head_channels {head_channels}")
    return channels // head_channels


def halved(side: int, times: int) -> int:
    """The side after so many halvings, all of them exact."""
    if side % 2**times != 0:
        raise ValueError(f"side {side} can't be halved {times} times")
    return side // 2**times
