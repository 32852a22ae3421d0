"""What adaptation starts from: the artefacts of a pre-training, checked, and kept beside the results."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from bundle.data.hashes import HASHES_FILE, read_hashes
from bundle.diffusion.latent_scale import LatentScale
from bundle.diffusion.schedule import NoiseSchedule
from bundle.models.artefacts import complete, load_artefact, read_artefact, require_same
from bundle.runs.files import write_atomically
from bundle.runs.folder import RunFolder
from bundle.runs.opening import OpenedOnUse

logger = logging.getLogger(__name__)


class PretrainedModels(OpenedOnUse):
    """The autoencoder and the diffusion model of a pre-training, linked or copied into a run's folder.

    Args:
        pretrained_dir: output folder of a pre-training, or published copies of one.
        folder: the run's folder; what is read later is read from there, so that it needs nothing else.
        adapts_diffusion: whether the run makes a diffusion model of its own, so that the folder's `diffusion.pt` is not
            to be the pre-trained one.
    """

    opened = ("autoencoder_facts", "diffusion_facts")

    def __init__(self, pretrained_dir: str | Path, folder: RunFolder, adapts_diffusion: bool = False) -> None:
        self.pretrained_dir = Path(pretrained_dir).expanduser()
        self.folder = folder
        self.adapts_diffusion = adapts_diffusion

    def open(self) -> None:
        """Checks the two artefacts and puts them into the folder.

        Raises:
            FileNotFoundError: an artefact is missing; says which command makes it.
            ValueError: they don't belong together, or the folder holds others.
        """
        for name in ("autoencoder.pt", "diffusion.pt"):
            if not (self.pretrained_dir / name).is_file():
                raise FileNotFoundError(
                    f"--pretrained_dir {self.pretrained_dir} has no {name}. Pre-train first (python -m monai.bundle "
                    "run training --config_file configs/pretrain.json), or name a folder of pre-trained weights, such "
                    "as the models/pretrain of this bundle"
                )
        autoencoder = read_artefact(self.pretrained_dir / "autoencoder.pt", "autoencoder")
        diffusion = read_artefact(self.pretrained_dir / "diffusion.pt", "diffusion")
        with complete(self.pretrained_dir):
            self.require_match(autoencoder, diffusion)
        self.keep("autoencoder", autoencoder["fingerprint"])
        if not self.adapts_diffusion:
            self.keep("diffusion", diffusion["fingerprint"])
        heavy = {"weights", "raw_weights"}
        self.diffusion_facts = {name: value for name, value in diffusion.items() if name not in heavy}
        self.autoencoder_facts = {name: value for name, value in autoencoder.items() if name not in heavy}
        logger.info(
            f"pre-trained models of {self.pretrained_dir}: {self.patch_size} px, latents of "
            f"{self.latent_channels} x {self.latent_side} x {self.latent_side}, scale {self.latent.scale:.4f}"
        )

    def require_match(self, autoencoder: dict[str, Any], diffusion: dict[str, Any]) -> None:
        """Refuses a diffusion model that was trained on other latents than the autoencoder makes."""
        ours, theirs = (str(self.pretrained_dir / name) for name in ("autoencoder.pt", "diffusion.pt"))
        if "latent" not in autoencoder:
            raise ValueError(f"{ours} has no latent scale yet: let its pre-training go on until diffusion.pt is there")
        latent, takes = LatentScale.read(autoencoder["latent"]), diffusion["definition"]["in_channels"]
        for what, left, right in (
            ("the number of latent channels", autoencoder["definition"]["latent_channels"], takes),
            ("the latent scale", latent.scale, diffusion["latent_scale"]),
            ("the latent centre", latent.facts().get("latent_centre"), diffusion.get("latent_centre")),
            ("the patch size", autoencoder["patch_size"], diffusion["patch_size"]),
            ("the autoencoder", autoencoder["fingerprint"], diffusion["autoencoder_fingerprint"]),
        ):
            require_same(what, ours, left, theirs, right)

    def keep(self, kind: str, fingerprint: str) -> None:
        """Links an artefact into the run's folder, or copies it where links are not possible."""
        source, target = self.pretrained_dir / f"{kind}.pt", self.folder / f"{kind}.pt"
        if target.is_file():
            found = read_artefact(target, kind)
            known = {found["fingerprint"], found.get("parent_fingerprint")}
            if fingerprint not in known:
                require_same(f"the {kind}", str(target), found["fingerprint"], str(source), fingerprint)
            return

        def link(temporary: Path) -> None:
            try:
                os.link(source.resolve(), temporary)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(source, temporary)

        write_atomically(target, link)

    @property
    def patch_size(self) -> int:
        return self.autoencoder_facts["patch_size"]

    @property
    def normalise_stain(self) -> bool:
        """Whether the pre-training saw patches of normalised stain, as those encoded now must then be."""
        return self.autoencoder_facts.get("normalise_stain", False)

    @property
    def latent(self) -> LatentScale:
        """Between the autoencoder's latents and those that diffusion works on."""
        return LatentScale.read(self.autoencoder_facts["latent"])

    @property
    def latent_channels(self) -> int:
        return self.autoencoder_facts["definition"]["latent_channels"]

    @property
    def latent_side(self) -> int:
        levels = len(self.autoencoder_facts["definition"]["channels"])
        return self.patch_size // 2 ** (levels - 1)

    @property
    def fingerprint(self) -> str:
        """Of the autoencoder, which everything here depends on."""
        return self.autoencoder_facts["fingerprint"]

    @property
    def autoencoder_file(self) -> Path:
        return self.folder / "autoencoder.pt"

    def schedule(self) -> NoiseSchedule:
        """The forward process the diffusion model was trained on."""
        return NoiseSchedule(**self.diffusion_facts["schedule"])

    def autoencoder(self, device: torch.device | str) -> torch.nn.Module:
        """The pre-trained autoencoder, frozen."""
        self.prepare()
        return load_artefact(self.autoencoder_file, "autoencoder")[0].to(device).requires_grad_(False)

    def discriminator_file(self) -> Path:
        """Where the pre-trained patch discriminator is.

        Raises:
            FileNotFoundError: the pre-training didn't leave one.
        """
        self.prepare()
        path = self.pretrained_dir / "discriminator.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist, and the decoder's adversarial term goes on training it: name a "
                "--pretrained_dir that has one, or give --decoder#loss#reconstruction#adversarial_weight 0"
            )
        return path

    def discriminator(self, device: torch.device | str) -> torch.nn.Module:
        """The pre-trained patch discriminator, see :meth:`discriminator_file`."""
        return load_artefact(self.discriminator_file(), "discriminator")[0].to(device)

    def image_hashes(self) -> set[str] | None:
        """SHA-256 of the pixels of every image the pre-training saw; None where it left no record."""
        path = self.pretrained_dir / HASHES_FILE
        return read_hashes(path) if path.is_file() else None
