"""Figures of classification, by hand."""

import math

import pytest
import torch

from bundle.metrics.classification import predict, summarise

# Six items of three classes, the third of which none has: probabilities of 1/2, 1/4 and 1/4, the half at the guess.
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])
GUESSES = torch.tensor([0, 0, 0, 2, 1, 0])
LOGITS = torch.full((6, 3), 0.25).scatter(1, GUESSES[:, None], 0.5).log()


def test_summary_by_hand():
    found = summarise(LOGITS, LABELS, ["ADI", "LYM", "TUM"])
    assert found["images"] == 6
    assert found["recall"] == {"ADI": 0.75, "LYM": 0.5}, "a class without an image has no recall"
    assert found["accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2, abs=1e-4)
    # Four right guesses at -log 1/2, two wrong ones at -log 1/4.
    assert found["cross_entropy"] == pytest.approx((4 * math.log(2) + 2 * math.log(4)) / 6, abs=1e-4)


def test_order_of_items_and_a_common_shift_of_logits_do_not_matter():
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    expected = summarise(LOGITS, LABELS, ["ADI", "LYM", "TUM"])
    assert summarise(LOGITS[order] + 3.0, LABELS[order], ["ADI", "LYM", "TUM"]) == expected


def test_prediction_keeps_the_order_over_uneven_batches_and_takes_no_gradient():
    network = torch.nn.Linear(4, 3).double()
    items = torch.randn(7, 4, dtype=torch.float64)
    labels = torch.arange(7)
    batches = [{"item": items[rows], "label": labels[rows]} for rows in (slice(0, 3), slice(3, 6), slice(6, 7))]
    logits, found = predict(lambda batch: network(batch["item"]), batches)
    assert logits.dtype == torch.float32 and not logits.requires_grad
    torch.testing.assert_close(logits, network(items).float())
    assert found.tolist() == list(range(7))
