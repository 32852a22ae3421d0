"""The features of a set of images: one pass for each set and extractor, kept on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from monai.inferers import Inferer, SimpleInferer
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from bundle.evaluation.extractors import Extractor
from bundle.evaluation.sets import ImageSet
from bundle.runs.files import write_atomically
from bundle.runs.sums import content_hash

logger = logging.getLogger(__name__)

FORMAT = "histodiffusion-features/1"


class FeatureCache:
    """Features [N, D] by set and extractor, in `<extractor>_<hash>.safetensors`; a file says itself what it is of.

    Args:
        folder: where they are kept.
        batch_size: images at once.
        inferer: how an extractor is applied to a batch; None calls it.
    """

    def __init__(self, folder: str | Path, batch_size: int = 64, inferer: Inferer | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.batch_size = batch_size
        self.inferer = inferer or SimpleInferer()

    def features(self, images: ImageSet, extractor: Extractor) -> torch.Tensor:
        """fp32 [N, D], in the order of the images; from the disk, or computed now and kept.

        Raises:
            ValueError: features that are not finite; names the image and the extractor.
        """
        path, facts = self.path(images, extractor), self.facts(images, extractor)
        if path.is_file():
            try:
                return _read(path, facts)
            except Exception as error:
                logger.warning(f"{path} can't be used ({error}): its features are computed again")
        found = self._compute(images, extractor)
        write_atomically(path, lambda temporary: save_file({"features": found}, temporary, facts), size=found.nbytes)
        return found

    def path(self, images: ImageSet, extractor: Extractor) -> Path:
        """The file for the features of a set; the same for the same pixels, classes and weights."""
        key = content_hash([FORMAT, images.fingerprint, extractor.identity])
        return self.folder / f"{extractor.name}_{key[:20]}.safetensors"

    def facts(self, images: ImageSet, extractor: Extractor) -> dict[str, str]:
        """What the file says of its content, as text."""
        return {
            "format": FORMAT,
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "resize": extractor.resize,
            "images": str(len(images)),
            "fingerprint": images.fingerprint,
            "set": images.name,
            "origin": json.dumps(images.origin, sort_keys=True),
        }

    def _compute(self, images: ImageSet, extractor: Extractor) -> torch.Tensor:
        found = torch.empty(len(images), extractor.dimension)
        start = 0
        total = -(-len(images) // self.batch_size)
        title = f"{extractor.name}, {images.name}"
        for batch in tqdm(images.batches(self.batch_size), title, total, leave=False):
            features = self.inferer(batch, extractor)
            broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
            if broken:
                raise ValueError(
                    f"the extractor {extractor.name} gives features that are not finite for "
                    f"{images.files[start + broken[0]]} of the {images.name}, and for {len(broken) - 1} more of its "
                    "batch. Its weights are broken, or it can't compute on this --device: leave it out of "
                    "--extractors, or give other weights"
                )
            found[start : start + len(batch)] = features
            start += len(batch)
        return found


# The same pixels and classes may have been features of another set before: where they came from is not compared.
COMPARED = ("format", "extractor", "weights_sha256", "resize", "images", "fingerprint")


def _read(path: Path, facts: dict[str, str]) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        said, found = file.metadata() or {}, file.get_tensor("features")
    wrong = [name for name in COMPARED if said.get(name) != facts[name]]
    if wrong:
        raise ValueError(f"its {wrong[0]} is {said.get(wrong[0])!r}, expected {facts[wrong[0]]!r}")
    if found.dtype != torch.float32 or found.ndim != 2 or len(found) != int(facts["images"]):
        raise ValueError(f"it holds {found.dtype} {list(found.shape)} for {facts['images']} images")
    if not found.isfinite().all():
        raise ValueError("it holds numbers that are not finite")
    return found
