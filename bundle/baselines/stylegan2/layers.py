"""Layers of StyleGAN2 in plain PyTorch, written from Karras et al., arXiv 1912.04958 (sections 2.2 and 4.1)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

EPSILON = 1e-8


def activate(features: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU of slope 0.2, times sqrt(2), so that standard normal features keep about their second moment."""
    return leaky_relu(features, 0.2) * math.sqrt(2)


def normalise(features: torch.Tensor) -> torch.Tensor:
    """[B, D] to a mean square of 1 an item."""
    return features * (features.square().mean(1, keepdim=True) + EPSILON).rsqrt()


def at_least_fp32(features: torch.Tensor) -> torch.Tensor:
    """The same in fp32, where autocast has made less of it."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate (Karras et al., arXiv 1710.10196, section 4.1).

    The stored weights are N(0, 1) and multiplied by He's constant when they are used, so that Adam, whose updates don't
    depend on the scale of gradients, changes all layers at the same relative speed.

    Args:
        inputs, outputs: numbers of features.
        bias: what the bias starts from.
        learning_rate_multiplier: relative speed of this layer; the start is the same whatever it is.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, learning_rate_multiplier: float = 1.0) -> None:
        super().__init__()
        self.multiplier = learning_rate_multiplier
        self.scale = learning_rate_multiplier / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / learning_rate_multiplier))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return linear(features, self.weight * self.scale, self.bias * self.multiplier)


class Blur(nn.Module):
    """The low-pass filter [1, 3, 3, 1] in both directions, on each channel.

    Args:
        padding: zeros at each side; 1 makes the result one pixel smaller, 2 one larger.
        stride: 2 also halves the side.
        gain: 4 after zeros were put between the pixels, so that the mean stays.
    """

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", gain * torch.outer(line, line)[None, None], persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        channels = features.shape[1]
        kernel = self.kernel.to(features.dtype).expand(channels, 1, 4, 4)
        return conv2d(features, kernel, stride=self.stride, padding=self.padding, groups=channels)


class EqualConv(nn.Module):
    """Convolution with an equalised learning rate, see :class:`EqualLinear`; no activation.

    Args:
        inputs, outputs: numbers of channels.
        kernel: 1 or 3.
        down: whether the side is halved, after the low-pass filter.
        bias: whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.blur, self.stride, self.padding = nn.Identity(), 1, kernel // 2
        if down and kernel == 1:  # what such a convolution would skip, the filter can leave out
            self.blur = Blur(1, stride=2)
        elif down:
            self.blur, self.stride, self.padding = Blur(2), 2, 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, inputs, S, S] -> [B, outputs, S, S], or of S / 2."""
        weight = self.weight * self.scale
        return conv2d(self.blur(features), weight, self.bias, stride=self.stride, padding=self.padding)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style, Eq. 1 and 3 of arXiv 1912.04958; no bias or activation.

    The scaling of the input and the division of the output stand for the scaling of the weights of each image, which is
    the same and lets the batch share one convolution.

    Args:
        inputs, outputs: numbers of channels.
        kernel: 1 or 3.
        style_channels: length of w.
        demodulate: whether output channels are divided by the standard deviation that they would have for independent
            unit inputs.
        up: whether the side is doubled.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style_channels: int, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.affine = EqualLinear(style_channels, inputs, bias=1.0)
        self.demodulate = demodulate
        self.blur = Blur(1, gain=4.0) if up else None

    def forward(self, features: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """[B, inputs, S, S] and w [B, style_channels] -> [B, outputs, S, S], or of 2 S."""
        weight = self.weight * self.scale
        style = at_least_fp32(self.affine(style))
        features = features * style[:, :, None, None].to(features.dtype)
        if self.blur is None:
            features = conv2d(features, weight, padding=weight.shape[-1] // 2)
        else:
            features = self.blur(conv_transpose2d(features, weight.transpose(0, 1), stride=2))
        if self.demodulate:
            # Not a matrix product, so that autocast leaves it in fp32.
            power = (style.square()[:, None] * weight.square().sum((2, 3))).sum(2)
            features = features * (power + EPSILON).rsqrt()[:, :, None, None].to(features.dtype)
        return features


class MinibatchDeviation(nn.Module):
    """Appends one channel: how much a group of images differs (Karras et al., arXiv 1710.10196, section 3).

    The standard deviation of each feature and position over the group, averaged over both, is the same number at every
    position of every image of the group. A generator that makes one image shows it there.

    Args:
        group: images of a group; a divisor of the batch.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C + 1, H, W]; groups are every (B / group)-th image.

        Raises:
            ValueError: the batch can't be divided.
        """
        count, _, height, width = features.shape
        group = min(self.group, count)
        if count % group:
            raise ValueError(f"a batch of {count} images can't be divided into groups of {group}")
        groups = at_least_fp32(features).unflatten(0, (group, count // group))
        deviation = (groups.var(0, unbiased=False) + EPSILON).sqrt().mean((1, 2, 3))
        channel = deviation.repeat(group)[:, None, None, None].expand(count, 1, height, width)
        return torch.cat([features, channel.to(features.dtype)], dim=1)
