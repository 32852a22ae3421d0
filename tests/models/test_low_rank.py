"""Low-rank adapters on a diffusion network: what changes, by how much, and what is left when they are merged."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from torch.nn.functional import conv2d

from bundle.models.low_rank import add_adapters, merge_adapters, merged_state_dict

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        channels=[8, 16],
        num_res_blocks=1,
        attention_levels=[False, True],
        norm_num_groups=4,
        num_head_channels=8,
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # MONAI's last convolution starts at zero
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def copied(weights):
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def trained(network, parameters):
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        network(*INPUTS).square().mean().backward()
        optimizer.step()


def test_network_is_unchanged_at_the_start(network):
    before, weights = network(*INPUTS), copied(network.state_dict())
    parameters = add_adapters(network, rank=2)
    assert torch.equal(network(*INPUTS), before)
    merged = merged_state_dict(network)
    assert merged.keys() == weights.keys() and all(torch.equal(merged[name], weights[name]) for name in weights)
    layers = sum(isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) for layer in network.modules())
    assert len(parameters) == 2 * layers


def test_only_adapters_are_trained(network):
    parameters = add_adapters(network, rank=2)
    chosen = {id(parameter) for parameter in parameters}
    before = copied(dict(network.named_parameters()))
    trained(network, parameters)
    for name, parameter in network.named_parameters():
        ours = id(parameter) in chosen
        assert parameter.requires_grad == ours and (parameter.grad is not None) == ours
        assert torch.equal(parameter, before[name]) != ours, name


def test_weight_is_equation_3():
    layer = torch.nn.Conv2d(3, 5, 3, bias=False)
    network, inputs = torch.nn.Sequential(layer), torch.randn(1, 3, 4, 4)
    plain = layer.weight.detach().clone()
    down, up = add_adapters(network, rank=2, alpha=6.0)
    torch.nn.init.normal_(up)
    assert (down.shape, up.shape) == ((2, 27), (5, 2))
    # W x + alpha / rank * B (A x): A as a convolution of rank outputs, B as one of one pixel
    low = conv2d(conv2d(inputs, down.reshape(2, 3, 3, 3)), up.reshape(5, 2, 1, 1))
    torch.testing.assert_close(network(inputs), conv2d(inputs, plain) + 3.0 * low)


def test_merging_keeps_the_output_and_the_names_and_bounds_the_rank(network):
    names, before = list(network.state_dict()), copied(network.state_dict())
    trained(network, add_adapters(network, rank=2, alpha=4.0))
    adapted, merged, live = network(*INPUTS), copied(merged_state_dict(network)), copied(network.state_dict())
    assert sorted(merged) == sorted(names)
    assert live.keys() == network.state_dict().keys() and torch.equal(network(*INPUTS), adapted)
    merge_adapters(network)
    assert sorted(network.state_dict()) == sorted(names)
    assert torch.equal(network(*INPUTS), adapted)
    assert all(torch.equal(merged[name], tensor) for name, tensor in network.state_dict().items())
    ranks = []
    for name, tensor in merged.items():
        change = tensor - before[name]
        if change.ndim < 2:
            assert not change.any()
            continue
        values = torch.linalg.svdvals(change.flatten(1).double())
        ranks.append(int((values > 1e-4 * values[0]).sum()))
    assert max(ranks) == 2 and min(ranks) >= 1


def test_merged_weights_fit_a_network_that_never_had_adapters(network):
    parameters = add_adapters(network, rank=1)
    trained(network, parameters)
    plain = DiffusionModelUNet(2, 3, 3, 1, [8, 16], [False, True], 4, num_head_channels=8).eval()
    plain.load_state_dict(merged_state_dict(network))
    assert torch.equal(plain(*INPUTS), network(*INPUTS))


def test_adapters_of_some_layers_only(network):
    count = len(add_adapters(network, rank=1, match=r"attn\.to_[qv]$"))
    adapted = [name for name in network.state_dict() if name.endswith(".A")]
    assert count == 2 * len(adapted) > 0 and all(".attn.to_q." in name or ".attn.to_v." in name for name in adapted)


def test_a_single_layer_and_the_seed():
    layers = [torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)]
    starts = []
    for layer, seed in zip(layers, (1, 1, 2)):
        torch.manual_seed(seed)
        starts.append(add_adapters(layer, rank=2)[0])
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    assert merged_state_dict(layers[0]).keys() == {"weight", "bias"}
    merge_adapters(layers[0])
    assert type(layers[0]) is torch.nn.Linear and layers[0].state_dict().keys() == {"weight", "bias"}


def test_refusals_name_the_values(network):
    with pytest.raises(ValueError, match="rank is 0"):
        add_adapters(network, rank=0)
    with pytest.raises(ValueError, match="'nothing'"):
        add_adapters(network, rank=1, match="nothing")
    assert all(parameter.requires_grad for parameter in network.parameters())
    add_adapters(network, rank=1)
    with pytest.raises(ValueError, match="already.*'conv_in.conv'"):
        add_adapters(network, rank=1)
