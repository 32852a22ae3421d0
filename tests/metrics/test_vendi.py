"""The Vendi score: closed forms, the matrix of all pairs, and its interval."""

import pytest
import torch
from correlated import correlated

from bundle.metrics import vendi
from bundle.metrics.vendi import vendi_score


def test_groups_of_orthogonal_images():
    """As many as there are groups, whatever the lengths of the features."""
    images = torch.eye(6)[torch.arange(60) % 4] * torch.rand(60, 1).add(0.1)
    assert vendi_score(images)[0] == pytest.approx(4, rel=1e-6)
    assert vendi_score(torch.eye(6)[[2] * 10])[0] == pytest.approx(1, rel=1e-6)


def test_uneven_groups_have_the_exponential_of_their_entropy():
    """Shares of 1/2, 1/4 and 1/4: an entropy of 1.5 log 2."""
    value, (low, high) = vendi_score(torch.eye(3)[torch.tensor([0, 0, 1, 2] * 25)])
    assert value == pytest.approx(2**1.5, rel=1e-6)
    # Each image adds -log of its group's share: log 2 or 2 log 2, half and half.
    reach = 1.96 * 0.5 * torch.tensor(2.0).log().item() * (100 / 99) ** 0.5 / 10
    assert (torch.tensor([low, high]).log() - torch.tensor(value).log()).tolist() == pytest.approx(
        [-reach, reach], 1e-4
    )


@pytest.mark.parametrize("count, dimensions", [(50, 12), (20, 40)])
def test_the_matrix_of_all_pairs_has_the_same(count, dimensions, monkeypatch):
    features = correlated(count, dimensions, 1)
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(unit @ unit.T / count).clamp(min=1e-15)
    expected = (-values * values.log()).sum().exp().item()
    assert vendi_score(features)[0] == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(vendi, "BLOCK", 7)
    assert vendi_score(features)[0] == pytest.approx(expected, rel=1e-6)


def test_interval_is_as_wide_as_other_images_make_it():
    logs, errors = [], []
    for seed in range(80):
        value, (low, high) = vendi_score(correlated(200, 16, seed))
        logs.append(torch.tensor(value).log())
        errors.append(torch.tensor(high / low).log() / 2 / 1.96)
    assert torch.stack(errors).mean().item() == pytest.approx(torch.stack(logs).std().item(), rel=0.3)


def test_images_without_features():
    features = correlated(30, 8, 1)
    assert vendi_score(torch.cat([features, torch.zeros(10, 8)])) == vendi_score(features)
    with pytest.raises(ValueError, match="0 images with features other than 0"):
        vendi_score(torch.zeros(10, 8))
