"""Batches by step number: what step k sees depends on the seed and k alone, so a resumed run sees the same.

Each process of a job has its share of a step's batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bundle.runs import job
from bundle.runs.randomness import mix_seed
from bundle.runs.shares import Part, share_of


class Source(Protocol):
    """Items by number, read when they are asked for: patches, latents, or real and selected images.

    What must be found, checked or cached first is when it is first used.
    """

    def __len__(self) -> int: ...

    def read(self, index: int) -> dict[str, Any]:
        """One item, such as {"image": uint8 RGB [3, S, S], "label": int}."""

    def weighted_items(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        """Places of the items of each part and the parts' probabilities; None where each item counts the same."""


class ItemDataset(Dataset):
    """Items of a source, each randomly transformed with a seed of its own.

    Keys are (index, draw): `index` chooses the item, `draw` seeds its random transforms, so an item comes out the same
    whatever worker process makes it. Nothing is read before the first item is asked for.

    Args:
        source: of the items.
        transform: a MONAI Compose of random and deterministic dictionary transforms, or None.
    """

    def __init__(self, source: Source, transform: Callable | None = None) -> None:
        self.source = source
        self.transform = transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        if self.transform is None:
            return self.source.read(index)
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed=draw % 2**32)
        return self.transform(self.source.read(index))


def read_images(source: Source) -> torch.Tensor:
    """All images of a part of the patches at once, uint8 [N, 3, S, S]."""
    return torch.stack([torch.as_tensor(source.read(index)["image"]) for index in range(len(source))])


class StepSampler(Sampler):
    """Yields this process's share of the batch of (index, draw) keys of each step from `start` to `steps`.

    Without source weights every item is drawn once before any is drawn again (a new permutation each round); with
    weights each place of a batch draws its source by weight and an item of it uniformly.

    Attributes:
        rows_before: a share has so many rows of the batch more, those in front of it (of the first, the last ones).
    """

    def __init__(self, dataset: ItemDataset, batch_size: int, steps: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.start = 0
        self.rows_before = 0

    def __len__(self) -> int:
        return self.steps

    @property
    def part(self) -> Part:
        """The rows of each batch that this process has."""
        first, stop = share_of(self.batch_size, job.rank(), job.size())
        return Part(first, stop - first, self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, before = self.part.first, self.rows_before
        places = [place % self.batch_size for place in range(first - before, first + self.part.count)]
        for keys in self.whole_batches():
            yield [keys[place] for place in places]

    def whole_batches(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of all processes together."""
        weighted = self.dataset.source.weighted_items()
        rounds: dict[int, np.ndarray] = {}
        for step in range(self.start, self.steps):
            indices = self.in_turn(step, rounds) if weighted is None else self.by_weight(step, *weighted)
            yield [(index, mix_seed(self.seed, step, place)) for place, index in enumerate(indices)]

    def by_weight(self, step: int, items: list[np.ndarray], weights: np.ndarray) -> list[int]:
        """Item indices of one step: for each place a source by weight, then one of its items."""
        random = np.random.default_rng([self.seed, step])
        chosen = random.choice(len(items), size=self.batch_size, p=weights)
        return [int(items[source][random.integers(len(items[source]))]) for source in chosen]

    def in_turn(self, step: int, rounds: dict[int, np.ndarray]) -> list[int]:
        """Item indices of one step, each item once a round; `rounds` keeps the permutation in use between calls."""
        count = len(self.dataset)
        indices = []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, place = divmod(number, count)
            if turn not in rounds:
                rounds.clear()
                rounds[turn] = np.random.default_rng([self.seed, turn]).permutation(count)
            indices.append(int(rounds[turn][place]))
        return indices


class StepDataLoader(DataLoader):
    """A DataLoader over steps instead of epochs; set `start` to the number of steps already done.

    Args:
        dataset: an ItemDataset.
        batch_size: items a step.
        steps: number of batches in all.
        seed: seed of order and random transforms.
        num_workers: processes that load ahead; 0 suffices while patches or latents are cached.
    """

    def __init__(self, dataset: ItemDataset, batch_size: int, steps: int, seed: int, num_workers: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size is {batch_size}; it must be at least 1")
        self.step_sampler = StepSampler(dataset, batch_size, steps, seed)
        self.items_per_batch = batch_size
        super().__init__(
            dataset,
            batch_sampler=self.step_sampler,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )

    @property
    def start(self) -> int:
        return self.step_sampler.start

    @start.setter
    def start(self, step: int) -> None:
        self.step_sampler.start = step


class PartLoader:
    """All items of a dataset in order, in batches; it has no length, so that nobody asks before the data is read.

    Args:
        dataset: an ItemDataset.
        batch_size: items a batch; the last one may be smaller.
    """

    def __init__(self, dataset: ItemDataset, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from DataLoader(self.dataset, batch_size=self.batch_size, shuffle=False)
