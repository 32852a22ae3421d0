"""The network of a synthesis as one module: noise in, patches out. What MONAI verifies, exports and loads."""

from __future__ import annotations

from pathlib import Path

import torch

from bundle.diffusion.sampling import Sampling, sample_from_noise
from bundle.diffusion.traced_guidance import TraceableGuidance
from bundle.models.adapted import AdaptedModels
from bundle.runs.checks import check_counts
from bundle.synthesis.inferers import GuidedLatentInferer

# The one sampler that is deterministic and good in few steps: all the randomness is in the noise that comes in.
SAMPLER = "dpm_solver++"
SPACING = "linspace"


class PatchGenerator(AdaptedModels):
    """Latent noise to RGB patches: DPM-Solver++(2M), then the decoder, in fp32.

    Called like a network it takes one tensor, so MONAI's `verify_net_in_out` and `ckpt_export --use_trace True` can
    call it. As :class:`AdaptedModels` it is also what :class:`GuidedLatentInferer`, with samplers and classes of its
    own, makes a pool with; the settings here don't touch that.

    Args:
        adapted_dir, device, decoder, compile: see :class:`AdaptedModels`.
        num_inference_steps: network evaluations of one image.
        name: class that every image is guided to, by the classifier; None for no guidance.
        inferer: how it is guided: scale, interval, limit and temperature. None for a `GuidedLatentInferer`'s defaults.

    Raises:
        ValueError: fewer steps than one.
    """

    def __init__(
        self,
        adapted_dir: str | Path,
        device: torch.device | str = "cpu",
        decoder: str = "adapted",
        compile: bool = False,
        num_inference_steps: int = 10,
        name: str | None = None,
        inferer: GuidedLatentInferer | None = None,
    ) -> None:
        super().__init__(adapted_dir, device, decoder, compile)
        check_counts(**{"network_def#num_inference_steps": num_inference_steps})
        self.num_inference_steps = num_inference_steps
        self.name = name
        self.inferer = inferer or GuidedLatentInferer()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Patches of noise.

        Args:
            image: standard normal [B, C, h, w], of the latents' channels. A guided generator takes the side of the
                latents that the classifier was trained on, an unguided one all that its networks can halve.

        Returns:
            fp32 RGB [B, 3, S, S] in [-1, 1].

        Raises:
            ValueError: noise of other channels, more steps than the schedule has, or a class that nobody knows.
        """
        self.prepare()
        channels = len(self.latent["mean"])
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(f"the noise has the shape {list(image.shape)}; the generator takes [B, {channels}, h, w]")
        return sample_from_noise(
            self,
            image,
            Sampling(self.num_inference_steps, sampler=SAMPLER, spacing=SPACING),
            guidance=None if self.name is None else self._guidance(len(image)),
        )

    def _guidance(self, count: int) -> TraceableGuidance:
        if self.name not in self.classes:
            raise ValueError(f"--generator_class is {self.name!r}; the model knows {', '.join(self.classes)}")
        if torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting():
            raise NotImplementedError(
                f"guidance to a class does not go into ONNX: leave out --generator_class {self.name}, or export to "
                "TorchScript (python -m monai.bundle ckpt_export --use_trace True)"
            )
        labels = torch.full((count,), self.classes.index(self.name))
        return self.inferer.guidance(self, labels, kind=TraceableGuidance)
