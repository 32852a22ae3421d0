"""What a config builds before anything may be read: it opens itself when it is first used."""

from __future__ import annotations

from typing import Any, TypeVar

Self = TypeVar("Self", bound="OpenedOnUse")


class OpenedOnUse:
    """Base of objects that read and write nothing until one of their facts is asked for.

    A subclass names in `opened` the attributes that its `open` sets; the first of them to be asked for calls it. So
    whoever is handed such an object uses it as if it had always been open.
    """

    opened: tuple[str, ...] = ()

    def open(self) -> None:
        """Finds, checks and reads; sets all attributes of `opened`."""
        raise NotImplementedError

    def prepare(self: Self) -> Self:
        """Opens it now, once: for whoever wants its errors before other work begins, or its files to be there."""
        if any(name not in self.__dict__ for name in self.opened):
            try:
                self.open()
            except BaseException:  # what was refused is not open
                for name in self.opened:
                    self.__dict__.pop(name, None)
                raise
        return self

    def __getattr__(self, name: str) -> Any:  # only called for what is not there
        if name in type(self).opened:
            return self.prepare().__dict__[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
