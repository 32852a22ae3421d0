"""What synthesis starts from: the networks of an adaptation, checked against each other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.schedule import NoiseSchedule
from bundle.models.artefacts import (
    build_from_definition,
    complete,
    fingerprint,
    load_weights,
    read_artefact,
    require_same,
)
from bundle.models.packed import DEFINITION, FORMAT, SAFE_WEIGHTS, WEIGHTS, is_packed, packed_weights, read_packed
from bundle.runs.files import write_atomically, write_json
from bundle.runs.sums import content_hash
from bundle.runs.tensors import save_tensors

logger = logging.getLogger(__name__)

DECODERS = ("adapted", "pretrained")
TRAINING_ONLY = {"weights", "raw_weights", "identity"}  # of an artefact, what its network is not rebuilt from


class AdaptedModels(torch.nn.Module):
    """Autoencoder, diffusion model and latent classifier of an adaptation, frozen and in evaluation mode.

    Nothing is read before :meth:`prepare`, which whatever needs the networks calls by itself.

    Args:
        adapted_dir: output folder of an adaptation, with autoencoder.pt, decoder.pt, diffusion.pt and
            latent_classifier.pt; or a folder of `bundle.models.adapted.save_packed`, with model.pt and definition.json.
        device: where the networks will be; `to()` changes it before and after.
        decoder: "adapted", or "pretrained" for the decoder as it was before Eq. 5 of arXiv 2308.04020.
        compile: whether diffusion model and classifier, with its gradient, go through torch.compile.

    Attributes (after :meth:`prepare`):
        autoencoder, diffusion, classifier: the networks, fp32.
        classes: names, in the order of the label numbers.
        schedule: the forward process.
        latent: "scale", and "mean", "std" and "centre" of each channel; see `LatentScale`.
        patch_size: pixels a side.
        temperature: what the adaptation fitted, for dividing the classifier's logits by.
        maximum_timestep: the classifier knows noise levels below it.
        fingerprint: SHA-256 over all that decides what the networks compute.
        facts: what each artefact says besides its weights, by kind.

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
            ValueError: they don't belong together; both files are named. Or one is incomplete.
        """
        if not self.classes:
            with complete(self.adapted_dir):
                self._read()
        return self

    def _read(self) -> None:
        packed = is_packed(self.adapted_dir)
        parts = (
            self._read_packed() if packed else {kind: read_artefact(self._file(kind), kind) for kind in self._kinds()}
        )
        one = packed_weights(self.adapted_dir)
        files = {kind: str(one if packed else self.adapted_dir / f"{kind}.pt") for kind in self._kinds()}
        facts, process, known = (parts[kind] for kind in ("autoencoder", "diffusion", "latent_classifier"))
        self._require_match(files, facts, {kind: part for kind, part in parts.items() if kind != "autoencoder"})
        decoder = parts.get("decoder", {"weights": {}, "fingerprint": None})
        facts["weights"] |= decoder["weights"]
        autoencoder, diffusion, classifier = (
            build_from_definition(part["definition"]) for part in (facts, process, known)
        )
        load_weights(autoencoder, facts["weights"], list(files.values())[-1])
        load_weights(diffusion, process["weights"], files["diffusion"])
        load_weights(classifier, known["weights"], files["latent_classifier"])
        self.autoencoder, self.diffusion, self.classifier = (
            network.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()
            for network in (autoencoder, diffusion, classifier)
        )
        if self.compiled:
            self.diffusion.compile()
            self.classifier.compile()
        self.schedule = NoiseSchedule(**process["schedule"])
        self.latent = facts["latent"]
        self.latent_scale = LatentScale.read(self.latent)
        self.patch_size = facts["patch_size"]
        self.temperature = known.get("temperature", 1.0)
        self.maximum_timestep = known.get("maximum_timestep", self.schedule.timesteps)
        self.fingerprint = content_hash(
            {
                "weights": [part["fingerprint"] for part in (facts, decoder, process, known)],
                "schedule": process["schedule"],
                "latent": [self.latent[name] for name in ("scale", "mean", "centre") if name in self.latent],
                "patch size": self.patch_size,
                "classes": known["classes"],
            }
        )
        self.facts = {
            kind: {name: fact for name, fact in part.items() if name not in TRAINING_ONLY}
            for kind, part in parts.items()
        }
        self.classes = known["classes"]
        logger.info(
            f"models of {self.adapted_dir} on {self.device}: {self.patch_size} px, {self.decoder} decoder, classes "
            f"{', '.join(self.classes)}"
        )

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """All weights, of `autoencoder.*`, `diffusion.*` and `classifier.*`; they are read here where nobody has."""
        self.prepare()
        return super().state_dict(*arguments, **options)

    def load_state_dict(self, state_dict: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Other weights of the same networks, such as those of `model.pt`."""
        self.prepare()
        return super().load_state_dict(state_dict, *arguments, **options)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, S, S] in [-1, 1] through encoder (posterior mean) and decoder, clipped to [-1, 1]."""
        self.prepare()
        return self.autoencoder.decode(self.autoencoder.encode(image)[0]).clamp(-1, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w], as the diffusion model has them, to images [B, 3, S, S] in [-1, 1], fp32."""
        self.prepare()
        return self.autoencoder.decode(self.latent_scale.unscaled(latents)).clamp(-1, 1)

    def _require_match(self, files: dict[str, str], facts: dict[str, Any], others: dict[str, dict[str, Any]]) -> None:
        """Refuses networks of different adaptations; `others` are the facts of all but the autoencoder."""
        if "latent" not in facts:
            raise ValueError(
                f"{files['autoencoder']} has no latent scale: let its pre-training go on until diffusion.pt is there"
            )
        ours = {
            "autoencoder_fingerprint": facts["fingerprint"],
            **LatentScale.read(facts["latent"]).facts(),
            "patch_size": facts["patch_size"],
            "schedule": others["diffusion"]["schedule"],
            "classes": others["latent_classifier"]["classes"],
        }
        origin = {"schedule": "diffusion", "classes": "latent_classifier"}
        for kind, other in others.items():
            for fact in filter(other.__contains__, ours):
                what, left = f"the {fact.replace('_', ' ')}", files[origin.get(fact, "autoencoder")]
                require_same(what, left, ours[fact], files[kind], other[fact])

    def _read_packed(self) -> dict[str, dict[str, Any]]:
        parts = read_packed(self.adapted_dir)
        if ("decoder" in parts) != (self.decoder == "adapted"):
            held = "adapted" if "decoder" in parts else "pretrained"
            raise ValueError(
                f"--decoder is {self.decoder!r}, but {packed_weights(self.adapted_dir)} holds the one called {held!r}: "
                "ask for that, or name the folder of an adaptation with --adapted_dir"
            )
        return parts

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


def save_packed(models: AdaptedModels, folder: str | Path, half: bool = False, safe: bool = False) -> None:
    """Writes `model.pt` and `definition.json`, which `AdaptedModels(folder)` then reads like an adaptation's folder.

    Args:
        models: their networks; they are prepared here where nobody has.
        folder: where to; made where it is missing.
        half: whether weights are written as fp16. They are computed with in fp32 all the same, so a network whose
            weights were half precision before (`scripts/publish_weights.py`) stays what it was.
        safe: whether the weights are written as `model.safetensors` instead.
    """
    state = {name: tensor.detach().cpu() for name, tensor in models.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    folder = Path(folder)
    if safe:
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        size = sum(tensor.nbytes for tensor in state.values())
        # Given a path, safetensors makes a file that nobody else may read.
        write = lambda path: path.write_bytes(save(state, {"format": "pt"}))  # noqa: E731
        write_atomically(folder / SAFE_WEIGHTS, write, size=size)
    else:
        save_tensors(folder / WEIGHTS, state)
    write_json(folder / DEFINITION, {"format": FORMAT, "weights": fingerprint(state), "networks": models.facts})
