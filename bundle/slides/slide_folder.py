"""The slides of a folder: found by their suffix, named by their files, and shared among processes and machines."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bundle.data.class_names import RESERVED
from bundle.data.names import left_out, nfc
from bundle.data.slides import SLIDE_SUFFIXES, require_reader
from bundle.runs.processes import rank_and_world_size
from bundle.slides.generated_slide import write_generated_slide


class SlideFolder:
    """The slides under a folder of any depth, or built-in ones. A folder that holds `.dcm` files is a slide.

    Args:
        slides_dir: the folder, or one slide; None for built-in slides: procedural pictures, not tissue.
        generated_dir: where built-in slides are written.
        generated_slides: number of built-in slides.
        assume_mpp: µm per pixel of the finest level of slides whose files do not say it; None refuses these.
        reader: what reads the slides: auto, openslide, cucim or tifffile. auto takes OpenSlide, and tifffile for a TIFF
            that OpenSlide does not know.
        shard: "I/N": this run takes the I-th of N equal parts, from 1, of the slides, as one of N machines; None for
            all, or with torchrun for those of the rank.
        seed: seed of the built-in slides.

    Raises:
        ValueError: a value that can't be meant.
    """

    def __init__(
        self,
        slides_dir: str | os.PathLike | None,
        generated_dir: str | os.PathLike,
        generated_slides: int = 3,
        assume_mpp: float | None = None,
        reader: str = "auto",
        shard: str | None = None,
        seed: int = 0,
    ) -> None:
        self.generated = slides_dir is None
        self.slides_dir = Path(generated_dir if slides_dir is None else slides_dir).expanduser()
        self.generated_slides = generated_slides
        self.seed = seed
        is_number = isinstance(assume_mpp, (int, float)) and not isinstance(assume_mpp, bool)
        if assume_mpp is not None and not (is_number and assume_mpp > 0):
            raise ValueError(f"--assume_mpp is {assume_mpp!r}; it must be a number of µm above 0, such as 0.25")
        self.assume_mpp = assume_mpp
        self.reader = reader
        self.place = _parse_shard(shard)

    def find(self) -> dict[str, str]:
        """Path of each slide relative to `slides_dir`, by its name, sorted.

        Raises:
            ImportError: the reader is not installed.
            FileNotFoundError: no such folder.
            ValueError: no slide in it, or two of one name.
        """
        require_reader(self.reader)
        if self.generated:
            for number in range(self.generated_slides):
                write_generated_slide(self.slides_dir / f"generated_slide_{number:02d}.tif", number, self.seed)
        if not self.slides_dir.exists():
            raise FileNotFoundError(f"--slides_dir: there is no folder {str(self.slides_dir)!r}")
        if self.slides_dir.is_file():
            paths = [self.slides_dir.name]
            self.slides_dir = self.slides_dir.parent
        else:
            paths = sorted(_walk(self.slides_dir))
        if not paths:
            raise ValueError(
                f"--slides_dir: {str(self.slides_dir)!r} has no slides in it; they end in {', '.join(SLIDE_SUFFIXES)}, "
                "or are folders of .dcm files"
            )
        found: dict[str, str] = {}
        folded: dict[str, str] = {}
        for path in paths:
            is_folder = (self.slides_dir / path).is_dir()
            name = nfc(Path(path).name if is_folder else Path(path).stem)
            other = folded.setdefault(name.casefold(), path)
            if other != path:
                raise ValueError(
                    f"--slides_dir: {other!r} and {path!r} are two slides of one name, by which patches are "
                    "told apart; rename one of them, or tile their folders one by one. What is finished stays"
                )
            if name.split(".")[0].strip().lower() in RESERVED:
                raise ValueError(f"--slides_dir: Windows keeps the name of {path!r} for a device; rename it")
            found[name] = path
        return dict(sorted(found.items()))

    def own(self, found: dict[str, str]) -> dict[str, str]:
        """Those of the slides that this process of several takes."""
        number, parts = self.place
        return dict(list(found.items())[number::parts])


def _walk(root: Path) -> list[str]:
    found: list[str] = []
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not left_out([name]))
        relative = Path(place).relative_to(root)
        if any(name.lower().endswith(".dcm") and not left_out([name]) for name in files):
            found.append(relative.as_posix())
            folders[:] = []
            continue
        found += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(SLIDE_SUFFIXES) and not left_out([name])
        ]
    return found


def _parse_shard(shard: str | None) -> tuple[int, int]:
    """Number of the part, from 0, and how many there are."""
    if shard is None:
        return rank_and_world_size()
    given = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    number, parts = map(int, given.groups()) if given else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"--shard is {shard!r}; it must be I/N with I from 1 to N, such as 1/4")
    if rank_and_world_size()[1] > 1:
        raise ValueError(f"--shard {shard} is given, and torchrun shares the slides already; leave one out")
    return number - 1, parts
