"""What was found in a source, and what was passed over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bundle.data.array_layouts import LAYOUTS

Item = tuple[str, int, int]  # file, bytes, time in ns, as of `bundle.data.sources.find_items`


@dataclass
class Listing:
    """What a source holds: `items` sorted by name, the number of ignored files by kind, (name, reason) of what could
    not be examined, such as a folder without permission or a link to itself, and the slide of each item where the
    source says it, as a tiling does."""

    items: list[Item] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    unexamined: list[tuple[str, str]] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, error: OSError) -> None:
        """Notes what the system says of something that cannot be examined."""
        self.unexamined.append((name, f"{type(error).__name__}: {error.strerror}"))

    def passed_over(self) -> str:
        """For people: what is not among the items; empty where all is."""
        parts = [f"{count} {kind}" for kind, count in sorted(self.ignored.items())]
        if self.unexamined:
            parts.append(f"{len(self.unexamined)} that cannot be examined, the first {': '.join(self.unexamined[0])}")
        layouts = f"; of arrays, {LAYOUTS} are read" if any(kind.startswith("array ") for kind in self.ignored) else ""
        return ", ".join(parts) + layouts
