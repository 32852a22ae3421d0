"""Classifiers of images and of noised latents: against torch's attention, MONAI's encoder and finite differences."""

import pytest
import torch

from bundle.models.artefacts import build_from_definition
from bundle.models.classifiers import AttentionPool, EncoderClassifier, HalfUNetClassifier

AUTOENCODER = {
    "_target_": "AutoencoderKL",
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "channels": [8, 16],
    "num_res_blocks": 1,
    "attention_levels": [False, False],
    "latent_channels": 3,
    "norm_num_groups": 4,
    "with_encoder_nonlocal_attn": True,
}


def half_unet(**changes):
    settings = {"in_channels": 3, "side": 8, "num_classes": 4, "channels": [8, 16], "attention_levels": [False, True]}
    settings |= {"num_res_blocks": 1, "head_channels": 8, "norm_groups": 4, **changes}
    return randomized(HalfUNetClassifier(**settings))


def encoder_classifier(**changes):
    settings = {
        "num_classes": 4,
        "side": 16,
        "extra_channels": [16, 24],
        "head_channels": 8,
        "norm_groups": 4,
        **changes,
    }
    return randomized(EncoderClassifier(AUTOENCODER, **settings))


def randomized(network):
    """In evaluation mode with random weights: some of MONAI's and of ours start at zero, which would hide errors."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


def test_pool_is_torchs_multi_head_attention_of_the_mean():
    pool = randomized(AttentionPool(channels=24, side=3, classes=5, head_channels=8, norm_groups=4))
    torchs = torch.nn.MultiheadAttention(24, num_heads=3, batch_first=True)
    parts = (pool.query, pool.key, pool.value)
    weights = {"in_proj_weight": torch.cat([part.weight for part in parts])}
    weights |= {"in_proj_bias": torch.cat([part.bias for part in parts])}
    torchs.load_state_dict(weights | {"out_proj.weight": torch.eye(24), "out_proj.bias": torch.zeros(24)})
    features = torch.randn(2, 24, 3, 3)
    seen = torch.nn.functional.silu(pool.norm(features))
    positions = [seen.mean((2, 3))] + [seen[:, :, row, column] for row in range(3) for column in range(3)]
    tokens = torch.stack(positions, dim=1) + pool.positions
    pooled = torchs(tokens, tokens, tokens)[0][:, 0]
    torch.testing.assert_close(pool(features), pool.projection(pooled))


def test_positional_embedding_starts_as_clips():
    torch.manual_seed(0)
    positions = AttentionPool(channels=64, side=16, classes=2, head_channels=32, norm_groups=8).positions
    assert positions.shape == (257, 64)
    assert positions.std().item() == pytest.approx(1 / 8, rel=0.05) and abs(positions.mean().item()) < 0.005


def test_logits_in_all_dimensions_and_depths():
    assert half_unet()(torch.randn(2, 3, 8, 8), torch.tensor([0, 9])).shape == (2, 4)
    volumes = half_unet(spatial_dims=3, channels=[8], attention_levels=[True], side=4)
    assert volumes(torch.randn(2, 3, 4, 4, 4), torch.tensor([0, 9])).shape == (2, 4)
    deep = half_unet(channels=[8, 8, 16], attention_levels=[False] * 3, num_res_blocks=[1, 2, 1], num_classes=7)
    assert deep(torch.randn(1, 3, 8, 8), torch.tensor([5])).shape == (1, 7) and deep.pool.shape == (16, 2, 2)
    encoder = encoder_classifier()
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, 4) and encoder.pool.shape == (24, 2, 2)
    plain = encoder_classifier(extra_channels=[], in_channels=5)
    assert plain(torch.randn(2, 5, 16, 16)).shape == (2, 4) and plain.pool.shape == (16, 8, 8)


def test_time_matters_item_by_item():
    for network, side in ((half_unet(), 8), (encoder_classifier(timesteps=True), 16)):
        latents = torch.randn(1, 3, side, side)
        early, late = (network(latents, torch.tensor([step])) for step in (10, 800))
        assert (early - late).abs().max() > 1e-3
        both = network(latents.expand(2, -1, -1, -1), torch.tensor([10, 800]))
        torch.testing.assert_close(both, torch.cat([early, late]))


def test_every_level_of_an_encoder_is_told_the_time_and_starts_as_if_it_were_not():
    settings = {"num_classes": 4, "side": 16, "extra_channels": [16, 24], "head_channels": 8, "norm_groups": 4}
    timed = EncoderClassifier(AUTOENCODER, timesteps=True, **settings)
    timeless = EncoderClassifier(AUTOENCODER, **settings)
    timeless.load_state_dict(timed.state_dict(), strict=False)
    images, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([10, 800])
    start = timeless(images)
    assert torch.equal(timed(images, timesteps), start) and len(timed.time_biases) == 4
    for layer in timed.time_biases:
        torch.nn.init.normal_(layer.weight)
        assert (timed(images, timesteps) - start).abs().max() > 1e-4
        torch.nn.init.zeros_(layer.weight)


@pytest.mark.parametrize("make, side", [(half_unet, 8), (lambda: encoder_classifier(timesteps=True), 16)])
def test_gradient_that_guides_sampling(make, side):
    network = make().double().requires_grad_(False)
    latents, timesteps = torch.randn(2, 3, side, side, dtype=torch.float64), torch.tensor([10, 800])
    labels, chosen = torch.tensor([1, 3]), torch.arange(2)
    direction = torch.randn_like(latents)

    def log_probability(values):
        return network(values, timesteps).log_softmax(1)[chosen, labels]

    with torch.no_grad():
        differences = [log_probability(latents + step * direction) for step in (1e-5, -1e-5)]
        with torch.enable_grad():
            seen = latents.clone().requires_grad_(True)
            gradient = torch.autograd.grad(log_probability(seen).sum(), seen)[0]
    expected = (differences[0] - differences[1]) / 2e-5
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-8)
    assert expected.abs().min() > 1e-4


def test_an_items_logits_do_not_depend_on_its_batch_and_only_training_drops():
    network = half_unet().train()
    latents, timesteps = torch.randn(4, 3, 8, 8), torch.tensor([0, 10, 100, 900])
    torch.testing.assert_close(network(latents, timesteps)[:1], network(latents[:1], timesteps[:1]))
    dropping = half_unet(dropout=0.5)
    assert torch.equal(dropping(latents, timesteps), dropping(latents, timesteps))
    dropping.train()
    assert not torch.equal(dropping(latents, timesteps), dropping(latents, timesteps))


def test_trunk_is_the_autoencoders_encoder():
    autoencoder, images = randomized(build_from_definition(AUTOENCODER)), torch.randn(2, 3, 16, 16)
    network = encoder_classifier()
    last = autoencoder.encoder.blocks[-1]
    assert not torch.allclose(last(network.encoder(images)), autoencoder.encoder(images))
    network.load_trunk(autoencoder.state_dict())
    assert torch.equal(last(network.encoder(images)), autoencoder.encoder(images))
    assert "_target_" in AUTOENCODER  # the caller's definition is left as it was


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": [16, 16]}, r"blocks\.0\.conv\.bias: given \(16,\), trunk \(8,\)"),
        ({"num_res_blocks": 2}, "another architecture"),
        ({"with_encoder_nonlocal_attn": False}, r"blocks\.4\..*given None, trunk \(16,\)"),
        ({"in_channels": 4}, r"blocks\.0\.conv\.weight: given \(8, 4, 3, 3\), trunk \(8, 3, 3, 3\)"),
    ],
)
def test_another_autoencoders_weights_are_refused_before_any_is_copied(changes, message):
    network = encoder_classifier()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        network.load_trunk(build_from_definition({**AUTOENCODER, **changes}).state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_refusals_name_the_values():
    with pytest.raises(ValueError, match="16 channels.*head_channels 12"):
        half_unet(head_channels=12, attention_levels=[False, False])
    with pytest.raises(ValueError, match="8 channels.*head_channels 16"):
        half_unet(head_channels=16, attention_levels=[True, True])
    with pytest.raises(ValueError, match="side 10 can't be halved 2 times"):
        half_unet(side=10, channels=[8, 8, 16], attention_levels=[False] * 3)
    with pytest.raises(ValueError, match=r"\[True\] and channels \[8, 16\]"):
        half_unet(attention_levels=[True])
    with pytest.raises(ValueError, match=r"\(16, 8, 8\), the attention pool takes \(16, 4, 4\)"):
        half_unet()(torch.randn(1, 3, 16, 16), torch.tensor([0]))
    with pytest.raises(ValueError, match="side 12 can't be halved 3 times"):
        encoder_classifier(side=12)
    with pytest.raises(ValueError, match="'PatchDiscriminator'"):
        EncoderClassifier({"_target_": "PatchDiscriminator"}, 2, 16, [], 8, 4)
    with pytest.raises(ValueError, match="missing, but .* timesteps=True"):
        encoder_classifier(timesteps=True)(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="given, but .* timesteps=False"):
        encoder_classifier()(torch.randn(1, 3, 16, 16), torch.tensor([0]))
