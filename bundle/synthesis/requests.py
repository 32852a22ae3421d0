"""Which images are to be made: classes and seeds, in batches that don't depend on what is there already."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from bundle.data.names import nfc
from bundle.runs.processes import rank_and_world_size

HIGHEST_SEED = 2**62


def choose_classes(asked: Any, known: Sequence[str]) -> list[str]:
    """The classes a setting asks for, in the order asked, each once.

    Args:
        asked: None for all; or a name, names separated by commas, a list or a tuple of names. A command line makes a
            number of a name like 3.
        known: all there are.

    Raises:
        ValueError: an unknown name, or none; the message lists the known ones.
    """
    if asked is None:
        return list(known)
    if isinstance(asked, (list, tuple)):
        names = [nfc(str(name)) for name in asked]
    else:
        names = [nfc(str(asked))] if nfc(str(asked)) in known else [nfc(name.strip()) for name in str(asked).split(",")]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"--classes asks for {', '.join(map(repr, unknown)) or 'nothing'}; the model knows {', '.join(known)}"
        )
    return list(dict.fromkeys(names))


class SynthesisRequests(Dataset):
    """Requests for images, class by class: items are {"label": int, "seed": int, "class": name}.

    Nothing is read before the first item, or the length, is asked for.

    Args:
        known: all class names in the order of the label numbers, or a function that gives them.
        classes: see :func:`choose_classes`.
        num_images: images of each class.
        seed: seed of the first image of each class; image i has seed + i.

    Raises:
        ValueError: a seed or count out of range.
    """

    def __init__(
        self,
        known: Sequence[str] | Callable[[], Sequence[str]],
        classes: Any = None,
        num_images: int = 8,
        seed: int = 0,
    ) -> None:
        for name, number, lowest in (("num_images", num_images, 1), ("seed", seed, 0)):
            if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= HIGHEST_SEED:
                raise ValueError(
                    f"--{name} is {number!r}; it must be an integer of at least {lowest} (and at most 2^62)"
                )
        self.known = known
        self.asked = classes
        self.num_images = num_images
        self.seed = seed

    @functools.cached_property
    def _known(self) -> list[str]:
        return list(self.known() if callable(self.known) else self.known)

    @functools.cached_property
    def classes(self) -> list[str]:
        """The classes asked for.

        Raises:
            ValueError: a class that the model doesn't know.
        """
        return choose_classes(self.asked, self._known)

    def __len__(self) -> int:
        return len(self.classes) * self.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, image = divmod(index, self.num_images)
        name = self.classes[number]
        return {"label": self._known.index(name), "seed": self.seed + image, "class": name}


class RequestLoader:
    """Batches of requests, of one class each, leaving out those of which every image is there.

    A batch holds the seeds from a multiple of the batch size to the next, so that an image has the same neighbours
    whatever else is asked for, in however many processes and after whatever interruptions: its bytes then are the same.
    A batch of which some images are there is therefore made as a whole.

    Args:
        requests: what is to be made.
        batch_size: images at once.
        exists: (class, seed) -> whether the image is there; None makes all.
        share: whether each process of a torchrun has its share of the batches.
    """

    def __init__(
        self,
        requests: SynthesisRequests,
        batch_size: int,
        exists: Callable[[str, int], bool] | None = None,
        share: bool = False,
    ) -> None:
        self.requests = requests
        self.batch_size = batch_size
        self.exists = exists
        self.share = share

    def batches(self) -> list[list[int]]:
        """Indices of the requests of each batch of this process, without regard to what is there."""
        rank, world_size = rank_and_world_size() if self.share else (0, 1)
        found: dict[tuple[int, int], list[int]] = {}
        count, seed = self.requests.num_images, self.requests.seed
        for index in range(len(self.requests)):
            number, image = divmod(index, count)
            found.setdefault((number, (seed + image) // self.batch_size), []).append(index)
        return list(found.values())[rank::world_size]

    def missing_batches(self) -> Iterator[list[int]]:
        """Those of which an image is not there when their turn comes."""
        return (batch for batch in self.batches() if any(map(self._is_missing, batch)))

    def images(self) -> int:
        """How many images all batches of this process have, those that are there included."""
        return sum(map(len, self.batches()))

    def images_to_make(self) -> int:
        """How many images the batches have that are now to be made."""
        return sum(map(len, self.missing_batches()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.missing_batches():
            yield default_collate([self.requests[index] for index in batch])

    def _is_missing(self, index: int) -> bool:
        request = self.requests[index]
        return self.exists is None or not self.exists(request["class"], request["seed"])


def prepare_requests(
    batchdata: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **unused: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple, dict[str, torch.Tensor]]:
    """`prepare_batch` of a MONAI evaluator that makes images of requests.

    Returns:
        seeds (on the CPU, where noise is drawn), labels, and the arguments of the inferer besides the seeds.
    """
    labels = batchdata["label"].to(device, non_blocking=non_blocking)
    return batchdata["seed"], labels, (), {"labels": labels}
