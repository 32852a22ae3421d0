"""Parts of a step's batch that are computed apart, by other processes or one after the other, as if they were not.

What a step draws at random is drawn for the whole batch, in every process and for every part, from the step's seed;
each part takes its rows. So the images of a batch meet the same noise however many processes share it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_one_for_all = False


def share_of(total: int, rank: int, size: int) -> tuple[int, int]:
    """First of the rows of one process and the one after its last; shares differ by one row at most."""
    return total * rank // size, total * (rank + 1) // size


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of a step's batch, at the same place in the batch of every process.

    Args:
        first: number of its first row in the whole batch.
        count: how many rows.
        total: rows of the whole batch.
    """

    first: int
    count: int
    total: int

    @property
    def weight(self) -> float:
        """What the mean over its rows counts in the mean over the batch."""
        return self.count / self.total

    @property
    def is_whole(self) -> bool:
        return self.count == self.total

    def split(self, parts: int) -> list[Part]:
        """Itself in so many parts, or in one a row where there are fewer rows."""
        parts = min(parts, self.count)
        ends = [share_of(self.count, number, parts) for number in range(parts)]
        return [Part(self.first + start, stop - start, self.total) for start, stop in ends]

    def draws(self) -> contextlib.AbstractContextManager:
        """Within it random numbers are those of the whole batch, cut to these rows."""
        return contextlib.nullcontext() if self.is_whole else DrawsOfWholeBatch(self)


class DrawsOfWholeBatch(TorchFunctionMode):
    """Has what is drawn for the rows of a part drawn for the whole batch, and cut.

    A draw whose first axis is as long as the part has a row an item. Any other is one for all items, and so the same
    in every part. (A part may have one row: one number for all that has an axis is drawn in `one_for_all_rows`.)
    Dropout, also that of whole paths, is a draw. What draws inside a kernel, as dropout of attention weights does, is
    not seen here; no network of this bundle does.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        draw = None if _one_for_all else DRAWS.get(function)
        return (function if draw is None else draw(self.part, function))(*args, **(kwargs or {}))


@contextlib.contextmanager
def one_for_all_rows() -> Iterator[None]:
    """Within it no draw has a row an item, whatever its shape."""
    global _one_for_all
    former, _one_for_all = _one_for_all, True
    try:
        yield
    finally:
        _one_for_all = former


def _like(part: Part, function: Callable) -> Callable:
    """Draws of a tensor's shape: randn_like, rand_like, randint_like."""

    def draw(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _has_rows(part, tensor.shape):
            return part_of(part, function(whole_like(part, tensor), *args, **kwargs))
        return function(tensor, *args, **kwargs)

    return draw


def _of_shape(part: Part, function: Callable) -> Callable:
    """Draws of a shape: randn, rand."""

    def draw(*shape: Any, **kwargs: Any) -> torch.Tensor:
        shape = tuple(kwargs.pop("size", shape))
        shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if _has_rows(part, shape):
            return part_of(part, function((part.total, *shape[1:]), **kwargs))
        return function(shape, **kwargs)

    return draw


def _integers(part: Part, function: Callable) -> Callable:
    """randint(high, size) or randint(low, high, size)."""

    def draw(*limits: Any, **kwargs: Any) -> torch.Tensor:
        shape = kwargs.pop("size", None)
        if shape is None:
            *limits, shape = limits
        if _has_rows(part, shape):
            return part_of(part, function(*limits, size=(part.total, *shape[1:]), **kwargs))
        return function(*limits, size=shape, **kwargs)

    return draw


def _bernoulli(part: Part, function: Callable) -> Callable:
    """Tensor.bernoulli_, which fills a tensor."""

    def draw(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _has_rows(part, tensor.shape):
            return tensor.copy_(part_of(part, function(whole_like(part, tensor), *args, **kwargs)))
        return function(tensor, *args, **kwargs)

    return draw


def _dropout(part: Part, function: Callable) -> Callable:
    """Functions that drop by chance: they are applied to ones, and the result is a mask with its scale."""

    def draw(tensor: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or p == 0 or not _has_rows(part, tensor.shape):
            return function(tensor, p, training)
        return tensor * part_of(part, function(torch.ones_like(whole_like(part, tensor)), p, training))

    return draw


DRAWS: dict[Callable, Callable[[Part, Callable], Callable]] = {
    torch.randn_like: _like,
    torch.rand_like: _like,
    torch.randn: _of_shape,
    torch.rand: _of_shape,
    torch.randint: _integers,
    torch.Tensor.bernoulli_: _bernoulli,
    torch.nn.functional.dropout: _dropout,
    torch.nn.functional.dropout1d: _dropout,
    torch.nn.functional.dropout2d: _dropout,
    torch.nn.functional.dropout3d: _dropout,
}


def _has_rows(part: Part, shape: Any) -> bool:
    return len(shape) > 0 and shape[0] == part.count


def whole_like(part: Part, tensor: torch.Tensor) -> torch.Tensor:
    """An unfilled tensor of the whole batch for one of a part, in the same order in memory, in which it is filled."""
    shape = (part.total, *tensor.shape[1:])
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)


def part_of(part: Part, whole: torch.Tensor) -> torch.Tensor:
    """Its rows of a tensor of the whole batch."""
    return whole[part.first : part.first + part.count]


def split_rows(batch: dict[str, Any], part: Part, parts: int, before: int = 0) -> Iterator[tuple[Part, dict[str, Any]]]:
    """The batch of a process in parts.

    Args:
        batch: tensors and lists whose rows are those of `part`, after `before` others.
        part: the rows.
        parts: how many parts.
        before: each part has so many rows more in front.
    """
    for each in part.split(parts):
        start = each.first - part.first
        yield each, {name: rows[start : start + before + each.count] for name, rows in batch.items()}


def add_means(total: dict[str, torch.Tensor], terms: dict[str, torch.Tensor], weight: float) -> dict[str, torch.Tensor]:
    """Terms so far and those of one more part, which counts `weight` in them; detached."""
    weighted = {name: weight * term.detach() for name, term in terms.items()}
    return {name: total[name] + term if name in total else term for name, term in weighted.items()}
