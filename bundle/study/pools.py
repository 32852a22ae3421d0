"""The pools and selections of a study, each made once and found again: by the bundle's own configs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bundle.chain import run_config
from bundle.data.labelled import LabelledPatches
from bundle.files import write_atomically
from bundle.study.rows import ADAPTED_DIFFUSION, FROM_SCRATCH, GUIDED, PRETRAINED_DECODER

logger = logging.getLogger(__name__)

# What synthesis and the judge need of an adaptation besides its diffusion model.
SHARED_ARTEFACTS = ("decoder.pt", "latent_classifier.pt", "judge_colour.pt", "judge_grey.pt", "judge_normalised.pt")


class StudyPools:
    """Makes what a row needs, when it needs it.

    Args:
        folder: where all of it is kept.
        data: settings that adapt, select and classify share: dataset_dir, test_dir, cache_dir, device, ...
        pools: a user's own pools, path by name.
        adaptation: settings of configs/adapt.json, for what has to be adapted anew.
        diffusion: settings of configs/adapt.json for adapting the diffusion model.
        pretraining: settings of configs/pretrain.json, for the row without pre-training.
        synthesis: settings of configs/inference.json.
        selection: settings of configs/select.json.
    """

    def __init__(
        self,
        folder: Path,
        data: Mapping[str, Any],
        pools: Mapping[str, str],
        adaptation: Mapping[str, Any],
        diffusion: Mapping[str, Any],
        pretraining: Mapping[str, Any],
        synthesis: Mapping[str, Any],
        selection: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.data = dict(data)
        self.pools = dict(pools)
        self.adaptation = dict(adaptation)
        self.diffusion = dict(diffusion)
        self.pretraining = dict(pretraining)
        self.synthesis = dict(synthesis)
        self.selection = dict(selection)

    def select(self, name: str, adapted_dir: Path) -> Path:
        """The selection of a pool for the split of an adaptation; makes pool and selection where they are missing."""
        pool = self.pool(name, adapted_dir)
        folder = self.folder / "selections" / name
        split_file = str(adapted_dir / "split.csv")
        scorer_dir = str(self.folder / "scorer")
        logger.info(f"study: selection of {name}")
        run_config(
            "select.json",
            **{**self.labelled_data(), **self.selection},
            pool_dir=str(pool),
            split_file=split_file,
            scorer_dir=scorer_dir,
            output_dir=str(folder),
        )
        return folder / "selection.csv"

    def pool(self, name: str, adapted_dir: Path) -> Path:
        """The folder of a pool; makes it where it is one of the study's own."""
        if name in self.pools:
            return Path(self.pools[name])
        made = {
            GUIDED: lambda: {"adapted_dir": str(adapted_dir)},
            PRETRAINED_DECODER: lambda: {"adapted_dir": str(adapted_dir), "decoder": "pretrained"},
            ADAPTED_DIFFUSION: lambda: {"adapted_dir": str(self.adapted_diffusion(adapted_dir))},
            FROM_SCRATCH: lambda: {"adapted_dir": str(self.from_scratch(adapted_dir))},
        }
        folder = self.folder / "pools" / name
        logger.info(f"study: pool {name}")
        run_config("inference.json", **self.synthesis, **made[name](), output_dir=str(folder))
        return folder / "pool"

    def adapted_diffusion(self, adapted_dir: Path) -> Path:
        """An adaptation whose diffusion model has been adapted as well; the rest is that of `adapted_dir`."""
        folder = self.folder / "adapted_diffusion"
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHARED_ARTEFACTS:
            if (adapted_dir / name).is_file() and not (folder / name).exists():
                write_atomically(folder / name, lambda temporary, name=name: shutil.copy(adapted_dir / name, temporary))
        self.adapt(folder, "diffusion_model", adapted_dir, **{"diffusion_adaptation": "full", **self.diffusion})
        return folder

    def from_scratch(self, adapted_dir: Path) -> Path:
        """An adaptation of models that saw nothing but the labelled training images."""
        folder = self.folder / "from_scratch"
        images = self.write_training_images(adapted_dir, folder / "images")
        run_config("pretrain.json", **self.pretraining, dataset_dir=str(images), output_dir=str(folder / "pretrain"))
        seen = {"pretraining_overlap": "allow", "pretrained_dir": str(folder / "pretrain")}
        self.adapt(folder / "adapt", "run", adapted_dir, **seen)
        return folder / "adapt"

    def adapt(self, folder: Path, run_id: str, adapted_dir: Path, **settings: Any) -> None:
        """Runs configs/adapt.json on the split of another adaptation."""
        shared = {name: value for name, value in self.data.items() if name != "patch_size"}  # the pre-training's
        run_config(
            "adapt.json",
            run_id,
            **{**shared, **self.adaptation, **settings},
            split_file=str(adapted_dir / "split.csv"),
            output_dir=str(folder),
        )

    def labelled_data(self) -> dict[str, Any]:
        """What every config that reads labelled images takes; where there is no test set nobody can touch it."""
        return {name: value for name, value in self.data.items() if name != "test_dir"}

    def write_training_images(self, adapted_dir: Path, folder: Path) -> Path:
        """The labelled training images as PNG files, without their classes, at the size the models work at."""
        if folder.is_dir():
            return folder
        labelled = LabelledPatches(
            self.data["dataset_dir"],
            None,
            self.data["patch_size"],
            self.data["cache_dir"],
            self.folder / "split.csv",
            split_file=adapted_dir / "split.csv",
            parts=("train", "validation"),
        )
        part = labelled.part("train").prepare()
        unfinished = folder.with_name(folder.name + ".unfinished")
        for index, digest in enumerate(part.sha256):
            pixels = part.read(index)["image"].permute(1, 2, 0).numpy()
            unfinished.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(unfinished / f"{digest}.png")
        unfinished.rename(folder)
        return folder
