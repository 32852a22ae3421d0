"""KID against closed forms and other implementations; its interval against what repeated drawing shows."""

import numpy as np
import pytest
import torch
from correlated import correlated
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from bundle.metrics.kernel import kernel_distance


def test_by_hand():
    """One feature: kernels of 1.2, 1.3, 2.3 within and of 0.1 with each are (1 + product)³."""
    left, right = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    within = (27 + 64 + 343) / 3
    between = (6 * 1 + 8 + 27 + 64) / 9
    assert kernel_distance(left, right)[0] == pytest.approx(within + 1 - 2 * between, rel=1e-6)


def test_torchmetrics_and_torch_fidelity_on_all_images():
    left, right = correlated(150, 40, 1, shift=0.3), correlated(150, 40, 2)
    found = kernel_distance(left, right)[0]
    fidelity = kid_features_to_metric(left, right, kid_subsets=1, kid_subset_size=150, verbose=False, rng_seed=0)
    assert found == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-4)
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=150)
    metric.update(left, real=False)
    metric.update(right, real=True)
    assert found == pytest.approx(metric.compute()[0].item(), rel=1e-4)


def test_blocks_and_order_make_no_difference():
    left, right = correlated(70, 12, 1, 0.2, torch.float64), correlated(50, 12, 2, dtype=torch.float64)
    whole = kernel_distance(left, right)
    for size in (7, 50, 64):
        found = kernel_distance(left, right, size)
        assert found[0] == pytest.approx(whole[0], rel=1e-9) and found[1] == pytest.approx(whole[1], rel=1e-9)
    turned = kernel_distance(right.flip(0), left.flip(0))
    assert turned[0] == pytest.approx(whole[0], rel=1e-9) and turned[1] == pytest.approx(whole[1], rel=1e-9)


def test_the_interval_is_that_of_leaving_each_image_out():
    left, right = correlated(12, 3, 1, 0.5, torch.float64), correlated(9, 3, 2, dtype=torch.float64)
    variance = 0
    for one, other, swap in ((left, right, False), (right, left, True)):
        rest = [torch.cat([one[:place], one[place + 1 :]]) for place in range(len(one))]
        values = [kernel_distance(other, of)[0] if swap else kernel_distance(of, other)[0] for of in rest]
        variance += (len(one) - 1) * np.var(values)
    value, (low, high) = kernel_distance(left, right)
    assert (high - value, value - low) == pytest.approx([1.96 * variance**0.5] * 2, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_unbiased_and_its_interval_holds_the_true_distance(shift):
    """N(0, 1) and N(shift, 1): the cubic kernel compares the first three moments, weighted by 3, 3 and 1."""
    true = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(150):
        left, right = torch.randn(2, 100, 1, generator=generator)
        found.append(kernel_distance(left + shift, right))
    values = np.array([value for value, _ in found])
    assert abs(values.mean() - true) < 3 * values.std() / len(values) ** 0.5
    assert np.mean([low <= true <= high for _, (low, high) in found]) > 0.8, "six moments of so few are far from normal"
    if shift == 0:
        assert values.min() < 0, "an estimate that cannot fall below 0 is biased"
    else:
        assert values.mean() > 3 * values.std() / len(values) ** 0.5 + 0.5


def test_too_few_images():
    with pytest.raises(ValueError, match="2 and 5 images: .* at least 3"):
        kernel_distance(torch.rand(2, 4), torch.rand(5, 4))
