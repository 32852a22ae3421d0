"""Guidance in a trace: the gradient written out is the one that autograd gives."""

import pytest
import torch

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.traced_guidance import TraceableGuidance, convolution_backward
from bundle.models.classifiers import EncoderClassifier, HalfUNetClassifier

LABELS = torch.tensor([2, 0])
AUTOENCODER = {
    "_target_": "AutoencoderKL", "spatial_dims": 2, "in_channels": 3, "out_channels": 3, "channels": [8, 16],
    "num_res_blocks": 1, "attention_levels": [False, True], "latent_channels": 3, "norm_num_groups": 4,
    "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False, "use_flash_attention": True,
}  # fmt: skip
CLASSIFIERS = {
    "half UNet": lambda: HalfUNetClassifier(3, 8, 4, [16, 16], [False, True], 1, 8, 4),
    "encoder": lambda: EncoderClassifier(AUTOENCODER, 4, 8, [], 8, 4, timesteps=True),
}


class Guided(torch.nn.Module):
    """The scaled gradient at t = 500, as a network."""

    def __init__(self, classifier, kind, **settings):
        super().__init__()
        self.classifier, self.kind, self.settings = classifier, kind, settings

    def forward(self, latents):
        guidance = self.kind(self.classifier, LABELS, 3.0, temperature=1.5, **self.settings)
        return guidance(latents, 500, 0.8, latents)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_trace_gives_autograds_gradient_at_any_latents(name):
    torch.manual_seed(0)
    classifier = CLASSIFIERS[name]().to(memory_format=torch.channels_last).eval()
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # none is zero, so that none can be forgotten
    for settings in ({}, {"maximum_norm": 0.01}):
        expected = Guided(classifier, ClassifierGuidance, **settings)
        assert torch.equal(Guided(classifier, TraceableGuidance, **settings)(latents := torch.randn(2, 3, 8, 8)),
                           expected(latents))  # fmt: skip
        traced = torch.jit.trace(Guided(classifier, TraceableGuidance, **settings), latents)
        for layout in (torch.contiguous_format, torch.channels_last):
            latents = torch.randn(2, 3, 8, 8).contiguous(memory_format=layout)
            wanted = expected(latents)
            assert wanted.abs().max() > 1e-3
            torch.testing.assert_close(traced(latents), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("stride, padding, dilation, groups", [(1, 1, 1, 1), (2, 1, 1, 2), (2, 0, 2, 1), (3, 2, 1, 1)])
def test_the_gradient_of_a_convolution_is_its_transpose(side, stride, padding, dilation, groups):
    torch.manual_seed(0)
    images, weight = torch.randn(2, 4, side, side, requires_grad=True), torch.randn(6, 4 // groups, 3, 3)
    made = torch.nn.functional.conv2d(images, weight, None, stride, padding, dilation, groups)
    gradient = torch.randn_like(made)
    expected = torch.autograd.grad(made, images, gradient)[0]
    settings = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups
    found, *others = convolution_backward(gradient, images, weight, None, *settings, [True, False, False])
    torch.testing.assert_close(found, expected)
    assert others == [None, None]
    with pytest.raises(NotImplementedError, match="only the gradient of a convolution with respect to its input"):
        convolution_backward(gradient, images, weight, None, *settings, [True, True, False])
