"""Networks that turn images into features, each named with its weights, so that no figure is without them.

None is ever downloaded. The default is the judge of the adaptation, in grey and in colour; others are given by their
files. "FID" is said only of the Inception network and the weights that the name stands for.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn.functional import interpolate

from bundle.data.transforms import scale_patch
from bundle.data.views import VIEWS
from bundle.evaluation.encoders import EncoderNetwork
from bundle.evaluation.extractor_settings import FID_WEIGHTS, INCEPTION, by_name, checked, kind_of, weights_file
from bundle.models.feature_classifier import MONAI_RESNET, FeatureClassifier, known_model
from bundle.models.foreign_weights import reason_of
from bundle.models.torchscript import load_torchscript
from bundle.runs.sums import content_hash
from bundle.selection.scorer import Scorer
from bundle.training.judge import Judge


class Extractor:
    """A network from images to features.

    Args:
        name: in tables and file names.
        title: of the Fréchet distance in its features.
        weights_sha256: of the file of its weights, or of the weights themselves.
        resize: how images come to the size that the network takes, and how they are scaled.
        apply: uint8 [B, 3, S, S] -> fp32 [B, D].
        side: S, of images that it is tried with.
        about: further plain facts of it.

    Attributes:
        dimension: D.

    Raises:
        ValueError: the network does not give a row of finite numbers for an image.
    """

    def __init__(
        self,
        name: str,
        title: str,
        weights_sha256: str,
        resize: str,
        apply: Callable[[torch.Tensor], torch.Tensor],
        side: int,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.weights_sha256 = weights_sha256
        self.resize = resize
        self._apply = apply
        self.about = dict(about or {})
        blank = self(torch.full((2, 3, side, side), 200, dtype=torch.uint8))
        if not blank.isfinite().all():
            raise ValueError(
                f"the extractor {name} gives features that are not finite for a blank image: its weights are broken, "
                "or it can't compute on this --device. Leave it out of --extractors, or give other weights"
            )
        self.dimension = blank.shape[1]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """fp32 [B, D] on the CPU, of uint8 RGB [B, 3, S, S]."""
        with torch.inference_mode():
            features = self._apply(images)
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(images):
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ValueError(f"the extractor {self.name} gives {found} for {len(images)} images; it must give [B, D]")
        return features.float().cpu().clone()

    def describe(self) -> dict[str, Any]:
        """Plain facts, for `evaluation.json`."""
        facts = {"name": self.name, "title": self.title, "weights_sha256": self.weights_sha256}
        return {**facts, "resize": self.resize, "dimension": self.dimension, **self.about}

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the features, besides the images."""
        return content_hash(self.describe())


class Extractors:
    """The extractors that a setting names. Nothing is read before they are used.

    Args:
        settings: names ("judge_colour", "judge_grey", "judge_normalised", "scorer") and dictionaries of own ones:
            {"name": "inception", "weights": FILE}; the same with the name of a published encoder (see
            `bundle.evaluation.encoders`); {"name", "trunk": timm's name, "weights": FILE}, with "input_side"
            (timm's by default) and "arguments" where wished; or {"name", "torchscript": FILE, "sha256"}, with
            "input_side", "mean" and "std" where wished. A "sha256" of the weights' file is checked where it is given.
            A TorchScript file is a program and runs with all that you may do, so its SHA-256 is required.
        side: of the images.
        adapted_dir: where the judge is.
        scorer_dir: where `scorer.pt` is.
        classes: gives the class names, in order, that the judge must know.
        device: where to compute.
        batch_size: images at once.
        extractor: a published encoder besides those of `settings`: uni2-h, phikon-v2, virchow2, h-optimus-0, conch,
            gigapath, ctranspath or dinov2.
        extractor_weights: the file of its weights, which its publisher gives; none is downloaded.

    Raises:
        ValueError: a name that is none, or settings that lack something; says what is needed.
    """

    def __init__(
        self,
        settings: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any],
        side: int,
        adapted_dir: str | Path,
        scorer_dir: str | Path | None = None,
        classes: Callable[[], list[str]] | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        extractor: str | None = None,
        extractor_weights: str | Path | None = None,
    ) -> None:
        if isinstance(settings, (str, Mapping)):  # as a command line gives one alone
            settings = [settings]
        if not isinstance(settings, Sequence) or not settings:
            raise ValueError(f"--extractors is {settings!r}; at least one is needed, such as judge_grey")
        self.settings = [checked(one) for one in (*settings, *by_name(extractor, extractor_weights))]
        self.names = [one if isinstance(one, str) else one["name"] for one in self.settings]
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"--extractors names {twice[0]!r} twice: give each a name of its own")
        if "scorer" in self.names and scorer_dir is None:
            raise ValueError(
                "--extractors names 'scorer': say where scorer.pt is with --scorer_dir, such as runs/select"
            )
        self.side = side
        self.adapted_dir = Path(adapted_dir).expanduser()
        self.scorer_dir = None if scorer_dir is None else Path(scorer_dir).expanduser()
        self.classes = classes
        self.device = torch.device(device)
        self.batch_size = batch_size
        self._judge: Judge | None = None

    @property
    def judge(self) -> Judge:
        """The judge of the adaptation, read once.

        Raises:
            FileNotFoundError, ValueError: there is none, or one of other classes.
        """
        if self._judge is None:
            missing = [view for view in VIEWS if not (self.adapted_dir / f"judge_{view}.pt").is_file()]
            if missing:
                raise FileNotFoundError(
                    f"--adapted_dir {self.adapted_dir} has no judge_{missing[0]}.pt. Adapt first (configs/adapt.json; "
                    "a judge needs labelled images that nothing else learns from), name the folder of an adaptation "
                    "that has one, or do without: other --extractors and --sections without agreement"
                )
            self._judge = Judge(self.adapted_dir, self.device, None if self.classes is None else self.classes())
        return self._judge

    @functools.cached_property
    def networks(self) -> list[Extractor]:
        """The networks, each tried on a blank image.

        Raises:
            FileNotFoundError: weights are missing, with what supplies them.
            ValueError: weights of another network, or with another SHA-256 than was given.
            ImportError: a package is missing; says how to install it.
        """
        return [self._make(setting) for setting in self.settings]

    def _make(self, setting: str | dict[str, Any]) -> Extractor:
        if setting == "scorer":
            return self._scorer()
        if isinstance(setting, str):
            return self._of_judge(setting.removeprefix("judge_"))
        make = {"trunk": self._timm, "torchscript": self._torchscript, INCEPTION: self._inception, "known": self._known}
        return make[kind_of(setting)](**setting)

    def _extractor(
        self,
        name: str,
        sha256: str,
        resize: str,
        apply: Callable,
        title: str | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Extractor:
        title = title or f"Fréchet distance in {name} features"
        return Extractor(name, title, sha256, resize, apply, self.side, about)

    def _of_judge(self, view: str) -> Extractor:
        judge = self.judge

        def apply(images: torch.Tensor) -> torch.Tensor:
            return judge.features(scale_patch(images), view)

        return self._extractor(f"judge_{view}", judge.fingerprints[view], "none, [-1, 1]", apply)

    def _scorer(self) -> Extractor:
        scorer = Scorer(self.scorer_dir / "scorer.pt", self.device, batch_size=self.batch_size)
        sha256 = scorer.fingerprints["features"]
        side = scorer.network.input_side
        resize = "none, [-1, 1]" if side == self.side else f"bicubic with antialiasing to {side}, [-1, 1]"
        return self._extractor("scorer", sha256, resize, lambda images: scorer.score(images)[1])

    def _timm(
        self,
        name: str,
        trunk: str,
        weights: str,
        sha256: str | None = None,
        input_side: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Extractor:
        path, found = weights_file(name, weights, sha256)
        side = self.side if trunk == MONAI_RESNET else known_model(trunk).input_size[-1]
        side = input_side or side
        network = FeatureClassifier(trunk, 0, self.side, input_side=side, arguments=arguments)
        network.load_trunk(path)
        network = network.to(self.device).eval().requires_grad_(False)
        colours = [[round(value, 4) for value in of.flatten().tolist()] for of in (network.mean, network.std)]
        resize = f"bicubic with antialiasing to {side}, mean {colours[0]}, standard deviation {colours[1]}"
        if arguments:
            resize += f", {trunk} with {arguments}"
        return self._extractor(name, found, resize, lambda images: network(scale_patch(images.to(self.device))))

    def _torchscript(
        self,
        name: str,
        torchscript: str,
        sha256: str,
        input_side: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> Extractor:
        path, found = weights_file(name, torchscript, sha256)
        network = load_torchscript(path, self.device)
        side = input_side or self.side
        shift, scale = (torch.tensor(of, device=self.device).view(1, 3, 1, 1) for of in (mean, std))

        def apply(images: torch.Tensor) -> torch.Tensor:
            images = images.to(self.device).float() / 255
            if side != self.side:
                size = (side, side)
                images = interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            return network((images - shift) / scale)

        resize = "none" if side == self.side else f"bicubic with antialiasing to {side}"
        resize += f", mean {list(mean)}, standard deviation {list(std)}"
        return self._extractor(name, found, resize, apply)

    def _known(self, name: str, weights: str, sha256: str | None = None) -> Extractor:
        path, found = weights_file(name, weights, sha256)
        network = EncoderNetwork(name).load(path).to(self.device)
        resize = f"bicubic with antialiasing to {network.known.side}, mean {list(network.known.mean)}, standard "
        resize += f"deviation {list(network.known.std)}"
        return self._extractor(
            name, found, resize, lambda images: network(scale_patch(images.to(self.device))), about=network.describe()
        )

    def _inception(self, name: str, weights: str, sha256: str | None = None) -> Extractor:
        path, found = weights_file(name, weights, sha256)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError(
                "the extractor inception needs the package torch-fidelity, which is not installed: pip install "
                "torch-fidelity"
            ) from error
        try:
            # torch-fidelity would unpickle whatever the file holds, so it gets what was read as weights alone.
            content = io.BytesIO()
            torch.save(timm.models.load_state_dict(path, device="cpu", weights_only=True), content)
            content.seek(0)
            network = FeatureExtractorInceptionV3(name, ["2048"], feature_extractor_weights_path=content)
        except Exception as error:
            raise ValueError(
                f"{path} does not hold the weights of the Inception network of FID ({reason_of(error)}). They are "
                f"weights-inception-2015-12-05-{FID_WEIGHTS}.pth of github.com/toshas/torch-fidelity/releases"
            ) from error
        network = network.to(self.device)
        title = "FID" if found.startswith(FID_WEIGHTS) else "Fréchet distance in features of Inception of other weights"
        resize = "bilinear to 299 as TensorFlow 1 does it, (v - 128) / 128"
        return self._extractor(name, found, resize, lambda images: network(images.to(self.device))[0], title)
