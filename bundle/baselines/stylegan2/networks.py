"""Generator and discriminator of a class-conditional StyleGAN2, written from the papers.

Karras et al., arXiv 1912.04958 (StyleGAN2: skip generator, residual discriminator), arXiv 1812.04948 (mapping network,
noise, style mixing), arXiv 2006.06676 (class conditioning, appendix C); Miyato & Koyama, arXiv 1802.05637 (projection);
Shahbazi et al., arXiv 2201.06578 (the weight of the class).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate, one_hot

from bundle.baselines.stylegan2.layers import (
    EqualConv,
    EqualLinear,
    MinibatchDeviation,
    ModulatedConv,
    activate,
    at_least_fp32,
    normalise,
)
from bundle.runs.randomness import ImageNoise

FIRST_SIDE = 4
MAPPING_MULTIPLIER = 0.01  # arXiv 1812.04948, appendix C: the mapping network learns a hundred times slower
SEEDS_OF_MEAN = 1000  # of the mean style of a class


def check_channels(side: int, channels: Sequence[int]) -> None:
    """Refuses channels that don't lead from 4 pixels to `side`, one number for each doubling.

    Raises:
        ValueError: says how many there must be.
    """
    levels = math.log2(side / FIRST_SIDE) + 1
    if levels != len(channels) or levels < 2:
        raise ValueError(
            f"--channels has {len(channels)} numbers, and a patch of {side} pixels needs a power of 2 of at least 8 "
            f"and one number for each size from {FIRST_SIDE} pixels up to it"
        )


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation."""

    def __init__(self, inputs: int, outputs: int, style_channels: int, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_channels, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: torch.Tensor, style: torch.Tensor, noise: Callable) -> torch.Tensor:
        features = self.conv(features, style)
        drawn = noise((len(features), 1, *features.shape[2:])).to(features.dtype)
        return activate(features + self.noise_strength * drawn + self.bias[:, None, None])


class ColourOutput(nn.Module):
    """Features to RGB: modulated by the style, not demodulated."""

    def __init__(self, inputs: int, style_channels: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_channels, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, features: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return at_least_fp32(self.conv(features, style)) + self.bias[:, None, None]


class StyleGAN2Generator(nn.Module):
    """Latents and classes to images.

    Args:
        num_classes: K.
        side: S, pixels a side; a power of 2 of at least 8.
        channels: of the features at 4, 8, ..., S pixels.
        latent_channels: length of z.
        style_channels: length of w.
        mapping_layers: fully connected layers from z and the class to w.

    Attributes:
        mean_styles: [K, style_channels], what truncation draws styles towards; filled by :meth:`measure_mean_styles`.

    Raises:
        ValueError: a side and channels that don't fit.
    """

    def __init__(
        self,
        num_classes: int,
        side: int,
        channels: Sequence[int],
        latent_channels: int = 128,
        style_channels: int = 128,
        mapping_layers: int = 8,
    ) -> None:
        super().__init__()
        check_channels(side, channels)
        self.num_classes = num_classes
        self.latent_channels = latent_channels
        self.embedding = EqualLinear(num_classes, latent_channels)
        widths = [2 * latent_channels] + [style_channels] * mapping_layers
        self.mapping_layers = nn.ModuleList(
            EqualLinear(*pair, learning_rate_multiplier=MAPPING_MULTIPLIER) for pair in zip(widths, widths[1:])
        )
        self.constant = nn.Parameter(torch.randn(channels[0], FIRST_SIDE, FIRST_SIDE))
        convs = [StyledConv(channels[0], channels[0], style_channels, up=False)]
        for inputs, outputs in zip(channels, channels[1:]):
            convs += [StyledConv(inputs, outputs, style_channels, up=True)]
            convs += [StyledConv(outputs, outputs, style_channels, up=False)]
        self.convs = nn.ModuleList(convs)
        self.outputs = nn.ModuleList(ColourOutput(width, style_channels) for width in channels)
        self.register_buffer("mean_styles", torch.zeros(num_classes, style_channels))

    @property
    def layers(self) -> int:
        """L, how many styles an image has: one for each convolution, and one for the last output."""
        return len(self.convs) + 1

    def mapping(self, latents: torch.Tensor, labels: torch.Tensor, label_weight: float = 1.0) -> torch.Tensor:
        """Styles w [B, style_channels] of z [B, latent_channels] and classes [B].

        Args:
            label_weight: in [0, 1]; at 0 the class is not seen.
        """
        known = normalise(self.embedding(one_hot(labels, self.num_classes).to(latents.dtype)))
        features = torch.cat([normalise(latents), label_weight * known], dim=1)
        for layer in self.mapping_layers:
            features = activate(layer(features))
        return features

    def synthesis(self, styles: torch.Tensor, noise: Callable[[tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
        """Images, fp32 [B, 3, S, S], about [-1, 1], of a style for each layer [B, L, style_channels].

        Args:
            noise: shape [B, 1, side, side] -> standard normal noise.
        """
        features = self.constant.expand(len(styles), -1, -1, -1)
        image: torch.Tensor | None = None
        for place, conv in enumerate(self.convs):
            features = conv(features, styles[:, place], noise)
            if place % 2 == 0:
                colours = self.outputs[place // 2](features, styles[:, place + 1])
                # Bilinear doubling is the filter [1, 3, 3, 1].
                image = colours if image is None else colours + interpolate(image, scale_factor=2, mode="bilinear")
        return image

    def forward(
        self,
        latents: torch.Tensor,
        labels: torch.Tensor,
        label_weight: float = 1.0,
        mixed: torch.Tensor | None = None,
        noise: Callable[[tuple[int, ...]], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Images [B, 3, S, S]; see :meth:`styles` and :meth:`synthesis`. Noise is drawn where none is given."""
        styles = self.styles(latents, labels, label_weight, mixed)
        return self.synthesis(styles, noise or (lambda shape: torch.randn(shape, device=latents.device)))

    def styles(
        self, latents: torch.Tensor, labels: torch.Tensor, label_weight: float = 1.0, mixed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A style for each layer, [B, L, style_channels].

        Args:
            latents: z [B, latent_channels]; for style mixing [2, B, latent_channels].
            labels: classes [B].
            label_weight: see :meth:`mapping`.
            mixed: bool [B, L], which layers have the style of the second z (arXiv 1812.04948, section 3.1).
        """
        if mixed is None:
            return self.mapping(latents, labels, label_weight)[:, None].expand(-1, self.layers, -1)
        one, other = self.mapping(latents.flatten(0, 1), labels.repeat(2), label_weight).chunk(2)
        return torch.where(mixed[:, :, None], other[:, None], one[:, None])

    def draw(self, noise: ImageNoise, labels: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
        """Images of seeds and classes, about [-1, 1]: z and the noise of every layer come from the image's own seed.

        Args:
            noise: of the seeds [B].
            labels: classes [B].
            truncation: psi; styles are `mean + psi (w - mean)`, with the mean of the class.
        """
        styles = self.mapping(noise((len(noise), self.latent_channels)), labels)
        styles = self.mean_styles[labels].lerp(at_least_fp32(styles), truncation)
        return self.synthesis(styles[:, None].expand(-1, self.layers, -1), noise)

    @torch.no_grad()
    def measure_mean_styles(self) -> None:
        """Fills `mean_styles` by the styles of fixed seeds, the same for every class."""
        latents = torch.randn(SEEDS_OF_MEAN, self.latent_channels, generator=torch.Generator().manual_seed(0))
        for label in range(self.num_classes):
            labels = torch.full((SEEDS_OF_MEAN,), label, device=self.constant.device)
            self.mean_styles[label] = self.mapping(latents.to(self.constant.device), labels).mean(0)


class ResidualDown(nn.Module):
    """Residual block of the discriminator that halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3)
        self.second = EqualConv(inputs, outputs, 3, down=True)
        self.skip = EqualConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed = activate(self.second(activate(self.first(features))))
        return (changed + self.skip(features)) / math.sqrt(2)


class StyleGAN2Discriminator(nn.Module):
    """Residual discriminator with minibatch deviation and class projection.

    The logit is psi(h) + <v_y, h> / sqrt(C), h the features of the image and v_y a vector of its class (arXiv
    1802.05637, Eq. 4); the root keeps the product of two standard normal vectors at unit variance.

    Args:
        num_classes, side, channels: as of :class:`StyleGAN2Generator`.
        group: images of a group, see :class:`MinibatchDeviation`.
    """

    def __init__(self, num_classes: int, side: int, channels: Sequence[int], group: int = 4) -> None:
        super().__init__()
        check_channels(side, channels)
        first = channels[0]
        self.input = EqualConv(3, channels[-1], 1)
        down = list(channels)[::-1]
        self.blocks = nn.Sequential(*(ResidualDown(*pair) for pair in zip(down, down[1:])))
        self.deviation = MinibatchDeviation(group)
        self.last_conv = EqualConv(first + 1, first, 3)
        self.features = EqualLinear(first * FIRST_SIDE**2, first)
        self.unconditional = EqualLinear(first, 1)
        self.class_vectors = nn.Parameter(torch.randn(num_classes, first))

    def forward(self, images: torch.Tensor, labels: torch.Tensor, label_weight: float = 1.0) -> torch.Tensor:
        """Logits, fp32 [B], of images [B, 3, S, S] in [-1, 1] and their classes [B]; large for real ones.

        Args:
            label_weight: in [0, 1], what the second term is multiplied by.
        """
        features = self.blocks(activate(self.input(images)))
        features = activate(self.last_conv(self.deviation(features)))
        features = activate(self.features(features.flatten(1)))
        return self.logits(at_least_fp32(features), labels, label_weight)

    def logits(self, features: torch.Tensor, labels: torch.Tensor, label_weight: float = 1.0) -> torch.Tensor:
        """The projection, [B], of features h [B, C]."""
        projected = (features * self.class_vectors[labels]).sum(1) / math.sqrt(features.shape[1])
        return at_least_fp32(self.unconditional(features)[:, 0]) + label_weight * projected
