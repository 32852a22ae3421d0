"""Tensors of nested plain data: written to a file, counted, looked into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bundle.runs.files import write_atomically


def tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """All tensors of dictionaries, lists and tuples."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(part)


def all_finite(content: Any) -> bool:
    """Whether no tensor has a number that is infinite or none."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(content) if tensor.is_floating_point())


def save_tensors(path: str | Path, content: Any) -> Path:
    """Writes what `torch.load(path, weights_only=True)` reads, atomically.

    Raises:
        OSError: it does not fit on the disk; see `bundle.runs.files.write_atomically`.
    """

    def write(temporary: Path) -> None:
        # Given a path, torch.save writes its name into the file, and does not say why the disk refuses.
        with open(temporary, "wb") as file:
            torch.save(content, file)

    storages = (tensor.untyped_storage() for tensor in tensors_in(content))  # several tensors may share one
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return write_atomically(path, write, size=sum(sizes.values()))
