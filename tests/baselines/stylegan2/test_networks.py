"""Generator and discriminator of StyleGAN2: shapes, the projection by hand, what a seed decides, gradients."""

import functools

import pytest
import torch

from bundle.baselines.stylegan2.layers import activate
from bundle.baselines.stylegan2.networks import StyleGAN2Discriminator, StyleGAN2Generator
from bundle.models.artefacts import build, load_artefact, save_artefact
from bundle.runs.randomness import ImageNoise

SIZES = {"num_classes": 3, "side": 16, "channels": [8, 6, 4]}
SMALL = {**SIZES, "latent_channels": 6, "style_channels": 5, "mapping_layers": 2}


def generator(**settings):
    """With noise that shows, as after some training."""
    network = build(functools.partial(StyleGAN2Generator, **{**SMALL, **settings}), seed=1)
    for conv in network.convs:
        conv.noise_strength.data.fill_(0.3)
    return network


def discriminator(**settings):
    return build(functools.partial(StyleGAN2Discriminator, **{**SIZES, "group": 2, **settings}), seed=2)


def test_an_image_depends_on_class_and_seed_whatever_its_batch():
    network = generator().eval()
    seeds, labels = [3, 4, 5, 3], torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        together = network.draw(ImageNoise(seeds), labels)
        alone = [network.draw(ImageNoise([seed]), labels[place : place + 1]) for place, seed in enumerate(seeds)]
    assert together.shape == (4, 3, 16, 16) and together.dtype == torch.float32
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(together[0], together[3], atol=1e-2), "the class counts"
    assert not torch.allclose(together[1], together[3], atol=1e-2), "the seed counts"


def test_the_noise_of_every_layer_comes_from_the_seed():
    network = generator().eval()
    shapes = []

    def noise(shape):
        shapes.append(shape)
        return torch.zeros(shape)

    network.synthesis(torch.randn(2, network.layers, 5), noise)
    assert shapes == [(2, 1, side, side) for side in (4, 8, 8, 16, 16)]
    styles = torch.randn(1, 1, 5).expand(-1, network.layers, -1)
    one, other = (network.synthesis(styles, ImageNoise([seed])) for seed in (0, 1))
    assert (one - other).abs().max() > 0.01


def test_truncation_draws_towards_the_mean_style_of_the_class():
    network = generator().eval()
    network.measure_mean_styles()
    latents = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    for label in range(3):
        expected = network.mapping(latents, torch.full((1000,), label)).mean(0)
        assert torch.allclose(network.mean_styles[label], expected, atol=1e-6)
    labels = torch.tensor([0, 2])
    zero = network.draw(ImageNoise([1, 2]), labels, truncation=0.0)
    noise = ImageNoise([1, 2])
    noise((2, 6))
    styles = network.mean_styles[labels][:, None].expand(-1, network.layers, -1)
    assert torch.allclose(zero, network.synthesis(styles, noise), atol=1e-6)
    half, whole = (network.draw(ImageNoise([1, 2]), labels, truncation=psi) for psi in (0.5, 1.0))
    assert not torch.allclose(half, whole, atol=1e-3) and not torch.allclose(half, zero, atol=1e-3)


def test_the_mapping_by_hand():
    """z and the class embedding to unit mean square each, then a layer that learns a hundred times slower."""
    network = generator(mapping_layers=1)
    layer = network.mapping_layers[0]
    layer.bias.data.normal_()
    latents, labels = 3 * torch.randn(2, 6), torch.tensor([0, 2])
    known = network.embedding.weight[:, labels].T
    inputs = torch.cat([rows / rows.square().mean(1, keepdim=True).sqrt() for rows in (latents, known)], dim=1)
    outputs = 0.01 * (inputs @ layer.weight.T / 12**0.5 + layer.bias)
    expected = torch.where(outputs > 0, outputs, 0.2 * outputs) * 2**0.5
    assert torch.allclose(network.mapping(latents, labels), expected, atol=1e-5)


def test_each_layer_has_its_style_and_the_colours_of_all_sizes_are_added():
    network = generator()
    styles = torch.randn(2, network.layers, 5)
    given, colours = {}, []
    for kind in ("convs", "outputs"):
        for place, layer in enumerate(getattr(network, kind)):
            layer.register_forward_hook(lambda _, inputs, __, key=(kind, place): given.update({key: inputs[1]}))
    for layer in network.outputs:
        layer.register_forward_hook(lambda _, __, made: colours.append(made))
    image = network.synthesis(styles, torch.randn)
    assert all(torch.equal(given["convs", place], styles[:, place]) for place in range(5))
    # The output of a size comes with the style of the next convolution; the last size has one more.
    assert all(torch.equal(given["outputs", place], styles[:, 2 * place + 1]) for place in range(3))
    small, middle, large = colours
    doubled = functools.partial(torch.nn.functional.interpolate, scale_factor=2, mode="bilinear")
    assert torch.allclose(image, large + doubled(middle + doubled(small)), atol=1e-6)


def test_colours_are_modulated_and_not_demodulated():
    output = generator().outputs[0]
    output.bias.data.normal_()
    features, style = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    weight = output.conv.weight[:, :, 0, 0] / 8**0.5
    expected = torch.einsum("oc,bc,bchw->bohw", weight, output.conv.affine(style), features)
    assert torch.allclose(output(features, style), expected + output.bias[:, None, None], atol=1e-5)


def test_a_residual_block_by_hand():
    block = discriminator().blocks[0]
    features = torch.randn(2, 4, 16, 16)
    changed = activate(block.second(activate(block.first(features))))
    assert torch.allclose(block(features), (changed + block.skip(features)) / 2**0.5, atol=1e-6)


def test_mixed_styles_are_of_the_second_latent():
    network = generator()
    latents, labels = torch.randn(2, 2, 6), torch.tensor([0, 1])
    mixed = torch.zeros(2, network.layers, dtype=torch.bool)
    mixed[0, 2:] = True
    styles = network.styles(latents, labels, mixed=mixed)
    first, second = (network.mapping(one, labels) for one in latents)
    assert torch.allclose(styles[0, :2], first[0].expand(2, -1)) and torch.allclose(
        styles[0, 2:], second[0].expand(4, -1)
    )
    assert torch.allclose(styles[1], first[1].expand(6, -1))


def test_without_weight_the_class_is_not_seen():
    network, judge = generator(), discriminator()
    latents, labels, others = torch.randn(2, 6), torch.tensor([0, 1]), torch.tensor([1, 2])
    assert torch.equal(network.mapping(latents, labels, 0.0), network.mapping(latents, others, 0.0))
    assert not torch.allclose(network.mapping(latents, labels, 0.5), network.mapping(latents, others, 0.5))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(judge(images, labels, 0.0), judge(images, others, 0.0))
    assert not torch.allclose(judge(images, labels, 0.5), judge(images, others, 0.5))


def test_projection_by_hand():
    judge = discriminator()
    with torch.no_grad():
        judge.class_vectors.zero_()
        judge.class_vectors[1, :2] = torch.tensor([2.0, -1.0])
        judge.unconditional.weight.zero_()
        judge.unconditional.weight[0, 0] = 8**0.5  # stored; used divided by the root of 8
        judge.unconditional.bias.fill_(0.25)
    features = torch.zeros(2, 8)
    features[:, :2] = torch.tensor([3.0, 4.0])
    # psi = 3 + 0.25; <v_1, h> = 2 * 3 - 4 = 2, over the root of 8
    found = judge.logits(features, torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([3.25 + 2 / 8**0.5, 3.25])
    assert judge.logits(features, torch.tensor([1, 0]), 0.5).tolist() == pytest.approx([3.25 + 1 / 8**0.5, 3.25])


def test_untrained_networks_are_of_unit_scale():
    """No gain is lost on the way: a wrong scale would be multiplied layer by layer."""
    wide = {"num_classes": 3, "side": 32, "channels": [64, 64, 64, 64]}
    network = build(functools.partial(StyleGAN2Generator, **wide), seed=0)
    judge = build(functools.partial(StyleGAN2Discriminator, **wide), seed=0)
    torch.manual_seed(0)
    labels = torch.arange(64) % 3
    with torch.no_grad():
        images = network(torch.randn(64, 128), labels)
        logits = judge(images, labels)
    assert 0.3 < images.std() < 4 and 0.1 < logits.std() < 5


def test_a_batch_that_differs_is_seen():
    judge = discriminator()
    image = torch.randn(1, 3, 16, 16)
    twice, both = image.repeat(2, 1, 1, 1), torch.cat([image, torch.randn(1, 3, 16, 16)])
    labels = torch.tensor([0, 0])
    assert not torch.allclose(judge(twice, labels)[0], judge(both, labels)[0], atol=1e-4)


@pytest.mark.parametrize("side, channels", [(16, [8, 8]), (24, [8, 8, 8]), (4, [8]), (16, [8, 8, 8, 8])])
def test_channels_that_do_not_lead_to_the_side(side, channels):
    for kind in (StyleGAN2Generator, StyleGAN2Discriminator):
        with pytest.raises(ValueError, match=f"--channels has {len(channels)} numbers, and a patch of {side} pixels"):
            kind(num_classes=2, side=side, channels=channels)


def test_the_artefact_rebuilds_the_network(tmp_path):
    network = generator()
    save_artefact(tmp_path / "stylegan2.pt", "stylegan2", network, classes=["a", "b", "c"], patch_size=16)
    loaded, facts = load_artefact(tmp_path / "stylegan2.pt", "stylegan2", [StyleGAN2Generator])
    assert facts["definition"] == {"_target_": "StyleGAN2Generator", **SMALL}
    labels = torch.tensor([2])
    assert torch.equal(loaded.draw(ImageNoise([1]), labels), network.draw(ImageNoise([1]), labels))


def test_gradients_of_both_networks():
    tiny = {"num_classes": 2, "side": 8, "channels": [2, 2]}
    network = StyleGAN2Generator(**tiny, latent_channels=2, style_channels=2, mapping_layers=1).double()
    judge = StyleGAN2Discriminator(**tiny, group=2).double()
    labels = torch.tensor([0, 1])
    torch.manual_seed(3)
    latents = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: network(z, labels, noise=lambda shape: noise[0].expand(shape)), (latents,), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda x: judge(x, labels), (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: judge(x, labels), (images,), fast_mode=True)
