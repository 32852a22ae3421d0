"""What step k sees depends on the seed and k alone."""

import numpy as np
import pytest
import torch

from bundle.data.loader import ItemDataset, PartLoader, StepDataLoader
from bundle.data.transforms import RandOrientationd


class Numbers:
    """A source of small images that show their own number."""

    def __init__(self, count, weights=None):
        self.count = count
        self.weights = weights

    def prepare(self):
        return self

    def __len__(self):
        return self.count

    def read(self, index):
        image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
        return {"image": image, "number": index}

    def weighted_items(self):
        if self.weights is None:
            return None
        return [np.arange(0, 2), np.arange(2, self.count)], np.array(self.weights)


def numbers(loader):
    return [batch["number"].tolist() for batch in loader]


def test_each_item_comes_once_before_any_comes_again():
    seen = np.concatenate(numbers(StepDataLoader(ItemDataset(Numbers(10)), batch_size=4, steps=5, seed=0)))
    assert sorted(seen[:10]) == list(range(10)) and sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist() != sorted(seen[10:])


def test_a_resumed_loader_continues_the_same_sequence():
    dataset = ItemDataset(Numbers(10), RandOrientationd(keys="image"))
    whole = list(StepDataLoader(dataset, batch_size=4, steps=7, seed=3))
    late = StepDataLoader(dataset, batch_size=4, steps=7, seed=3)
    late.start = 3
    rest = list(late)
    assert len(rest) == 4
    for one, other in zip(whole[3:], rest):
        assert torch.equal(one["number"], other["number"]) and torch.equal(one["image"], other["image"])


def test_workers_change_nothing():
    dataset = ItemDataset(Numbers(9), RandOrientationd(keys="image"))
    alone = list(StepDataLoader(dataset, batch_size=3, steps=4, seed=1))
    workers = list(StepDataLoader(dataset, batch_size=3, steps=4, seed=1, num_workers=2))
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(alone, workers))


def test_random_transforms_differ_between_items_and_rounds():
    dataset = ItemDataset(Numbers(1), RandOrientationd(keys="image"))
    images = [tuple(batch["image"].flatten().tolist()) for batch in StepDataLoader(dataset, 1, steps=60, seed=0)]
    assert len(set(images)) == 8  # all eight orientations of one asymmetric image


def test_source_weights_are_kept():
    seen = np.concatenate(numbers(StepDataLoader(ItemDataset(Numbers(100, weights=[0.75, 0.25])), 50, 40, seed=0)))
    # 2,000 draws: standard error 1 %.
    assert np.mean(seen < 2) == pytest.approx(0.75, abs=0.04)
    assert len(set(seen[seen >= 2].tolist())) > 90


def test_part_loader_gives_everything_in_order_and_asks_for_no_length():
    loader = PartLoader(ItemDataset(Numbers(5)), batch_size=2)
    assert numbers(loader) == [[0, 1], [2, 3], [4]]
    assert not hasattr(loader, "__len__")


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="batch size is 0"):
        StepDataLoader(ItemDataset(Numbers(5)), batch_size=0, steps=1, seed=0)
