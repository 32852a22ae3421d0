"""The pools and selections of a study, each made once and found again: by the bundle's own configs."""

from __future__ import annotations

import filecmp
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bundle.data.generated import DESCRIPTION
from bundle.data.labelled import LabelledPatches
from bundle.data.marks import ALGORITHMIC_MEDIA, save_marked_png
from bundle.data.views import VIEWS
from bundle.downstream.study.rows import ADAPTED_DIFFUSION, FROM_SCRATCH, GUIDED, PRETRAINED_DECODER
from bundle.runs.chain import run_config
from bundle.runs.files import write_atomically

logger = logging.getLogger(__name__)

# What synthesis and the judge need of an adaptation besides its diffusion model.
SHARED_ARTEFACTS = ("decoder.pt", "latent_classifier.pt", *(f"judge_{view}.pt" for view in VIEWS))
# Settings of the study by name, of which each pool needs some: what its selection depends on.
MADE_WITH = {
    GUIDED: ("synthesis", "selection"),
    PRETRAINED_DECODER: ("synthesis", "selection"),
    ADAPTED_DIFFUSION: ("adaptation", "diffusion", "synthesis", "selection"),
    FROM_SCRATCH: ("from_scratch", "adaptation", "synthesis", "selection"),
}


@dataclass(frozen=True)
class LabelledSplit:
    """Which labelled images the study uses: those of an adaptation, or with each seed others.

    Args:
        adapted_dir: the adaptation that the labelled split and the guided pool come from; not used with `vary`.
        vary: whether each seed redraws the labelled images, and does everything after it anew.
        labels_per_class, label_fraction: how many labels each seed then draws, see configs/adapt.json; without a number
            as that config does.

    Raises:
        ValueError: a number of labels where none are drawn.
    """

    adapted_dir: str | Path
    vary: bool = False
    labels_per_class: int | None = None
    label_fraction: float | None = None

    def __post_init__(self) -> None:
        if self.labels and not self.vary:
            name, value = next(iter(self.labels.items()))
            raise ValueError(
                f"--{name} {value} says how many labels each seed draws, and the labels used are those of "
                f"{self.adapted_dir}/split.csv: leave it out, or give --vary_split True"
            )

    @property
    def labels(self) -> dict[str, Any]:
        """The settings of configs/adapt.json that are given."""
        given = {"labels_per_class": self.labels_per_class, "label_fraction": self.label_fraction}
        return {name: value for name, value in given.items() if value is not None}


def labelled_data(
    dataset_dir: Any, test_dir: Any, cache_dir: str, patch_size: int, device: str, precision: str, **others: Any
) -> dict[str, Any]:
    """Settings that adapt, select and classify share, by name.

    Args:
        dataset_dir: the labelled images, or None for built-in patches.
        test_dir: images of slides that nothing is chosen on.
        cache_dir: where index, resized pixels and latents are kept, for all trainings together.
        patch_size: pixels a side.
        device: where to compute.
        precision: of computing, see `bundle.runs.context.RunContext`.
        **others: further settings that tell how labelled images are read, such as class_names.
    """
    own = {"dataset_dir": dataset_dir, "test_dir": test_dir, "cache_dir": cache_dir, "patch_size": patch_size}
    return {**own, "device": device, "precision": precision, **others}


def chain_settings(
    pools: Mapping[str, str],
    num_candidates: int,
    pretrained_dir: str,
    pretraining_dir: str | None,
    perceptual_network: str,
    selection: Mapping[str, Any],
    synthesis: Mapping[str, Any],
    adaptation: Mapping[str, Any],
    diffusion: Mapping[str, Any],
    from_scratch: Mapping[str, Any],
) -> dict[str, Mapping[str, Any]]:
    """Pools of a user's own, and settings of the configs by which a study makes its own.

    Args:
        pools: a user's own: path by name.
        num_candidates: images of each class in a pool.
        pretrained_dir: the pre-training that adaptations start from.
        pretraining_dir: its patches, which an adapted diffusion model goes on seeing.
        perceptual_network: of decoders and of the pre-training from scratch.
        selection: further settings of configs/select.json.
        synthesis: further settings of configs/inference.json.
        adaptation: further settings of configs/adapt.json, for what has to be adapted anew.
        diffusion: further settings of the same, for adapting the diffusion model.
        from_scratch: further settings of configs/pretrain.json, for the pre-training on the labelled images alone.
    """
    return {
        "pools": pools,
        "selection": selection,
        "synthesis": {"num_images": num_candidates, **synthesis},
        "adaptation": {"pretrained_dir": pretrained_dir, "perceptual_network": perceptual_network, **adaptation},
        "diffusion": {"pretraining_dir": pretraining_dir, **diffusion},
        "from_scratch": {"perceptual_network": perceptual_network, **from_scratch},
    }


class StudyPools:
    """Makes what the rows need of one labelled split, when they need it.

    Args:
        folder: where all of it is kept.
        adapted_dir: the adaptation that the split and the guided pool come from.
        data: see :func:`labelled_data`.
        chain: see :func:`chain_settings`.
        seed: what the split was drawn with, where the study draws one for each seed; None for that of an adaptation
            that was there before.
    """

    def __init__(
        self,
        folder: Path,
        adapted_dir: Path,
        data: Mapping[str, Any],
        chain: Mapping[str, Mapping[str, Any]],
        seed: int | None = None,
    ) -> None:
        self.folder = folder
        self.adapted_dir = adapted_dir
        self.data = dict(data)
        self.chain = chain
        self.seed = seed

    @property
    def split_file(self) -> Path:
        return self.adapted_dir / "split.csv"

    @property
    def labelled_data(self) -> dict[str, Any]:
        """Settings by which select and classify find the images of the split."""
        return {**self.data, **({} if self.seed is None else {"split_seed": self.seed})}  # built-in ones differ by it

    def select(self, name: str) -> Path:
        """The selection of a pool for the split; makes pool and selection, or what is missing of them."""
        pool = self.pool(name)
        folder = self.folder / "selections" / name
        logger.info(f"study: selection of {name}")
        # Without the test set nobody can touch it.
        data = {name: value for name, value in self.labelled_data.items() if name != "test_dir"}
        places = {"pool_dir": pool, "split_file": self.split_file, "scorer_dir": self.folder / "scorer"}
        places = {name: str(path) for name, path in {**places, "output_dir": folder}.items()}
        run_config("select.json", **{**data, **self.chain["selection"], **places})
        return folder / "selection.csv"

    def pool(self, name: str) -> Path:
        """The folder of a pool; makes it where it is one of the study's own."""
        if name in self.chain["pools"]:
            return Path(self.chain["pools"][name])
        adapted = {FROM_SCRATCH: self.from_scratch, ADAPTED_DIFFUSION: self.adapted_diffusion}
        folder = self.folder / "pools" / name
        settings = {**self.machine, **self.chain["synthesis"]}
        settings |= {"adapted_dir": str(adapted[name]() if name in adapted else self.adapted_dir)}
        settings |= {"decoder": "pretrained"} if name == PRETRAINED_DECODER else {}
        logger.info(f"study: pool {name}")
        run_config("inference.json", **{**settings, "output_dir": str(folder)})
        return folder / "pool"

    def adapted_diffusion(self) -> Path:
        """An adaptation whose diffusion model has been adapted as well; the rest is that of `adapted_dir`.

        Raises:
            ValueError: it was begun with another adaptation.
        """
        folder = self.folder / "adapted_diffusion"
        for name in SHARED_ARTEFACTS:
            source, target = self.adapted_dir / name, folder / name
            if not source.is_file():
                continue
            if target.is_file() and not filecmp.cmp(source, target, shallow=False):
                raise ValueError(
                    f"{target} is of another adaptation than {source}: give the former --adapted_dir, or another "
                    "--output_dir"
                )
            if not target.is_file():
                write_atomically(target, lambda temporary, source=source: shutil.copyfile(source, temporary))
        settings = {"diffusion_method": "full", **self.chain["diffusion"]}
        self.adapt(folder, "diffusion", **settings, split_file=str(self.split_file))
        return folder

    def from_scratch(self) -> Path:
        """An adaptation of models that saw nothing but the labelled training images."""
        folder = self.folder / "from_scratch"
        places = {"dataset_dir": str(self.write_training_images(folder / "images"))}
        places |= {"output_dir": str(folder / "pretrain")}
        read = {name: self.data[name] for name in ("patch_size", "maximum_blank_share") if name in self.data}
        run_config("pretrain.json", **{**self.machine, **read, **self.chain["from_scratch"], **places})
        seen = {"pretrained_dir": str(folder / "pretrain"), "labelled#pretraining_overlap": "allow"}
        self.adapt(folder / "adapt", **seen, split_file=str(self.split_file))
        return folder / "adapt"

    def adapt(self, folder: Path, run_id: str = "run", **settings: Any) -> None:
        """Runs configs/adapt.json."""
        shared = {name: value for name, value in self.data.items() if name != "patch_size"}  # the pre-training's
        settings |= {} if self.seed is None else {"seed": self.seed}
        settings |= {"output_dir": str(folder)}
        run_config("adapt.json", run_id, **{**shared, **self.chain["adaptation"], **settings})

    @property
    def machine(self) -> dict[str, Any]:
        return {name: self.data[name] for name in ("device", "precision")}

    def write_training_images(self, folder: Path) -> Path:
        """The labelled training images as PNG files, without their classes, at the size the models work at."""
        if folder.is_dir():
            return folder
        others = ("test_dir", "device", "precision")
        labelled = LabelledPatches(
            **{name: value for name, value in self.data.items() if name not in others},
            test_dir=None,
            split_path=self.folder / "split.csv",
            split_file=self.split_file,
            parts=("train", "validation"),
            seed=self.seed or 0,
        )
        part = labelled.part("train")
        unfinished = folder.with_name(folder.name + ".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        for index, digest in enumerate(part.sha256):
            pixels = part.read(index)["image"].permute(1, 2, 0).numpy()
            if labelled.built_in:  # stay marked as no tissue
                save_marked_png(unfinished / f"{digest}.png", pixels, ALGORITHMIC_MEDIA, {"Description": DESCRIPTION})
            else:
                Image.fromarray(pixels).save(unfinished / f"{digest}.png")
        unfinished.rename(folder)
        return folder
