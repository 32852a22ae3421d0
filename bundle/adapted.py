"""What synthesis starts from: the networks of an adaptation, checked against each other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from bundle.artefacts import build_from_definition, load_artefact, load_weights, read_artefact, require_same
from bundle.diffusion.schedule import NoiseSchedule
from bundle.engines.classifier import load_classifier
from bundle.pool import content_hash

logger = logging.getLogger(__name__)

DECODERS = ("adapted", "pretrained")


class AdaptedModels(torch.nn.Module):
    """Autoencoder, diffusion model and latent classifier of an adaptation, frozen and in evaluation mode.

    Nothing is read before :meth:`prepare`, which whatever needs the networks calls by itself.

    Args:
        adapted_dir: output folder of an adaptation; needs autoencoder.pt, decoder.pt, diffusion.pt and
            latent_classifier.pt.
        device: where the networks will be; `to()` changes it before and after.
        decoder: "adapted", or "pretrained" for the decoder as it was before Eq. 5 of arXiv 2308.04020.
        compile: whether diffusion model and classifier, with its gradient, go through torch.compile.

    Attributes (after :meth:`prepare`):
        autoencoder, diffusion, classifier: the networks, fp32.
        classes: names, in the order of the label numbers.
        schedule: the forward process.
        latent: "scale", and "mean" and "std" of each channel.
        patch_size: pixels a side.
        temperature: what the adaptation fitted, for dividing the classifier's logits by.
        maximum_timestep: the classifier knows noise levels below it.
        fingerprint: SHA-256 over all that decides what the networks compute.

    Raises:
        ValueError: an unknown decoder.
    """

    def __init__(
        self,
        adapted_dir: str | Path,
        device: torch.device | str = "cpu",
        decoder: str = "adapted",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise ValueError(f"--decoder is {decoder!r}; it must be one of {', '.join(DECODERS)}")
        self.adapted_dir = Path(adapted_dir).expanduser()
        self.decoder = decoder
        self.compiled = compile
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)  # `to()` moves it
        self.classes: list[str] = []
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.place.device

    def train(self, mode: bool = True) -> AdaptedModels:
        """Stays in evaluation mode, whatever is asked: the networks are frozen."""
        return super().train(False)

    def prepare(self) -> AdaptedModels:
        """Reads and checks the networks, once.

        Raises:
            FileNotFoundError: one is missing; says which command makes it.
            ValueError: they don't belong together; both files are named.
        """
        if self.classes:
            return self
        files = {kind: str(self._file(kind)) for kind in self._kinds()}
        facts = read_artefact(files["autoencoder"], "autoencoder")
        diffusion, process = load_artefact(files["diffusion"], "diffusion")
        classifier, known = load_classifier(files["latent_classifier"], "latent_classifier")
        others = {"diffusion": process, "latent_classifier": known}
        if self.decoder == "adapted":
            others["decoder"] = read_artefact(files["decoder"], "decoder")
        self._require_match(files, facts, others)
        autoencoder = build_from_definition(facts["definition"])
        decoder = others.get("decoder", {"weights": {}, "fingerprint": None})
        load_weights(autoencoder, {**facts["weights"], **decoder["weights"]}, list(files.values())[-1])
        self.autoencoder, self.diffusion, self.classifier = (
            network.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()
            for network in (autoencoder, diffusion, classifier)
        )
        if self.compiled:
            self.diffusion.compile()
            self.classifier.compile()
        self.schedule = NoiseSchedule(**process["schedule"])
        self.latent = {name: facts["latent"][name] for name in ("scale", "mean", "std")}
        self.patch_size = facts["patch_size"]
        self.temperature = known.get("temperature", 1.0)
        self.maximum_timestep = known.get("maximum_timestep", self.schedule.timesteps)
        self.fingerprint = content_hash(
            {
                "weights": [part["fingerprint"] for part in (facts, decoder, process, known)],
                "schedule": process["schedule"],
                "latent": [self.latent["scale"], self.latent["mean"]],
                "patch size": self.patch_size,
                "classes": known["classes"],
            }
        )
        self.classes = known["classes"]
        logger.info(
            f"models of {self.adapted_dir} on {self.device}: {self.patch_size} px, {self.decoder} decoder, classes "
            f"{', '.join(self.classes)}"
        )
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, S, S] in [-1, 1] through encoder (posterior mean) and decoder, clipped to [-1, 1]."""
        self.prepare()
        return self.autoencoder.decode(self.autoencoder.encode(image)[0]).clamp(-1, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w], as the diffusion model has them, to images [B, 3, S, S] in [-1, 1], fp32."""
        return self.prepare().autoencoder.decode(latents / self.latent["scale"]).clamp(-1, 1)

    def _require_match(self, files: dict[str, str], facts: dict[str, Any], others: dict[str, dict[str, Any]]) -> None:
        """Refuses networks of different adaptations; `others` are the facts of all but the autoencoder."""
        if "latent" not in facts:
            raise ValueError(
                f"{files['autoencoder']} has no latent scale: let its pre-training go on until diffusion.pt is there"
            )
        ours = {
            "autoencoder_fingerprint": facts["fingerprint"],
            "latent_scale": facts["latent"]["scale"],
            "patch_size": facts["patch_size"],
            "schedule": others["diffusion"]["schedule"],
            "classes": others["latent_classifier"]["classes"],
        }
        origin = {"schedule": "diffusion", "classes": "latent_classifier"}
        for kind, other in others.items():
            for fact in filter(other.__contains__, ours):
                what, left = f"the {fact.replace('_', ' ')}", files[origin.get(fact, "autoencoder")]
                require_same(what, left, ours[fact], files[kind], other[fact])

    def _kinds(self) -> list[str]:
        return ["autoencoder", "diffusion", "latent_classifier", *(["decoder"] if self.decoder == "adapted" else [])]

    def _file(self, kind: str) -> Path:
        path = self.adapted_dir / f"{kind}.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"--adapted_dir {self.adapted_dir} has no {kind}.pt. Adapt first (python -m monai.bundle run training "
                "--config_file configs/adapt.json), or name the folder of a finished adaptation"
            )
        return path
