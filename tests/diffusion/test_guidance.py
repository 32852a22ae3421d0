"""The gradient itself: right, in fp32, limited, skipped where it should be, and refused where it can't be had."""

import math

import pytest
import torch

from bundle.diffusion.guidance import ClassifierGuidance
from bundle.diffusion.samplers import sample_ddim
from bundle.diffusion.schedule import NoiseSchedule


class Classifier(torch.nn.Module):
    """Five classes, conditioned on t; counts its calls and the timesteps and types it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.head = torch.nn.Linear(8, 5)
        self.seen = []
        self.eval()

    def forward(self, noisy, timesteps):
        self.seen.append((timesteps.tolist(), timesteps.dtype, noisy.dtype))
        hidden = self.norm(self.convolution(noisy)).tanh().mean((2, 3)) + timesteps[:, None] / 1000
        return self.head(hidden).tanh() * 3


@pytest.fixture
def classifier():
    return Classifier()


def batch(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 6, 6, generator=generator), torch.randn(count, 3, 6, 6, generator=generator)


LABELS = torch.tensor([0, 4, 2, 2])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradient_is_the_finite_difference(classifier, temperature):
    classifier.double()
    latents, epsilon = (tensor.double() for tensor in batch())
    gradient = ClassifierGuidance(classifier, LABELS, 3.0, temperature=temperature)(latents, 321, 0.5, epsilon)
    assert gradient.dtype == torch.float64 and not gradient.requires_grad
    direction = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def log_probability(at):
        logits = classifier(at, torch.full((4,), 321)) / temperature
        return logits.softmax(1).log()[range(4), LABELS]

    with torch.no_grad():
        difference = (log_probability(latents + 1e-5 * direction) - log_probability(latents - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), 3.0 * difference, rtol=1e-7, atol=1e-9)


def test_classifier_is_frozen_and_keeps_no_gradient(classifier):
    latents, epsilon = batch()
    before = [parameter.clone() for parameter in classifier.parameters()]
    ClassifierGuidance(classifier, LABELS, 1.0)(latents, 5, 0.1, epsilon)
    for parameter, old in zip(classifier.parameters(), before):
        assert parameter.grad is None and not parameter.requires_grad and torch.equal(parameter, old)
    assert not latents.requires_grad


def test_classifier_gets_int64_original_timesteps_in_fp32_even_under_autocast(classifier):
    latents, epsilon = batch()
    guidance = ClassifierGuidance(classifier, LABELS, 1.0)
    plain = guidance(latents, 996, 1.0, epsilon)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = guidance(latents, 996, 1.0, epsilon)
    assert torch.equal(plain, mixed)
    half = guidance(latents.bfloat16(), 996, 1.0, epsilon)
    assert half.dtype == torch.bfloat16
    assert classifier.seen == [([996] * 4, torch.int64, torch.float32)] * 3


def test_an_image_does_not_see_its_neighbours(classifier):
    classifier.double()
    latents, epsilon = (tensor.double() for tensor in batch())
    together = ClassifierGuidance(classifier, LABELS, 2.0, maximum_norm=0.01)(latents, 100, 0.4, epsilon)
    for i in range(4):
        one = slice(i, i + 1)
        guidance = ClassifierGuidance(classifier, LABELS[one], 2.0, maximum_norm=0.01)
        alone = guidance(latents[one], 100, 0.4, epsilon[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-9, atol=1e-15)


def test_each_image_may_have_its_own_scale(classifier):
    latents, epsilon = batch()
    latents, labels = latents[:1].expand(4, -1, -1, -1), torch.full((4,), 3)
    scales = torch.tensor([0.0, 1.0, 2.0, 10.0])
    gradient = ClassifierGuidance(classifier, labels, scales)(latents, 100, 0.4, epsilon)
    assert gradient[0].eq(0).all() and gradient[1].ne(0).any()
    torch.testing.assert_close(gradient, gradient[1] * scales.reshape(4, 1, 1, 1))


def test_interval_and_scale_zero_skip_the_classifier(classifier):
    latents, epsilon = batch()
    guidance = ClassifierGuidance(classifier, LABELS, 1.0, interval=(200, 800))
    assert guidance(latents, 199, 0.5, epsilon) is None and guidance(latents, 801, 0.5, epsilon) is None
    assert ClassifierGuidance(classifier, LABELS, 0.0)(latents, 500, 0.5, epsilon) is None
    assert not classifier.seen
    assert guidance(latents, 200, 0.5, epsilon) is not None and guidance(latents, 800, 0.5, epsilon) is not None
    classifier.seen.clear()
    sample_ddim(lambda z, t: z, latents, NoiseSchedule(), steps=10, guidance=guidance)
    assert [times[0] for times, _, _ in classifier.seen] == [799, 699, 599, 499, 399, 299]


def test_limit_shortens_the_long_and_leaves_the_short(classifier):
    latents, epsilon = batch()
    scales = torch.tensor([0.0, 1e-3, 30.0, 300.0])
    ratios = []
    free = ClassifierGuidance(classifier, LABELS, scales, ratios=ratios)(latents, 100, 0.4, epsilon)
    limited = ClassifierGuidance(classifier, LABELS, scales, maximum_norm=0.05, ratios=ratios)(
        latents, 100, 0.4, epsilon
    )
    by_hand = [(0.4 * free[i].norm() / epsilon[i].norm()).item() for i in range(4)]
    assert by_hand[1] < 0.05 < by_hand[2] < by_hand[3]
    for t, ratio in ratios:  # both before the limit
        assert t == 100 and ratio.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert torch.equal(limited[:2], free[:2])
    for i in (2, 3):
        assert (0.4 * limited[i].norm() / epsilon[i].norm()).item() == pytest.approx(0.05, rel=1e-5)
        torch.testing.assert_close(limited[i] / limited[i].norm(), free[i] / free[i].norm())
    nothing = ClassifierGuidance(classifier, LABELS, scales, maximum_norm=0.05)(
        latents, 1, 0.4, torch.zeros_like(epsilon)
    )
    assert nothing.isfinite().all()


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"scale": math.nan}, "scale"),
        ({"scale": math.inf}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": torch.tensor([1.0, 1.0, math.nan, 1.0])}, "scale"),
        ({"scale": torch.ones(3)}, "scale"),
        ({"labels": torch.zeros(4)}, "int64"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, "int64"),
        ({"labels": torch.zeros(0, dtype=torch.int64)}, "int64"),
        ({"interval": (800, 200)}, "interval"),
        ({"interval": (-1, 200)}, "interval"),
        ({"maximum_norm": 0.0}, "maximum_norm"),
        ({"maximum_norm": math.nan}, "maximum_norm"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
    ],
)
def test_bad_settings_are_named(classifier, changes, named):
    with pytest.raises(ValueError, match=named):
        ClassifierGuidance(**{"classifier": classifier, "labels": LABELS, "scale": 1.0, **changes})


def test_training_mode_is_refused(classifier):
    with pytest.raises(ValueError, match="training mode"):
        ClassifierGuidance(classifier.train(), LABELS, 1.0)


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_the_classifier_lacks_are_refused(classifier, label):
    latents, epsilon = batch(1)
    with pytest.raises(ValueError, match=f"{label}.* 5 classes"):
        ClassifierGuidance(classifier, torch.tensor([label]), 1.0)(latents, 1, 0.1, epsilon)


def test_another_number_of_images_is_refused(classifier):
    latents, epsilon = batch(3)
    with pytest.raises(ValueError, match="3 images but 4 labels"):
        ClassifierGuidance(classifier, LABELS, 1.0)(latents, 1, 0.1, epsilon)


def test_inference_mode_is_refused_with_a_reason(classifier):
    latents, epsilon = batch()
    guidance = ClassifierGuidance(classifier, LABELS, 1.0)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        sample_ddim(lambda z, t: z, latents, NoiseSchedule(), steps=2, guidance=guidance)
