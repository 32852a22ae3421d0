"""Many strings without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class Texts(Sequence):
    """Strings in one array of bytes.

    A list of a million strings takes 100 MB more, and as Python counts references inside each object, a worker process
    that only reads them copies them all.

    Args:
        content: uint8, the strings as UTF-8, each with a zero byte behind; bytes that are no UTF-8, of file names, are
            kept as Python keeps them in such names.
    """

    def __init__(self, content: np.ndarray) -> None:
        self.content = content
        self._ends = np.flatnonzero(content == 0)

    @classmethod
    def of(cls, strings: Iterable[str]) -> Texts:
        text = "\0".join((*strings, ""))
        return cls(np.frombuffer(text.encode(errors="surrogateescape"), np.uint8))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        return cls(np.concatenate([part.content for part in parts])) if parts else cls.of(())

    def take(self, places: np.ndarray) -> Texts:
        """Those at these places, in this order."""
        if np.array_equal(places, np.arange(len(self))):
            return self
        strings = self.tolist()
        return Texts.of(strings[place] for place in places.tolist())

    def tolist(self) -> list[str]:
        return self.content.tobytes().decode(errors="surrogateescape").split("\0")[:-1]

    def lengths(self) -> np.ndarray:
        """Bytes of each."""
        return np.diff(self._ends, prepend=-1) - 1

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        end = self._ends[place]
        start = self._ends[place - 1] + 1 if place % len(self) else 0
        return self.content[start:end].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return np.array_equal(self.content, other.content)
        return isinstance(other, Sequence) and self.tolist() == list(other)

    __hash__ = None
