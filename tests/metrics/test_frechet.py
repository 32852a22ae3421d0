"""The Fréchet distance against closed forms, and what goes with it."""

import pytest
import torch
from correlated import correlated
from scipy.stats import t as student
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from bundle.metrics import frechet
from bundle.metrics.frechet import (
    bootstrap_interval,
    bootstrap_ratio,
    centred_interval,
    frechet_distance,
    principal_axes,
)
from bundle.metrics.optical_density import density_statistics, relative_diversity, stain_distance


def with_moments(mean, covariance, count=50):
    """Features whose sample mean and unbiased covariance are exactly these."""
    raw = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(raw.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_commuting_covariances_have_a_closed_form():
    """tr(S1 + S2 - 2 (S1 S2)^½) is the sum of (s1 - s2)² over the axes that both share."""
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    one, other = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 25.0]).double()
    left = with_moments(torch.tensor([1.0, 2.0, 3.0]).double(), rotation @ one.diag() @ rotation.T)
    right = with_moments(torch.tensor([1.0, 0.0, 3.0]).double(), rotation @ other.diag() @ rotation.T)
    assert frechet_distance(left, right) == pytest.approx(4 + 1 + 1 + 4, rel=1e-9)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-9)


def test_other_covariances_against_scipy():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(2)
    left, right = (
        torch.randn(40, 5, dtype=torch.float64, generator=generator) @ torch.randn(5, 5).double() for _ in "ab"
    )
    one, other = torch.cov(left.T), torch.cov(right.T)
    root = torch.as_tensor(sqrtm((one @ other).numpy()).real)
    expected = (left.mean(0) - right.mean(0)).square().sum() + torch.trace(one + other - 2 * root)
    assert frechet_distance(left, right) == pytest.approx(expected.item(), rel=1e-6)


def test_one_feature_and_too_few_images():
    left, right = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])
    assert frechet_distance(left, right) == pytest.approx(25)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(left[:1], right)


def test_interval_tells_sets_that_differ_from_sets_that_do_not():
    generator = torch.Generator().manual_seed(3)
    real, same, other = (torch.randn(300, 4, generator=generator) for _ in range(3))
    near, far = bootstrap_interval(same, real), bootstrap_interval(other + 1, real)
    assert near[0] < near[1] < far[0] < 4.5 < far[1] + 1


def test_ratio_of_distances_to_one_target():
    generator = torch.Generator().manual_seed(3)
    real, same, other = (torch.randn(300, 4, generator=generator) for _ in range(3))
    assert bootstrap_ratio(same, same.clone(), real)[0] < 1 < bootstrap_ratio(same, same.clone(), real)[1]
    low, high = bootstrap_ratio(other + 2, other + 1, real)  # 16 over 4, but for the noise of finite sets
    assert 3 < low < 4 < high < 5


def test_density_of_flat_images():
    images = torch.stack([torch.full((3, 4, 4), 1.0), torch.full((3, 4, 4), -1.0)])
    found = density_statistics(images)
    assert torch.allclose(found[0], torch.zeros(6), atol=1e-6)
    assert torch.allclose(found[1, :3], torch.tensor(256.0).log().expand(3)) and torch.allclose(
        found[1, 3:], torch.zeros(3)
    )


def test_stain_distance_sees_darker_images_and_diversity_sees_fewer():
    generator = torch.Generator().manual_seed(4)
    real = torch.rand(60, 3, 8, 8, generator=generator) * torch.rand(60, 1, 1, 1, generator=generator) * 2 - 1
    same = real[torch.randperm(60, generator=generator)]
    assert stain_distance(same, real) < 1e-6 < stain_distance(real * 0.5 - 0.5, real)
    features = real.flatten(1)
    assert relative_diversity(features, features) == pytest.approx(1)
    assert relative_diversity(features * 0.5, features) == pytest.approx(0.5)


def test_torchmetrics_and_torch_fidelity_on_the_same_features():
    left, right = (correlated(300, 24, seed, shift) for seed, shift in ((1, 0.3), (2, 0.0)))
    found = frechet_distance(left, right)
    statistics = [fid_features_to_statistics(features.double()) for features in (left, right)]
    assert found == pytest.approx(fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"], rel=1e-6)
    moments = [of(x.double()) for x in (left, right) for of in (lambda x: x.mean(0), lambda x: torch.cov(x.T))]
    assert found == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)


def test_blocks_of_images_make_no_difference(monkeypatch):
    left, right = correlated(50, 6, 1), correlated(40, 6, 2)
    whole, interval = frechet_distance(left, right), centred_interval(9, left, right, 3)
    monkeypatch.setattr(frechet, "BLOCK", 7)
    assert frechet_distance(left, right) == pytest.approx(whole, rel=1e-9)
    assert centred_interval(9, left, right, 3) == pytest.approx(interval, rel=1e-4)


def test_principal_axes_are_of_the_reference_alone():
    """Along the axes of a Gaussian with known covariance; what lies across them is not seen."""
    reference = with_moments(torch.zeros(4).double(), torch.tensor([1.0, 9.0, 4.0, 0.1]).double().diag())
    axes = principal_axes(reference, 2)
    torch.testing.assert_close(axes.abs(), torch.eye(4).double()[[1, 2]].T, atol=1e-6, rtol=0)
    moved = reference + torch.tensor([50.0, 3.0, 4.0, 50.0])
    assert frechet_distance(moved @ axes, reference @ axes) == pytest.approx(25, rel=1e-6)
    with pytest.raises(ValueError, match="5 principal axes of 50 images with 4 features"):
        principal_axes(reference, 5)


def test_fast_draws_scatter_as_slow_ones_do():
    """The standard deviation of plain bootstrap distances, and an interval around the value that was given."""
    left, right = correlated(200, 10, 1, 0.5), correlated(200, 10, 2)
    value = frechet_distance(left, right)
    low, high = centred_interval(value, left, right, 200)
    assert (low + high) / 2 == pytest.approx(value)
    generator = torch.Generator().manual_seed(5)
    again = [torch.randint(200, (2, 200), generator=generator) for _ in range(200)]
    slow = torch.tensor([frechet_distance(left[one], right[other]) for one, other in again]).std().item()
    assert (high - low) / 2 / student.ppf(0.975, 199) == pytest.approx(slow, rel=0.2)
    assert centred_interval(value, left, right, 2, seed=1) == centred_interval(value, left, right, 2, seed=1)
    wide, narrow = (centred_interval(value, left, right, 3, level=level)[1] - value for level in (0.95, 0.5))
    assert wide / narrow == pytest.approx(4.30265 / 0.81650, rel=1e-4), "quantiles of Student's t with two degrees"
    assert centred_interval(0.0, left, right, 3)[0] == 0, "a distance is not below 0"
    with pytest.raises(ValueError, match="1 draws"):
        centred_interval(value, left, right, 1)


def test_a_draw_is_the_moments_of_repeated_images():
    features, counts = correlated(5, 3, 1), torch.tensor([2, 1, 3, 1, 4])
    mean, covariance = frechet._moments(features, counts)
    repeated = features.double().repeat_interleave(counts, 0)
    torch.testing.assert_close(mean, repeated.mean(0))
    torch.testing.assert_close(covariance, torch.cov(repeated.T))
