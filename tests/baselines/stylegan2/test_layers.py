"""The layers of StyleGAN2 against hand-worked cases, closed forms and a form of the convolution of one image each."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from bundle.baselines.stylegan2.layers import (
    EPSILON,
    Blur,
    EqualConv,
    EqualLinear,
    MinibatchDeviation,
    ModulatedConv,
    activate,
    normalise,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_linear_layers_keep_unit_variance_whatever_their_multiplier():
    features = torch.randn(512, 256)
    for multiplier in (1.0, 0.01):
        layer = EqualLinear(256, 400, learning_rate_multiplier=multiplier)
        effective = layer.weight * layer.scale
        assert effective.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.02)
        assert layer(features).std().item() == pytest.approx(1, rel=0.02)
        assert layer(torch.zeros(1, 256)).abs().max() == 0
    assert EqualLinear(4, 3, bias=1.0, learning_rate_multiplier=0.01)(torch.zeros(1, 4)).tolist() == [[1, 1, 1]]


def test_adam_changes_layers_of_all_widths_at_one_relative_speed():
    """The first step of Adam moves every stored weight by the learning rate, and so the effective one by it times He's
    constant and the multiplier."""
    moved = {}
    for width, multiplier in ((16, 1.0), (1024, 1.0), (16, 0.01)):
        layer = EqualLinear(width, 8, learning_rate_multiplier=multiplier)
        before = (layer.weight * layer.scale).detach().clone()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.0, 0.99), eps=1e-20)
        layer(torch.randn(4, width)).square().sum().backward()
        optimizer.step()
        change = (layer.weight * layer.scale - before).detach().abs()
        moved[width, multiplier] = change / (1 / math.sqrt(width))
    assert moved[16, 1.0].numpy() == pytest.approx(0.01, rel=1e-3)
    assert moved[1024, 1.0].numpy() == pytest.approx(0.01, rel=1e-3)
    assert moved[16, 0.01].numpy() == pytest.approx(0.0001, rel=1e-2)


def test_convolutions_keep_unit_variance():
    features = torch.randn(8, 48, 16, 16)
    for kernel in (1, 3):
        layer = EqualConv(48, 64, kernel)
        inner = layer(features)[:, :, 1:-1, 1:-1]
        assert inner.std().item() == pytest.approx(1, rel=0.03)
    assert activate(torch.randn(100_000)).square().mean().item() == pytest.approx(1.04, rel=0.02)  # 2 (1 + 0.2^2) / 2


def test_demodulated_output_has_unit_variance_whatever_the_style():
    layer = ModulatedConv(48, 64, 3, style_channels=8)
    layer.affine.weight.data *= 5  # styles far from 1
    styles = torch.randn(4, 8) * 3
    outputs = layer(torch.randn(4, 48, 20, 20), styles)[:, :, 1:-1, 1:-1]
    assert outputs.flatten(1).std(1).detach().numpy() == pytest.approx(1, rel=0.05)
    assert outputs.transpose(0, 1).flatten(1).std(1).mean().item() == pytest.approx(1, rel=0.03)
    plain = ModulatedConv(48, 64, 3, style_channels=8, demodulate=False)
    plain.load_state_dict(layer.state_dict())
    undone = plain(torch.randn(4, 48, 20, 20), styles)[:, :, 1:-1, 1:-1]
    assert undone.flatten(1).std(1).max() > 2, "and that is the demodulation's doing"


@pytest.mark.parametrize("up", [False, True])
def test_modulation_is_that_of_the_weights_of_each_image(up):
    """Eq. 1 and 3 as they are written: w' = s w, w'' = w' / sqrt(sum w'^2 + eps), one convolution an image."""
    layer = ModulatedConv(5, 7, 3, style_channels=4, up=up).double()
    features, styles = torch.randn(3, 5, 6, 6).double(), torch.randn(3, 4).double()
    expected = []
    for image, style in zip(features, layer.affine(styles)):
        weight = layer.weight / math.sqrt(5 * 9) * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + EPSILON).sqrt()
        if up:
            line = torch.tensor([1, 3, 3, 1]).double() / 8
            doubled = conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            kernel = 4 * torch.outer(line, line).expand(7, 1, 4, 4)
            expected.append(conv2d(doubled, kernel, padding=1, groups=7)[0])
        else:
            expected.append(conv2d(image[None], weight, padding=1)[0])
    found = layer(features, styles)
    assert found.shape[-1] == (12 if up else 6)
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)


def test_styles_begin_at_1():
    assert ModulatedConv(5, 7, 3, style_channels=4).affine(torch.zeros(1, 4)).tolist() == [[1.0] * 5]


def test_blur_keeps_a_constant_and_doubles_as_bilinear_interpolation_does():
    flat = torch.full((1, 2, 8, 8), 3.0)
    assert torch.allclose(Blur(0)(flat), torch.full((1, 2, 5, 5), 3.0))
    assert Blur(1)(flat).shape == (1, 2, 7, 7) and Blur(2)(flat).shape == (1, 2, 9, 9)
    small = torch.randn(1, 2, 6, 6)
    zeros = torch.zeros(1, 2, 12, 12)
    zeros[:, :, ::2, ::2] = small
    doubled = Blur(2, gain=4.0)(zeros)[:, :, :12, :12]
    assert torch.allclose(
        doubled[:, :, 2:-2, 2:-2], interpolate(small, scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    )


def test_a_halving_convolution_is_the_filter_then_every_second_pixel():
    features = torch.randn(2, 3, 8, 8)
    for kernel in (1, 3):
        layer = EqualConv(3, 4, kernel, down=True)
        blurred = Blur(1 if kernel == 1 else 2)(features)
        expected = conv2d(blurred, layer.weight * layer.scale, layer.bias)[:, :, ::2, ::2]
        assert layer(features).shape == (2, 4, 4, 4)
        assert torch.allclose(layer(features), expected, atol=1e-6)


def test_minibatch_deviation_by_hand():
    features = torch.zeros(4, 2, 1, 2)
    features[:, 0, 0, 0] = torch.tensor([0.0, 10.0, 2.0, 10.0])
    features[:, 1, 0, 1] = torch.tensor([0.0, 0.0, 6.0, 0.0])
    # Groups of two take images 0, 2 and 1, 3. In the first the two deviations are 1 and 3, of four numbers.
    found = MinibatchDeviation(2)(features)
    assert torch.equal(found[:, :2], features)
    assert found[:, 2, 0].numpy() == pytest.approx(torch.tensor([[1.0, 1], [0, 0], [1, 1], [0, 0]]).numpy(), abs=1e-3)
    assert MinibatchDeviation(8)(features)[:, 2].unique().numel() == 1, "a batch smaller than a group is one"
    with pytest.raises(ValueError, match="4 images can't be divided into groups of 3"):
        MinibatchDeviation(3)(features)


def test_normalised_features_have_unit_mean_square():
    assert normalise(5 * torch.randn(3, 16)).square().mean(1).numpy() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", ["modulated", "up", "down", "deviation"])
def test_gradients_and_those_of_gradients(kind):
    """Lazy regularisers differentiate twice."""
    features = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    if kind in ("modulated", "up"):
        layer = ModulatedConv(2, 3, 3, style_channels=2, up=kind == "up").double()
        styles = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
        inputs = (features, styles)
    else:
        layer = (EqualConv(2, 3, 3, down=True) if kind == "down" else MinibatchDeviation(2)).double()
        inputs = (features,)
    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)
