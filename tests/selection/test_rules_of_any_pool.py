"""What holds for the selection from any candidates."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from bundle.selection.rules import Candidates, RealImages, Rules, acceptance, decide, quotas, rounded, shortfall
from bundle.selection.scores import Centroids
from bundle.selection.table import read_selection, write_selection


def drawn_inputs(seed, count=90, num_classes=3, size=4):
    """Random candidates, many with equal rounded distances, and real images near some of them."""
    generator = np.random.default_rng(seed)
    classes = [f"class {number}" for number in range(num_classes)]
    labels = generator.integers(0, num_classes, count)
    probabilities = generator.dirichlet(np.full(num_classes, 0.4), count)
    own = np.eye(num_classes)[labels]
    probabilities = 0.5 * probabilities + 0.5 * own
    features = torch.from_numpy(own + generator.normal(0, 0.4, (count, num_classes))).float()
    real_labels = torch.arange(10 * num_classes) % num_classes
    real_features = torch.eye(num_classes)[real_labels] + 0.1 * torch.from_numpy(generator.normal(size=(30, 3))).float()
    centroids = Centroids().fit(real_features, real_labels, num_classes)
    distances = (centroids(features) * 20).round() / 20
    descriptors = torch.from_numpy(generator.random((count, 768))).float()
    descriptors[1::7] = descriptors[::7][: len(descriptors[1::7])] + 0.001
    real = RealImages(
        [f"real {number}" for number in range(30)],
        real_labels,
        torch.cat([torch.from_numpy(generator.random((28, 768))).float(), descriptors[2:4] + 0.001]),
    )
    pool = Candidates(
        [f"{classes[label]}/{number}.png" for number, label in enumerate(labels)],
        torch.from_numpy(labels),
        torch.from_numpy(generator.permutation(count)),
        torch.from_numpy(probabilities).float(),
        distances,
        descriptors,
        features,
    )
    limits = torch.full((num_classes,), 0.8)
    asked = quotas({name: size + number for number, name in enumerate(classes)}, [50, 100, 200, 300])
    return pool, real, limits, asked, classes, centroids


VARIANTS = [Rules(), Rules(gates="distance"), Rules(centroids="with_synthetic"), Rules(keep_fraction=1, seed=5)]


@pytest.mark.parametrize("rules", VARIANTS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_sets_are_nested_equal_in_size_and_never_padded(rules, seed):
    *given, centroids = drawn_inputs(seed)
    rows = decide(*given, rules, centroids)
    asked, classes = given[3:]
    assert sum(row.kept for row in rows) > 10
    missing = shortfall(rows, asked)
    share = acceptance(rows, classes)
    for name in classes:
        own = [row for row in rows if row.label == name]
        ranked = sorted((row for row in own if row.kept), key=lambda row: row.rank)
        assert [row.ratio for row in ranked] == sorted(row.ratio for row in ranked), "a smaller set skips nearer images"
        beyond = [row.rank for row in own if row.reason == "beyond the quota"]
        assert not beyond or ranked[-1].rank < min(beyond)
        for ratio, quota in asked[name].items():
            selective = {row.file for row in own if row.ratio and row.ratio <= ratio}
            control = {row.file for row in own if row.random_ratio and row.random_ratio <= ratio}
            assert (
                len(selective)
                == len(control)
                == quota - missing[name][ratio]
                == min(quota, round(share[name] * len(own)))
            )
        ranks = sorted(row.rank for row in own if row.rank)
        assert ranks == list(range(1, len(ranks) + 1))
        in_order = sorted((row for row in own if row.rank), key=lambda row: row.rank)
        assert in_order == sorted(in_order, key=lambda row: (row.distance, row.seed))
        if rules.keep_fraction == 0.5 and rules.gates == "both":
            assert sum(row.reason != "far half" for row in in_order) == -(-len(ranks) // 2)


@pytest.mark.parametrize("rules", VARIANTS, ids=str)
def test_the_order_of_candidates_and_real_images_makes_no_difference(rules):
    pool, real, limits, asked, classes, centroids = drawn_inputs(9)
    rows = decide(pool, real, limits, asked, classes, rules, centroids)
    assert any(row.reason.startswith("copy of class") for row in rows) == (rules.gates == "both")
    for seed in range(3):
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        parts = {name: value[order] for name, value in vars(pool).items() if isinstance(value, torch.Tensor)}
        shuffled = Candidates(files=[pool.files[place] for place in order], **parts)
        assert decide(shuffled, real, limits, asked, classes, rules, centroids) == rows
    order = random.Random(0).sample(range(30), 30)
    turned = RealImages([real.files[place] for place in order], real.labels[order], real.descriptors[order])
    assert decide(pool, turned, limits, asked, classes, rules, centroids) == rows


def test_noise_below_the_sixth_digit_makes_no_difference():
    pool, *given, centroids = drawn_inputs(11)
    pool = replace(pool, probabilities=torch.from_numpy(rounded(pool.probabilities)))
    noise = 1e-8 * torch.rand(pool.distances.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(pool, probabilities=pool.probabilities + noise / 10, distances=pool.distances + noise)
    assert decide(noisy, *given) == decide(pool, *given)


def test_what_is_decided_can_be_written_and_read(tmp_path):
    pool, real, limits, asked, classes, centroids = drawn_inputs(2)
    rows = decide(pool, real, limits, asked, classes)
    facts = {"pool": tmp_path, "pool_hash": "ab", "split": "cd", "classes": classes, "ratios": [50, 100, 200, 300]}
    facts |= {"labelled": {}, "quotas": asked, "shortfall": shortfall(rows, asked), "settings": vars(Rules())}
    found, facts = read_selection(write_selection(tmp_path / "selection.csv", rows, facts))
    assert found == rows
    assert (facts["quotas"], facts["shortfall"]) == (asked, shortfall(rows, asked))


def test_no_candidates():
    pool, *given, centroids = drawn_inputs(0)
    parts = {name: value[:0] for name, value in vars(pool).items() if isinstance(value, torch.Tensor)}
    for rules in VARIANTS:
        assert decide(Candidates(files=[], **parts), *given, rules, centroids) == []
