"""The scorer of selective augmentation, as it is used: how sure it is of a picture's class, and what it sees there.

Source: the selection of Ye et al. (arXiv 2308.04020), which points to Xue et al. (Med Image Anal 2021, arXiv
2111.06399): the expectation of the softmax over passes of Monte-Carlo dropout (Gal & Ghahramani, ICML 2016), and
features of the same network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bundle.data.transforms import scale_patch
from bundle.data.views import look_at
from bundle.models.artefacts import fingerprint
from bundle.models.feature_classifier import FeatureClassifier
from bundle.runs.opening import OpenedOnUse
from bundle.selection.scores import entropy, entropy_limits
from bundle.training.classifier import load_classifier


class Scorer(OpenedOnUse):
    """A trained scorer: classes and features of pictures.

    Nothing is read before :meth:`prepare`, which whatever needs the network calls by itself.

    Args:
        path: its artefact, `scorer.pt`.
        device: where to compute.
        features: what distances are measured in instead of the scorer's own pooled features: a module from images
            [B, 3, S, S] in [-1, 1] to [B, D], or a function that gives one or None.
        batch_size: images at once.

    Attributes:
        classes: names in the order of the probabilities.
        facts: what the artefact holds besides the weights.
    """

    opened = ("network", "facts", "classes", "masks", "_features")

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str = "cpu",
        features: torch.nn.Module | Callable[[], torch.nn.Module | None] | None = None,
        batch_size: int = 64,
    ) -> None:
        self.path = Path(path).expanduser()
        self.device = torch.device(device)
        self.given_features = features
        self.batch_size = batch_size

    def open(self) -> None:
        """Reads the network.

        Raises:
            FileNotFoundError, ValueError: there is none, or one that can't be read.
        """
        network, self.facts = load_classifier(self.path, "scorer")
        self.classes = self.facts["classes"]
        self.masks = self.facts["dropout_masks"].to(self.device)
        self._features = self.feature_extractor()
        self.network = network.to(self.device)

    def feature_extractor(self) -> torch.nn.Module | None:
        """The module that was given for the features, frozen; None for the scorer's own.

        Raises:
            FileNotFoundError, ValueError: its weights are missing, or those of another network.
        """
        if "_features" in self.__dict__:
            return self._features
        given = self.given_features
        module = given if given is None or isinstance(given, torch.nn.Module) else given()
        return None if module is None else module.to(self.device).eval().requires_grad_(False)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the weights that probabilities and features come from."""
        scorer = self.facts["fingerprint"]
        return {
            "scorer": scorer,
            "features": scorer if self._features is None else fingerprint(self._features.state_dict()),
        }

    def entropy_limits(self, quantile: float) -> torch.Tensor:
        """The entropy of each class up to which an image counts as confidently classified, float64 [K] in nats.

        By scorers of the same recipe, each on the labelled images that it wasn't trained on; see
        :func:`bundle.selection.scores.entropy_limits`.
        """
        probabilities, labels = (self.facts["out_of_fold"][name] for name in ("probabilities", "labels"))
        return entropy_limits(entropy(probabilities), labels, probabilities.argmax(1), len(self.classes), quantile)

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected softmax, float64 [N, K], and features, fp32 [N, D], of uint8 images [N, 3, S, S]; on the CPU.

        The images are as they are in the pool; here they are brought to the view that the scorer was trained in.

        Raises:
            ValueError: images of another size than the scorer was trained with.
        """
        scored = [self._score(*batch) for batch in full_batches(images, self.batch_size)]
        return tuple(torch.cat(parts) for parts in zip(*scored))

    @torch.no_grad()
    def _score(self, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = scale_patch(look_at(images, self.facts["view"]).to(self.device))
        # Dropout comes behind the pooled features: they are the same in all passes, and so is their average.
        features = self.network.features(images).float()
        probabilities = expected_softmax(self.network, features, self.masks)
        if self._features is not None:
            features = self._features(images).float()
        return probabilities[:count].cpu(), features[:count].cpu()


def full_batches(images: torch.Tensor, batch_size: int) -> list[tuple[torch.Tensor, int]]:
    """Batches of the same size, the last one filled up with black, and how many images each has.

    The size of a batch changes how a convolution is computed, and with it the last digits of the result.
    """
    batches = []
    for batch in images.split(batch_size):
        count = len(batch)
        filling = batch.new_zeros(batch_size - count, *batch.shape[1:])
        batches.append((torch.cat([batch, filling]), count))
    return batches


def dropout_masks(network: FeatureClassifier, passes: int, seed: int) -> torch.Tensor:
    """What the pooled features are multiplied by in each pass of Monte-Carlo dropout, fp32 [T, D].

    They are drawn once, so that all images meet the same T networks, and what is said of an image depends on no other.
    One pass, or a network without dropout, is a pass of the whole network.
    """
    share, size = network.dropout.p, network.head.in_features
    if passes == 1 or share == 0:
        return torch.ones(1, size)
    kept = torch.rand(passes, size, generator=torch.Generator().manual_seed(seed)) >= share
    return kept.float() / (1 - share)


def expected_softmax(network: FeatureClassifier, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean over the passes of the softmax, float64 [N, K], of pooled features [N, D] and masks [T, D]."""
    return network.head(features[:, None] * masks).double().softmax(-1).mean(1)


def load_feature_extractor(
    trunk: str | None,
    weights: str | Path | None,
    side: int,
    input_side: int | None = None,
    arguments: dict[str, Any] | None = None,
) -> FeatureClassifier | None:
    """A timm model with weights from this machine, as a module from images to pooled features; None without a name.

    Args:
        trunk: name of a timm model; None for the scorer's own features.
        weights: file of its weights.
        side: pixels a side of the images.
        input_side: pixels a side that images are resized to for the trunk; None for their own.
        arguments: further arguments of the model.

    Raises:
        FileNotFoundError, ValueError: a name without weights or weights without a name, or ones that don't fit.
    """
    if (trunk is None) != (weights is None):
        missing, given = ("weights", f"trunk {trunk}") if weights is None else ("trunk", f"weights {weights}")
        raise ValueError(
            f"--feature_{given} is given without --feature_{missing}: distances in features of random weights would "
            "mean nothing. Give both, or neither for the scorer's own features"
        )
    if trunk is None:
        return None
    network = FeatureClassifier(trunk, 0, side, input_side=input_side, arguments=arguments)
    network.load_trunk(weights)
    return network
