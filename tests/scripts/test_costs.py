"""What training costs, against operations and bytes counted by hand."""

import sys

import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import costs  # noqa: E402


def test_a_convolution_by_hand():
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
        image = torch.empty(1, 3, 16, 16)
    forward = 2 * 16 * 16 * 8 * 3 * 9
    found = costs.count(lambda: network(image))
    assert found.flops == 2 * forward  # the output and the weights' gradient; nobody asks for the image's
    assert found.kept == 4 * (3 + 8) * 16 * 16  # the image, for the weights; the result, for the ReLU and the mean
    assert costs.count(lambda: network(image), backward=False).flops == forward


def test_a_preset_is_that_of_the_configs():
    found = costs.measure(costs.parse(("pretrain.json",)))
    assert found["batch"] == {"autoencoder": 16, "diffusion": 32}
    assert found["latents"] == 2 * 2 * 3 * 32**2 * 8  # mean and std, half precision, 3 channels, 8 orientations
    # Of the 50 steps of a sample each is a forward pass, and a step of training costs three.
    assert found["flops"]["sample"] > 50 * found["flops"]["diffusion"] / 3.1
