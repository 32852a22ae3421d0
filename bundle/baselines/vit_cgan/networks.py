"""Generator and discriminator of the unified ViT-cGAN, both vision transformers.

Of Li, Li, Peng & Lovell ("Unified framework for histopathology image augmentation and classification via generative
models", arXiv 2212.09977) the abstract is the source: a conditional GAN of vision transformers with an additional
classification head and a conditional class projection. The parts are standard ones, each with its own source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, Mlp, PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import normalize, pad, pixel_shuffle

from bundle.runs.randomness import ImageNoise

__all__ = ["VitDiscriminator", "VitGenerator"]


class ModulatedLayerNorm(nn.Module):
    """(1 + gamma(w)) * LN(h) + beta(w): layer normalisation whose scale and shift depend on noise and class.

    ViTGAN (Lee et al., arXiv 2107.04589), Eq. 16, with the class in w as well; the 1 makes it plain normalisation where
    gamma and beta are 0.

    Args:
        dimension: D, of the tokens.
        condition: C, of w.
    """

    def __init__(self, dimension: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * dimension)

    def forward(self, tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] and w [B, C] -> [B, N, D]."""
        scale, shift = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.norm(tokens) * (1 + scale) + shift


class ModulatedBlock(nn.Module):
    """A transformer block with pre-normalisation by :class:`ModulatedLayerNorm`; ViTGAN, Eq. 13 to 15.

    Args:
        dimension, condition: as of ModulatedLayerNorm.
        heads: of the attention.
        mlp_ratio: hidden units of the MLP over D.
    """

    def __init__(self, dimension: int, condition: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = ModulatedLayerNorm(dimension, condition)
        self.attention = Attention(dimension, heads, qkv_bias=True)
        self.norm2 = ModulatedLayerNorm(dimension, condition)
        self.mlp = Mlp(dimension, round(dimension * mlp_ratio))

    def forward(self, tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.norm1(tokens, condition))
        return tokens + self.mlp(self.norm2(tokens, condition))


class VitGenerator(nn.Module):
    """Noise [B, Z] and labels [B] to images [B, 3, side, side] in [-1, 1].

    w comes of the concatenated, normalised noise and class embedding by a mapping network (StyleGAN2-ADA, arXiv
    2006.06676, appendix B) and reaches every block by its normalisation. The first tokens are linear in the noise, not
    in the class, so that no class has a layout of its own, plus what is learned of their places; each level after the
    first has twice the grid, by pixel shuffle (both TransGAN, arXiv 2102.07074). Each token of the last one is
    projected to a patch that overlaps its neighbours by half on every side, and patches are added: no seams.

    Before training it shows smooth colours: positions are sines and cosines (as ViTGAN's), the four tokens made of one
    are alike (ICNR, arXiv 1707.02937), and patches interpolate linearly (as of FCN, arXiv 1411.4038).

    Args:
        num_classes: number of classes.
        side: height and width of the images.
        noise_dimension: Z.
        condition_dimension: of w.
        dimensions: of the tokens of each level.
        depths, heads: blocks and attention heads of each level.
        patch_size: pixels of the last grid, even.
        mlp_ratio: see ModulatedBlock.

    Raises:
        ValueError: sizes that don't fit.
    """

    def __init__(
        self,
        num_classes: int,
        side: int,
        noise_dimension: int = 128,
        condition_dimension: int = 128,
        dimensions: Sequence[int] = (192, 96),
        depths: Sequence[int] = (3, 2),
        heads: Sequence[int] = (4, 4),
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        levels = len(dimensions)
        if not len(depths) == len(heads) == levels or not levels:
            raise ValueError(
                f"--train#generator#dimensions {list(dimensions)}, --train#generator#depths {list(depths)} and "
                f"--train#generator#heads {list(heads)} must have one number each for each level"
            )
        multiple = patch_size * 2 ** (levels - 1)
        if side % multiple or patch_size % 2:
            raise ValueError(
                f"--patch_size is {side}; it must be a multiple of {multiple}: {levels} levels, and patches of "
                f"--train#generator#patch_size {patch_size}, which must be even"
            )
        if any(wide % 4 for wide in dimensions):
            raise ValueError(f"--train#generator#dimensions {list(dimensions)} must be multiples of 4")
        wrong = [(wide, number) for wide, number in zip(dimensions, heads) if wide % number]
        if wrong:
            raise ValueError(
                f"--train#generator#dimensions has {wrong[0][0]}, which --train#generator#heads {wrong[0][1]} "
                "don't divide"
            )
        self.noise_dimension = noise_dimension
        self.embedding = nn.Embedding(num_classes, condition_dimension)
        self.mapping = nn.Sequential(
            nn.Linear(noise_dimension + condition_dimension, condition_dimension),
            nn.GELU(),
            nn.Linear(condition_dimension, condition_dimension),
        )
        self.grids = [side // multiple * 2**level for level in range(levels)]
        self.positions = nn.ParameterList(
            nn.Parameter(build_sincos2d_pos_embed([grid, grid], wide)[None])
            for grid, wide in zip(self.grids, dimensions)
        )
        self.first = nn.Linear(noise_dimension, self.positions[0].numel())
        self.blocks = nn.ModuleList(
            nn.ModuleList(ModulatedBlock(wide, condition_dimension, number, mlp_ratio) for _ in range(depth))
            for wide, depth, number in zip(dimensions, depths, heads)
        )
        self.upsampling = nn.ModuleList(nn.Linear(wide, 4 * after) for wide, after in zip(dimensions, dimensions[1:]))
        self.norm = ModulatedLayerNorm(dimensions[-1], condition_dimension)
        # The padding takes off what patches beyond the border add, see `render`.
        self.to_patches = nn.ConvTranspose2d(dimensions[-1], 3, 2 * patch_size, patch_size, patch_size * 3 // 2)
        self.start_smoothly()
        self.register_buffer("mean_conditions", torch.zeros(num_classes, condition_dimension))

    @torch.no_grad()
    def start_smoothly(self) -> None:
        """Initial weights: w of unit size, for images that differ; no detail below the size of a token."""
        for layer in (self.mapping[0], self.mapping[2]):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.first.bias)
        for layer in self.upsampling:
            first = layer.weight.unflatten(0, (-1, 4))[:, :1]
            layer.weight.copy_(first.expand(-1, 4, -1).flatten(0, 1))
            layer.bias.zero_()
        kernel = self.to_patches.weight
        size = kernel.shape[-1]
        window = 1 - (torch.arange(size) + 0.5 - size / 2).abs() / (size / 2)  # of neighbours it adds up to 1
        colours = torch.randn(len(kernel), 3, 1, 1) * len(kernel) ** -0.5
        kernel.copy_(colours * window[:, None] * window)
        self.to_patches.bias.zero_()

    def condition(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """w, [B, C]."""
        # Of unit variance each, so that neither drowns the other.
        return self.mapping(torch.cat([to_unit(noise), to_unit(self.embedding(labels))], dim=1))

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.render(self.condition(noise, labels), to_unit(noise))

    def render(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images of w, [B, C], and normalised noise, [B, Z]."""
        tokens = self.positions[0] + self.first(noise).unflatten(1, self.positions[0].shape[1:])
        for level, blocks in enumerate(self.blocks):
            if level:
                doubled = pixel_shuffle(to_grid(self.upsampling[level - 1](tokens), self.grids[level - 1]), 2)
                tokens = doubled.flatten(2).transpose(1, 2) + self.positions[level]
            for block in blocks:
                tokens = block(tokens, condition)
        grid = to_grid(self.norm(tokens, condition), self.grids[-1])
        # Border pixels lie in as many patches as all others.
        return self.to_patches(pad(grid, (1, 1, 1, 1), mode="replicate")).tanh()

    @torch.no_grad()
    def settle(self, samples: int = 2048) -> None:
        """Keeps the mean w of each class, over as many noises of a fixed seed, for :meth:`draw`."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(samples, self.noise_dimension, generator=generator).to(self.mean_conditions.device)
        for label, mean in enumerate(self.mean_conditions):
            mean.copy_(self.condition(noise, torch.full((samples,), label, device=noise.device)).mean(0))

    def draw(self, noise: ImageNoise, labels: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
        """Images [B, 3, side, side] of seeds and labels [B], as pools are made.

        Args:
            noise: of as many seeds, on the device of the labels.
            labels: int64 [B].
            truncation: psi in [0, 1] of mean w + psi (w - mean w), the mean that of the class (StyleGAN, arXiv
                1812.04948, section 3.2); the noise of the first tokens, whose mean is 0, is multiplied by it.
        """
        drawn = noise((len(labels), self.noise_dimension))
        condition = self.condition(drawn, labels)
        if truncation < 1:
            condition = self.mean_conditions[labels].lerp(condition, truncation)
        return self.render(condition, truncation * to_unit(drawn))


def to_unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows [B, N] scaled to a mean square of 1."""
    return normalize(rows, dim=1) * rows.shape[1] ** 0.5


def to_grid(tokens: torch.Tensor, grid: int) -> torch.Tensor:
    """[B, grid², D] -> [B, D, grid, grid]."""
    return tokens.transpose(1, 2).unflatten(2, (grid, grid))


class L2Attention(nn.Module):
    """softmax(-|q_i - q_j|² / sqrt(d)) v, with one projection for queries and keys; takes the place of timm's.

    ViTGAN, Eq. 9, after Kim et al. (arXiv 2006.04710): dot products make a discriminator's gradients unbounded. Written
    out, because the gradient penalty is differentiated twice, which fused attention can't be.

    Args:
        dim: D, of the tokens.
        num_heads: of the attention; d is D over it.
        **unused: of timm's attention.
    """

    def __init__(self, dim: int, num_heads: int, **unused: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, **unused: Any) -> torch.Tensor:
        """[B, N, D] -> [B, N, D]."""
        query, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.value)
        )
        # |q_i|² is the same for all j, and drops out of the softmax.
        logits = 2 * query @ query.transpose(-2, -1) - query.square().sum(-1)[..., None, :]
        weights = (logits / query.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class OverlappingPatches(PatchEmbed):
    """timm's patch embedding with patches that reach a quarter of their size into their neighbours.

    ViTGAN, section 3.1: a discriminator of separate patches judges what is in each more than how they fit.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        (size, _), old = self.patch_size, self.proj
        self.proj = nn.Conv2d(old.in_channels, old.out_channels, size + 2 * (size // 4), size, size // 4)


class VitDiscriminator(nn.Module):
    """How real an image looks as one of its class, and which class it shows: one trunk, two heads.

    The score is psi(h) + <e_y, h> of the pooled features h (projection discriminator, Miyato & Koyama, arXiv
    1802.05637, Eq. 4); the logits are linear in h.

    Args:
        num_classes: number of classes.
        side: height and width of the images.
        patch_size: pixels of a token.
        dimension, depth, heads: of the trunk, timm's VisionTransformer with :class:`L2Attention`.

    Raises:
        ValueError: sizes that don't fit.
    """

    def __init__(
        self, num_classes: int, side: int, patch_size: int = 8, dimension: int = 128, depth: int = 6, heads: int = 4
    ) -> None:
        super().__init__()
        if side % patch_size or patch_size % 4 or dimension % heads:
            raise ValueError(
                f"--patch_size {side} must be a multiple of --train#discriminator#patch_size {patch_size}, that of 4, "
                f"and --train#discriminator#dimension {dimension} of --train#discriminator#heads {heads}"
            )
        self.trunk = VisionTransformer(
            side,
            patch_size,
            num_classes=0,
            embed_dim=dimension,
            depth=depth,
            num_heads=heads,
            attn_layer=L2Attention,
            embed_layer=OverlappingPatches,
        )
        self.realism = nn.Linear(dimension, 1)
        self.projection = nn.Embedding(num_classes, dimension)
        self.classification = nn.Linear(dimension, num_classes)
        nn.init.normal_(self.projection.weight, std=dimension**-0.5)

    def judge(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [B] of images [B, 3, side, side] in [-1, 1] as of their labels [B], and class logits [B, classes]."""
        features = self.trunk(images)
        scores = self.realism(features)[:, 0] + (self.projection(labels) * features).sum(1)
        return scores, self.classification(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits [B, classes]: the classifier that the training gives besides the generator."""
        return self.classification(self.trunk(images))

    @property
    def shared_weight(self) -> torch.Tensor:
        """A weight of the last layer that both heads see, at which gradients of their losses are compared."""
        return self.trunk.blocks[-1].mlp.fc2.weight
