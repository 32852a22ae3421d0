"""Activation checkpointing: the same results and gradients, and less kept for the backward pass."""

import copy

import pytest
import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

from bundle.models.checkpointing import checkpoint_blocks

SMALL = {"spatial_dims": 2, "channels": [8, 16], "num_res_blocks": 1, "norm_num_groups": 4}
NETWORKS = {
    "autoencoder": (
        lambda: AutoencoderKL(
            **SMALL, in_channels=3, out_channels=3, latent_channels=2, attention_levels=[False, True]
        ),
        lambda network: network(torch.ones(2, 3, 16, 16))[0],
        10,
    ),
    "diffusion model": (
        lambda: DiffusionModelUNet(
            **SMALL, in_channels=3, out_channels=3, attention_levels=[False, True], num_head_channels=8
        ),
        lambda network: network(torch.ones(2, 3, 16, 16), torch.tensor([1, 50])),
        8,
    ),
}


@pytest.mark.parametrize("build, run, fewest", NETWORKS.values(), ids=NETWORKS)
def test_gradients_are_the_same(build, run, fewest):
    torch.manual_seed(0)
    plain = build()
    for weight in plain.parameters():  # some begin at zero, behind which no gradient comes
        torch.nn.init.normal_(weight, std=0.1)
    saving = copy.deepcopy(plain)
    assert checkpoint_blocks(saving) >= fewest
    kept = []
    for network in (plain, saving):
        torch.manual_seed(1)
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda part: numbers.append(part.numel()) or part, lambda x: x):
            made = run(network)
        made.square().mean().backward()
        kept.append(sum(numbers))
    assert kept[1] < 0.6 * kept[0]
    assert plain.state_dict().keys() == saving.state_dict().keys()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-8, msg=name)
    with torch.no_grad():
        torch.manual_seed(1)
        assert torch.equal(run(saving), made)
