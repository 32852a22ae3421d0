"""The classifier of noisy latents learns what can be known at each noise level, on latents whose answer is known."""

import functools
import json
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bundle.data.loader import ItemDataset
from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.schedule import NoiseSchedule
from bundle.models.classifiers import HalfUNetClassifier
from bundle.runs.context import RunContext
from bundle.training.latent_classifier import LatentClassifierTrainer

CHANNELS, SIDE, SHIFT = 2, 8, 0.25


class TwoClasses:
    """Latents of N(-SHIFT, 1) and of N(SHIFT, 1) in every value: the best classifier asks for their mean."""

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        self.labels = np.arange(count) % 2
        shifts = np.where(self.labels == 0, -SHIFT, SHIFT).reshape(-1, 1, 1, 1)
        self.latents = (shifts + random.normal(size=(count, CHANNELS, SIDE, SIDE))).astype(np.float32)
        self.part = self
        self.others = {}

    def prepare(self):
        return self

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        values = self.latents[index]
        return {"mean": values, "std": np.zeros_like(values), "label": int(self.labels[index])}

    def means(self):
        return torch.from_numpy(self.latents), torch.from_numpy(self.labels)

    def weighted_items(self):
        return None

    def plain(self, part, maximum=None):
        return self.others.get(part)

    def describe(self):
        return []


def best_accuracy(alpha_bar):
    """The mean of n values of z_t is N(± sqrt(alpha_bar) SHIFT, 1 / n), as z_t has the variance 1 at every t."""
    return NormalDist().cdf(alpha_bar**0.5 * SHIFT * (CHANNELS * SIDE * SIDE) ** 0.5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    schedule = NoiseSchedule()
    context = RunContext(
        tmp_path_factory.mktemp("two_classes"), precision="fp32", checkpoint_interval=250, inference_batch_size=200
    )
    training = TwoClasses(2000, 0)
    parts = training.others = {
        "validation": TwoClasses(200, 1),
        "unused": TwoClasses(0, 3),
        "test": TwoClasses(1000, 2),
    }
    labelled = SimpleNamespace(
        classes=["low", "high"], fingerprint="", part=parts.get, prepare=lambda: None, describe=lambda: {}
    )
    pretrained = SimpleNamespace(
        latent=LatentScale(1.0, (0.0,) * CHANNELS, (0.0,) * CHANNELS), latent_side=SIDE, latent_channels=CHANNELS,
        fingerprint="", schedule=lambda: schedule, prepare=lambda: None, autoencoder_facts={"definition": {}},
    )  # fmt: skip
    architecture = functools.partial(
        HalfUNetClassifier, channels=[16, 16], attention_levels=[False, False], num_res_blocks=1, head_channels=16,
        norm_groups=4,
    )  # fmt: skip
    LatentClassifierTrainer(
        context=context, dataset=ItemDataset(training), batch_size=64, steps=250, architecture=architecture,
        optimizer=functools.partial(torch.optim.AdamW, lr=3e-3), labelled=labelled, pretrained=pretrained,
        validation_interval=50, latents=training,
    ).run()  # fmt: skip
    metrics = json.loads((context.folder / "metrics.json").read_text())
    return metrics["latent_classifier"]["accuracy_by_timestep"], schedule


def test_accuracy_follows_what_the_noise_leaves(rows):
    rows, schedule = rows
    for row in rows[:-1]:
        best = best_accuracy(schedule.alpha_bar[row["timestep"]].item())
        # 1,000 images: the standard error is 0.016 at most; training leaves a little more.
        assert best - 0.08 < row["test"]["accuracy"] < best + 0.05, (row["timestep"], best)


def test_it_falls_with_t_and_ends_near_chance(rows):
    accuracies = [row["test"]["accuracy"] for row in rows[0][:-1]]
    assert accuracies[0] > 0.95 and accuracies[-1] < 0.6
    assert all(later < earlier + 0.03 for earlier, later in zip(accuracies, accuracies[1:]))
    crossentropies = [row["test"]["cross_entropy"] for row in rows[0][:-1]]
    assert crossentropies[0] < 0.2 and crossentropies[-1] == pytest.approx(np.log(2), abs=0.05)


def test_pure_noise_is_chance_exactly(rows):
    for part in ("validation", "test"):
        assert rows[0][-1]["timestep"] == "pure noise" and rows[0][-1][part]["balanced_accuracy"] == 0.5
