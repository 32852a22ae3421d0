"""The networks of the unified ViT-cGAN: normalisation, attention and projection by hand, and what they refuse."""

import pytest
import torch
from torch.nn.functional import softmax

from bundle.baselines.losses import gradient_penalty
from bundle.baselines.vit_cgan.networks import (
    L2Attention,
    ModulatedBlock,
    ModulatedLayerNorm,
    VitDiscriminator,
    VitGenerator,
)
from bundle.models.artefacts import build_from_definition, load_artefact, save_artefact
from bundle.runs.randomness import ImageNoise

GENERATOR = {"noise_dimension": 8, "condition_dimension": 8, "dimensions": [16, 8], "depths": [1, 1], "heads": [2, 2]}
DISCRIMINATOR = {"dimension": 16, "depth": 2, "heads": 2}


def generator(**settings):
    torch.manual_seed(0)
    return VitGenerator(3, 32, **{**GENERATOR, **settings})


def discriminator(**settings):
    torch.manual_seed(0)
    return VitDiscriminator(3, 32, **{**DISCRIMINATOR, **settings})


def test_the_modulated_normalisation_by_hand():
    norm = ModulatedLayerNorm(2, 1)
    with torch.no_grad():
        norm.modulation.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [2.0]]))  # gamma = (w, 0), beta = (0, 2 w)
        norm.modulation.bias.zero_()
    tokens = torch.tensor([[[1.0, 3.0], [5.0, 1.0]]])  # normalised: (-1, 1) and (1, -1)
    found = norm(tokens, torch.tensor([[0.5]]))
    assert torch.allclose(found, torch.tensor([[[-1.5, 2.0], [1.5, 0.0]]]), atol=1e-5)


def test_a_block_by_hand():
    """ViTGAN, Eq. 14 and 15: each part sees its own normalisation, and is added."""
    torch.manual_seed(0)
    block = ModulatedBlock(8, 4, heads=2)
    tokens, condition = torch.randn(2, 5, 8), torch.randn(2, 4)
    attended = tokens + block.attention(block.norm1(tokens, condition))
    expected = attended + block.mlp(block.norm2(attended, condition))
    assert torch.allclose(block(tokens, condition), expected, atol=1e-6)


def test_noise_and_class_have_a_part_of_unit_size_each():
    network = generator()
    noise, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    before = network.condition(noise, labels)
    assert torch.allclose(network.condition(5 * noise, labels), before, atol=1e-5)
    network.embedding.weight.data *= 7
    assert torch.allclose(network.condition(noise, labels), before, atol=1e-5)


def test_every_level_knows_its_places():
    network = generator()
    network(torch.randn(2, 8), torch.tensor([0, 1])).square().sum().backward()
    assert all(places.grad is not None and places.grad.abs().max() > 0 for places in network.positions)


def test_the_projection_begins_with_vectors_of_unit_length():
    network = VitDiscriminator(400, 32, dimension=64, depth=1, heads=2)
    assert network.projection.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)


def test_the_l2_attention_by_hand():
    torch.manual_seed(1)
    attention = L2Attention(4, num_heads=2)
    tokens = torch.randn(1, 3, 4)
    query, value = attention.query(tokens)[0], attention.value(tokens)[0]
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        distances = (query[:, None, part] - query[None, :, part]).square().sum(-1)
        heads.append(softmax(-distances / 2**0.5, dim=1) @ value[:, part])
    assert torch.allclose(attention(tokens)[0], attention.proj(torch.cat(heads, 1)), atol=1e-6)


def test_the_score_is_that_of_the_projection_discriminator():
    network = discriminator().eval()
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    features = network.trunk(images)
    scores, logits = network.judge(images, labels)
    for place, label in enumerate(labels):
        psi = features[place] @ network.realism.weight[0] + network.realism.bias[0]
        expected = psi + network.projection.weight[label] @ features[place]
        assert scores[place].item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(network(images), logits) and logits.shape == (4, 3)
    # Between two classes of the same image lies the difference of their embeddings, projected on its features.
    other = network.judge(images, (labels + 1) % 3)[0]
    difference = network.projection.weight[labels] - network.projection.weight[(labels + 1) % 3]
    assert torch.allclose(scores - other, (difference * features).sum(1), atol=1e-5)


def test_the_penalty_reaches_every_weight_of_the_trunk():
    """It is differentiated twice, which fused attention can't be."""
    network = discriminator()
    gradient_penalty(lambda images: network.judge(images, torch.tensor([0, 2]))[0], torch.rand(2, 3, 32, 32)).backward()
    without = {name for name, weight in network.trunk.named_parameters() if weight.grad is None}
    assert without <= {"blocks.1.mlp.fc2.bias", "norm.bias", "blocks.1.attn.proj.bias"}
    assert network.trunk.patch_embed.proj.weight.grad.norm() > 0


def test_patches_of_the_discriminator_see_their_neighbours():
    network = discriminator(patch_size=8).eval()
    images = torch.zeros(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 9] = 1  # two pixels within the second column of patches
    moved = (network.trunk.patch_embed(images) - network.trunk.patch_embed(changed)).abs().sum(-1)[0].view(4, 4)
    assert (moved > 0).any(0).tolist() == [True, True, False, False]


def test_patches_of_the_generator_leave_no_seams():
    """Each pixel is a sum over the patches of the places around it: two in each direction."""
    network = generator()
    grid = torch.zeros(1, 8, 10, 10)  # of 8 x 8 tokens, with a border
    grid[..., 4, 4] = 1
    touched = network.to_patches(grid)[0].abs().sum(0) > 0
    rows = touched.any(1).nonzero()[:, 0]
    assert (rows.min(), rows.max()) == (10, 17) and touched.shape == (32, 32)
    # Before training, patches of one colour make an image of one colour, up to its border.
    flat = network.to_patches(torch.ones(1, 8, 10, 10))[0]
    assert torch.allclose(flat, flat[:, :1, :1].expand_as(flat), atol=1e-5)


def test_the_four_tokens_made_of_one_begin_alike():
    network = generator()
    made = network.upsampling[0](torch.randn(1, 16, 16))
    doubled = torch.nn.functional.pixel_shuffle(made.transpose(1, 2).unflatten(2, (4, 4)), 2)
    assert doubled.shape == (1, 8, 8, 8)
    assert torch.allclose(doubled[..., ::2, ::2], doubled[..., 1::2, 1::2], atol=1e-6)
    assert not torch.allclose(doubled[..., :2, :2], doubled[..., 2:4, 2:4], atol=1e-2)


def test_class_and_noise_both_matter_from_the_start():
    network = generator()
    noise, labels = torch.randn(2, 8), torch.tensor([0, 0])
    first, second = network(noise, labels)
    assert (first - second).abs().mean() > 0.1
    assert (network(noise[:1], torch.tensor([1])) - first).abs().mean() > 0.1
    assert first.abs().max() <= 1


def test_the_same_class_and_seed_give_the_same_image_in_any_batch():
    network = generator().eval()
    alone = network.draw(ImageNoise([5]), torch.tensor([1]))
    among = network.draw(ImageNoise([3, 5, 9]), torch.tensor([0, 1, 2]))
    assert torch.allclose(alone[0], among[1], atol=1e-5)
    assert not torch.allclose(alone[0], network.draw(ImageNoise([6]), torch.tensor([1]))[0], atol=1e-2)


def test_truncation_draws_towards_the_mean_of_the_class():
    network = generator().eval()
    network.settle(64)
    noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    for label in range(3):
        mean = network.condition(noise, torch.full((64,), label)).mean(0)
        assert torch.allclose(network.mean_conditions[label], mean, atol=1e-6)
    labels = torch.tensor([2, 2])
    none = network.draw(ImageNoise([0, 1]), labels, truncation=0.0)
    assert torch.allclose(none[0], none[1], atol=1e-5)
    assert torch.allclose(none[0], network.render(network.mean_conditions[2:], torch.zeros(1, 8))[0], atol=1e-5)
    half, whole = (network.draw(ImageNoise([0]), labels[:1], psi) for psi in (0.5, 1.0))
    assert 0 < (half - none[:1]).norm() < (whole - none[:1]).norm()


@pytest.mark.parametrize("network", [generator(), discriminator()])
def test_they_are_rebuilt_from_their_artefact(network, tmp_path):
    settings = GENERATOR if isinstance(network, VitGenerator) else DISCRIMINATOR
    made = build_from_definition(
        {"_target_": type(network).__name__, "num_classes": 3, "side": 32, **settings}, [type(network)]
    )
    path = save_artefact(tmp_path / "a.pt", "kind", made)
    loaded, _ = load_artefact(path, "kind", [type(network)])
    assert type(loaded) is type(network)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (generator, {"depths": [1]}, "--train#generator#depths .1. .* one number each"),
        (generator, {"patch_size": 3}, "--patch_size is 32; .* multiple of 6.*--train#generator#patch_size 3"),
        (generator, {"dimensions": [16, 10]}, "--train#generator#dimensions .16, 10. must be multiples of 4"),
        (generator, {"heads": [3, 2]}, "--train#generator#dimensions has 16, which --train#generator#heads 3"),
        (discriminator, {"patch_size": 12}, "--train#discriminator#patch_size 12"),
        (discriminator, {"heads": 3}, "--train#discriminator#heads 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
