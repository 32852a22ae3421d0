"""A frozen pre-trained trunk with a linear head: features once a picture, kept on disk; then seconds a row."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from bundle.data.transforms import scale_patch
from bundle.downstream.proof.imagery import Pictures, Ref, is_drawn
from bundle.downstream.proof.treatments import PLAIN
from bundle.models.artefacts import fingerprint, load_artefact
from bundle.models.classifiers import EncoderClassifier
from bundle.models.feature_classifier import FeatureClassifier, known_model
from bundle.runs.files import write_atomically
from bundle.runs.precision import autocast_dtype
from bundle.runs.sums import content_hash

logger = logging.getLogger(__name__)

KEPT = 1024  # pictures between writings of the cache: what an interruption can lose
GET = {"tf_efficientnet_lite0": "efficientnet-lite0"}  # names that scripts/get_weights.py has


class Trunk:
    """A pre-trained network without its head, whose weights are the user's.

    Args:
        name: one of timm's.
        weights: file of its weights.
        side: pixels a side of the pictures.
        input_side: pixels a side that it sees them at; None for `side`.
        arguments: further arguments of the network; "mean" and "std" of the colours that it was trained with, of three
            channels in [0, 1], where they aren't those that timm knows it by.
        device: where it computes.
        batch_size: pictures at once.
        precision: see `bundle.runs.context.RunContext`.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path,
        side: int,
        input_side: int | None = None,
        arguments: dict[str, Any] | None = None,
        device: Any = "cpu",
        batch_size: int = 32,
        precision: str = "auto",
    ) -> None:
        known_model(name)
        self.name = name
        self.weights = Path(weights).expanduser()
        self.side = side
        self.input_side = input_side or side
        self.arguments = dict(arguments or {})
        self.colours = {name: self.arguments.pop(name) for name in ("mean", "std") if name in self.arguments}
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.dtype = autocast_dtype(precision, self.device)

    def require_weights(self) -> None:
        """Raises:
        FileNotFoundError: there is no such file; says how to get one.
        """
        if not self.weights.is_file():
            own = GET.get(self.name.split(".")[0])
            way = (
                f"get it with: python scripts/get_weights.py {own} --output_dir {self.weights.parent}"
                if own
                else "weights are not downloaded here: give a file that you have (docs/how-to/study.md names some)"
            )
            raise FileNotFoundError(f"--trunk_weights: {self.weights}, of the trunk {self.name}, is missing; {way}")

    @functools.cached_property
    def network(self) -> torch.nn.Module:
        """The network, frozen.

        Raises:
            FileNotFoundError, ValueError: weights are missing, or of another network.
        """
        self.require_weights()
        network = FeatureClassifier(self.name, 0, self.side, input_side=self.input_side, arguments=self.arguments)
        network.load_trunk(self.weights)
        for name, values in self.colours.items():
            getattr(network, name).copy_(torch.tensor(values).view(1, 3, 1, 1))
        return network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all that decides the features."""
        return content_hash(
            [self.name, fingerprint(self.network.state_dict()), self.side, self.input_side, str(self.dtype)]
            + ([self.colours] if self.colours else [])
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features [B, D] of uint8 pictures [B, 3, S, S]."""
        images = scale_patch(images.to(self.device, memory_format=torch.channels_last))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network.features(images).float().cpu()


class EncoderTrunk(Trunk):
    """The encoder of the pre-trained autoencoder: mean and spread over each channel of its last feature map.

    Args:
        pretrained_dir: folder of the pre-training.
        side, device, batch_size: see Trunk.
    """

    def __init__(self, pretrained_dir: str | Path, side: int, device: Any = "cpu", batch_size: int = 32) -> None:
        self.name = "autoencoder"
        self.weights = Path(pretrained_dir).expanduser() / "autoencoder.pt"
        self.side = side
        self.device = torch.device(device)
        self.batch_size = batch_size

    @functools.cached_property
    def network(self) -> torch.nn.Module:
        autoencoder, facts = load_artefact(self.weights, "autoencoder")
        self.input_side = facts["patch_size"]
        whole = EncoderClassifier(dict(facts["definition"]), 2, self.input_side, [], 1, 1)
        whole.load_trunk(autoencoder.state_dict())
        return whole.encoder.to(self.device).eval().requires_grad_(False)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.network and self.input_side,) * 2
        images = scale_patch(images.to(self.device))
        images = torch.nn.functional.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        maps = self.network(images.clamp(-1, 1)).flatten(2).float()
        return torch.cat([maps.mean(-1), maps.std(-1)], dim=1).cpu()

    @functools.cached_property
    def digest(self) -> str:
        return content_hash([self.name, fingerprint(self.network.state_dict()), self.side, self.input_side])


class Features:
    """Features of pictures, each computed once and kept by the hash of the picture.

    Args:
        trunk: what computes them.
        pictures: of the study.
        folder: where they are kept; may be shared by several studies.
    """

    def __init__(self, trunk: Trunk, pictures: Pictures, folder: str | Path) -> None:
        self.trunk = trunk
        self.pictures = pictures
        self.cache = Path(folder)
        self._kept: dict[str, tuple[dict[str, int], torch.Tensor]] = {}

    def __call__(self, refs: Sequence[Ref], treatment: str = PLAIN, copy: int = 0) -> np.ndarray:
        """float32 [N, D]; `copy` counts where the treatment draws."""
        copy = copy if is_drawn(treatment) else 0
        name = f"{self.pictures.identity(treatment)}_{copy}"
        digests = [self.pictures.digest(ref) for ref in refs]
        places, _ = self._read(name)
        missing = {digest: ref for digest, ref in zip(digests, refs) if digest not in places}
        if missing:
            self._add(name, list(missing.items()), treatment, copy)
        places, features = self._kept[name]
        return features[[places[digest] for digest in digests]].numpy()

    def _path(self, name: str) -> Path:
        return self.cache / self.trunk.digest[:16] / f"{name}.safetensors"

    def _read(self, name: str) -> tuple[dict[str, int], torch.Tensor]:
        if name not in self._kept:
            path = self._path(name)
            content = load_file(path) if path.is_file() else {"hashes": torch.empty(0, 32, dtype=torch.uint8)}
            hashes = [bytes(row).hex() for row in content["hashes"].numpy()]
            places = {digest: place for place, digest in enumerate(hashes)}
            self._kept[name] = places, content.get("features", torch.empty(0))
        return self._kept[name]

    def _add(self, name: str, missing: Sequence[tuple[str, Ref]], treatment: str, copy: int) -> None:
        bar = tqdm(total=len(missing), desc=f"features: {name}", unit="picture", leave=False)
        for first in range(0, len(missing), KEPT):
            chunk = missing[first : first + KEPT]
            found = []
            for start in range(0, len(chunk), self.trunk.batch_size):
                refs = [ref for _, ref in chunk[start : start + self.trunk.batch_size]]
                images = np.stack([self.pictures.picture(ref, treatment, copy) for ref in refs])
                with torch.inference_mode():
                    found.append(self.trunk(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
                bar.update(len(refs))
            places, features = self._kept[name]
            places = places | {digest: len(places) + at for at, (digest, _) in enumerate(chunk)}
            features = torch.cat([features, *found]) if len(features) else torch.cat(found)
            hashes = torch.tensor([list(bytes.fromhex(digest)) for digest in places], dtype=torch.uint8)
            content = {"hashes": hashes, "features": features.clone().contiguous()}
            write_atomically(
                self._path(name), lambda temporary, content=content: save_file(content, temporary), size=features.nbytes
            )
            self._kept[name] = places, content["features"]
        bar.close()


def fit_head(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, C: float = 0.01, balanced: bool = False
) -> Pipeline:
    """A logistic regression on standardised features.

    Args:
        features: [N, D].
        labels: int [N].
        weights: of the rows, [N]; None for 1 each.
        C: scikit-learn's inverse strength of the penalty on the squared weights.
        balanced: whether classes weigh the same.
    """
    head = LogisticRegression(C=C, max_iter=2000, class_weight="balanced" if balanced else None)
    return make_pipeline(StandardScaler(), head).fit(features, labels, logisticregression__sample_weight=weights)
