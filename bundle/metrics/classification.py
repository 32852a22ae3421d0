"""How well classes are told apart, over a whole data set at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional


@torch.no_grad()
def predict(
    classify: Callable[[dict[str, torch.Tensor]], torch.Tensor], loader: Iterable[dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all batches, on the CPU.

    Args:
        classify: batch -> logits [B, classes].
        loader: batches with a "label" [B].

    Returns:
        fp32 [N, classes] and int64 [N].
    """
    logits, labels = [], []
    for batch in loader:
        logits.append(classify(batch).float())
        labels.append(batch["label"])
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def summarise(logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, its mean over classes, cross-entropy in nats, recall of each class that occurs; [N, K] and [N]."""
    correct = logits.argmax(1) == labels
    recall = {
        name: round(correct[labels == number].float().mean().item(), 4)
        for number, name in enumerate(classes)
        if (labels == number).any()
    }
    return {
        "images": len(labels),
        "accuracy": round(correct.float().mean().item(), 4),
        "balanced_accuracy": round(sum(recall.values()) / len(recall), 4),
        "cross_entropy": round(functional.cross_entropy(logits, labels).item(), 4),
        "recall": recall,
    }
