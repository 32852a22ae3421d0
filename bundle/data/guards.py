"""What may not be labelled, validation or test data: synthetic images, and images that are in two places at once."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from bundle.data.generated import DESCRIPTION
from bundle.data.marks import ALGORITHMIC_MEDIA, read_marks
from bundle.data.sources import NIFTI_SUFFIXES
from bundle.data.split import SplitRow

SHOWN = 3  # files named in an error
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
MARK_KEYWORDS = (b"SyntheticData", b"XML:com.adobe.xmp")


def require_no_synthetic(paths: Sequence[Path]) -> bool:
    """Refuses images marked as synthetic, except where all are the bundle's own procedural patches.

    Only PNG and NIfTI files are looked into. Images inside archives, and marks in other formats, are not noticed.

    Args:
        paths: images, which need not exist as files where they lie in an archive; at least one.

    Returns:
        whether all are procedural patches.

    Raises:
        ValueError: an image is marked; names the first ones.
    """
    marks = {path: read_marks(path) for path in paths if _may_be_marked(path)}
    marked = {path: found for path, found in marks.items() if found}
    own = [path for path, found in marked.items() if _is_procedural(found)]
    made = [path for path, found in marked.items() if not _is_procedural(found)]
    if made:
        raise ValueError(
            f"{len(made)} images are marked as synthetic: {_some(made)}. Labelled, validation and test images must be "
            "real: remove these from --dataset_dir and --test_dir"
        )
    if own and len(own) < len(paths):
        raise ValueError(
            f"{len(own)} of {len(paths)} images are procedural patches of the bundle and not tissue: {_some(own)}. "
            "Keep them out of --dataset_dir and --test_dir, or use nothing else"
        )
    return bool(own)


def require_apart(paths: Mapping[SplitRow, Path]) -> None:
    """Refuses an image that is in two parts, by its pixels; `paths` are all images of a split.

    Raises:
        ValueError: names both files of the first such image.
    """
    first: dict[str, SplitRow] = {}
    pairs = [(first[row.sha256], row) for row in paths if first.setdefault(row.sha256, row).part != row.part]
    if pairs:
        one, other = pairs[0]
        raise ValueError(
            f"{len(pairs)} images are in two parts of the data, pixel for pixel, such as {paths[one]} ({one.part}) and "
            f"{paths[other]} ({other.part}). Remove them from one: from --dataset_dir, --test_dir or the --split_file"
        )


def require_unseen(paths: Mapping[SplitRow, Path], seen: set[str], allow: bool) -> int:
    """Counts the images for training, validation and test that a pre-training saw, by their pixels.

    Args:
        paths: all images of a split.
        seen: the pixel hashes of the pre-training.
        allow: whether there may be any.

    Raises:
        ValueError: there are some that may not be; names the first ones.
    """
    overlap = [path for row, path in paths.items() if row.part != "unused" and row.sha256 in seen]
    if overlap and not allow:
        raise ValueError(
            f"the pre-training saw {len(overlap)} of the labelled or test images, pixel for pixel: {_some(overlap)}. "
            "Figures measured on them would be too good. Take others (of built-in patches with --generated_slide), or "
            "accept it with --labelled#pretraining_overlap allow"
        )
    return len(overlap)


def _is_procedural(marks: dict[str, str]) -> bool:
    return marks.get("DigitalSourceType") == ALGORITHMIC_MEDIA and marks.get("Description") == DESCRIPTION


def _may_be_marked(path: Path) -> bool:
    """Whether a file is NIfTI, whose header is quick to read, or a PNG with a text chunk that may hold a mark.

    It goes from chunk to chunk, as Pillow would decode the picture.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return path.is_file()
    try:
        with open(path, "rb") as stream:
            if stream.read(8) != PNG_SIGNATURE:
                return False
            while len(head := stream.read(8)) == 8:
                length, kind = struct.unpack(">I4s", head)
                start = stream.tell()
                if kind in TEXT_CHUNKS and stream.read(min(length, 80)).split(b"\0")[0] in MARK_KEYWORDS:
                    return True
                stream.seek(start + length + 4)  # its checksum
    except (FileNotFoundError, NotADirectoryError):  # inside an archive
        pass
    return False


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:SHOWN])) + ", ..." * (len(paths) > SHOWN)
