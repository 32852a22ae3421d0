"""Pools of a baseline's images: seeds and classes in, images out, by the evaluator and the pool of every synthesis.

A baseline is a network class with a method `draw(noise, labels, truncation) -> images`: `noise` is a
`bundle.runs.randomness.ImageNoise`, labels are int64 [B], images [B, 3, S, S] in [-1, 1]. Its trained weights are an
artefact `<baseline>.pt` of the kind `<baseline>`, with the facts `classes` and `patch_size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer

from bundle.baselines.stylegan2.networks import StyleGAN2Generator
from bundle.baselines.vit_cgan.networks import VitGenerator
from bundle.models.artefacts import complete, load_artefact
from bundle.runs.precision import autocast_dtype
from bundle.runs.randomness import ImageNoise
from bundle.runs.sums import content_hash

# Name in pools, and the class of the network.
BASELINES = {"stylegan2": ("StyleGAN2", StyleGAN2Generator), "vit_cgan": ("ViT-cGAN", VitGenerator)}


class BaselineGenerator(torch.nn.Module):
    """The trained generator of a baseline, frozen and in evaluation mode. Nothing is read before :meth:`prepare`.

    Args:
        baseline: of `BASELINES`.
        baseline_dir: output folder of its training.
        device: where to compute.

    Attributes (after :meth:`prepare`):
        generator: the network, fp32.
        classes: names, in the order of the label numbers.
        patch_size: pixels a side.
        fingerprint: SHA-256 over all that decides what the network computes.

    Raises:
        ValueError: an unknown baseline.
    """

    def __init__(self, baseline: str, baseline_dir: str | Path, device: torch.device | str = "cpu") -> None:
        super().__init__()
        if baseline not in BASELINES:
            raise ValueError(f"--baseline is {baseline!r}; it must be one of {', '.join(BASELINES)}")
        self.baseline = baseline
        self.baseline_dir = Path(baseline_dir).expanduser()
        self.device = torch.device(device)
        self.classes: list[str] = []

    @property
    def title(self) -> str:
        return BASELINES[self.baseline][0]

    def prepare(self) -> BaselineGenerator:
        """Reads the network, once.

        Raises:
            FileNotFoundError: it has not been trained; says which command does.
            ValueError: the file holds something else.
        """
        if self.classes:
            return self
        path = self.baseline_dir / f"{self.baseline}.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"--baseline_dir {self.baseline_dir} has no {path.name}. Train first (python -m monai.bundle run "
                f"training --config_file configs/{self.baseline}.json), or name the folder of a finished training"
            )
        network, facts = load_artefact(path, self.baseline, (BASELINES[self.baseline][1],))
        self.generator = network.to(self.device).requires_grad_(False)
        with complete(path):
            self.patch_size = facts["patch_size"]
            self.fingerprint = content_hash([facts["fingerprint"], facts["classes"], facts["patch_size"]])
        self.classes = facts["classes"]
        return self


class BaselineInferer(Inferer):
    """Images of seeds and classes by a generator; an image depends on its class and seed alone.

    Args:
        truncation: psi in [0, 1]: how far styles are from the mean one of their class (Karras et al., arXiv 1812.04948,
            section 3.2); 1 leaves them as they are. Smaller ones buy quality with variety, which an augmentation needs.
        precision: "fp32", "bf16" or "auto" (bf16 where the hardware computes in it). bf16 has half the levels of an
            8-bit picture near white.

    Attributes:
        ratios: empty; what `bundle.synthesis.run` measures of guidance.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, truncation: float = 1.0, precision: str = "fp32") -> None:
        if not 0 <= truncation <= 1:
            raise ValueError(f"--truncation is {truncation}; it must lie between 0 and 1")
        autocast_dtype(precision, torch.device("cpu"))  # refuses an unknown one
        self.truncation = float(truncation)
        self.precision = precision
        self.ratios: list[float] = []

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor | Sequence[int], network: BaselineGenerator, labels: torch.Tensor, **unused: Any
    ) -> torch.Tensor:
        """Images of one batch.

        Args:
            inputs: the seed of each image, int64 [B].
            network: the generator; it is prepared here where nobody has.
            labels: the class of each image, int64 [B].

        Returns:
            fp32 [B, 3, S, S] in [-1, 1], on the CPU.
        """
        network.prepare()
        noise = ImageNoise(torch.as_tensor(inputs).tolist(), network.device)
        dtype = autocast_dtype(self.precision, network.device)
        with torch.autocast(network.device.type, dtype, enabled=dtype != torch.float32):
            images = network.generator.draw(noise, torch.as_tensor(labels).to(network.device), self.truncation)
        return images.float().clamp(-1, 1).cpu()

    def settings(self, network: BaselineGenerator) -> dict[str, Any]:
        """All settings that decide the pixels, as plain data."""
        network.prepare()
        precision = str(autocast_dtype(self.precision, network.device)).removeprefix("torch.")
        return {"truncation": self.truncation, "precision": precision}

    def identity(self, network: BaselineGenerator) -> dict[str, Any]:
        """The identity of a pool of these images, see `bundle.synthesis.pool.Pool`."""
        settings = self.settings(network)
        return {"generator": network.title, "model": network.fingerprint, "settings": settings}
