"""Copies a run's artefacts in half precision, small enough to be kept under version control or sent to a colleague.

    python scripts/publish_weights.py runs/pretrain models/pretrain --commit COMMIT
    python scripts/publish_weights.py runs/adapt models/adapt --commit COMMIT

Writes the artefacts that the run has (averaged weights only), metrics.json, origin.json (the command that trained them
and the commit of this repository) and what later steps need beside them: pixel hashes, the split. For a pre-training it
draws samples.png from the copies. The copies load like the originals, and can be used in their place.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.pictures import save_grid  # noqa: E402
from bundle.data.views import VIEWS  # noqa: E402
from bundle.diffusion.sampling import LatentModels, sample_images  # noqa: E402
from bundle.diffusion.schedule import NoiseSchedule  # noqa: E402
from bundle.models.artefacts import (  # noqa: E402
    ARTEFACT_HEAD,
    build_from_definition,
    load_artefact,
    read_artefact,
    require_same,
    save_artefact,
)
from bundle.runs.files import write_json  # noqa: E402

TRAINING_ONLY = {"raw_weights", "identity"}  # needed to train on, not to sample
# In this order each is published before those that name its fingerprint.
KINDS = ("autoencoder", "discriminator", "diffusion", "image_classifier", "decoder", "latent_classifier")
KINDS += tuple(f"judge_{view}" for view in VIEWS)
PLAIN_FILES = ("image_hashes.txt", "split.csv", "accuracy_by_timestep.png")


def publish(run: Path, target: Path, commit: str, command: str | None) -> None:
    """Copies the artefacts of `run` to `target` in half precision.

    Raises:
        FileNotFoundError: the run has not ended.
        ValueError: its artefacts don't belong together.
    """
    autoencoder = read_artefact(run / "autoencoder.pt", "autoencoder")
    diffusion = read_artefact(run / "diffusion.pt", "diffusion")
    if (run / "split.csv").is_file():
        for kind in ("decoder", "latent_classifier"):  # an adaptation has ended once these are there
            read_artefact(run / f"{kind}.pt", kind)
    require_same(
        "the autoencoder",
        "autoencoder.pt",
        autoencoder["fingerprint"],
        "diffusion.pt",
        diffusion["autoencoder_fingerprint"],
    )
    renamed: dict[str, str] = {}  # rounding changes the weights, so those that name another by them must follow
    for kind in KINDS:
        if (run / f"{kind}.pt").is_file():
            content = read_artefact(run / f"{kind}.pt", kind)
            facts = {name: value for name, value in content.items() if name.endswith("_fingerprint")}
            content |= {name: renamed.get(value, value) for name, value in facts.items()}
            if is_published(content):  # byte for byte, so that version control keeps it once
                target.mkdir(parents=True, exist_ok=True)
                copy = shutil.copyfile(run / f"{kind}.pt", target / f"{kind}.pt")
            else:
                copy = save_half(target / f"{kind}.pt", content)
            renamed[content["fingerprint"]] = read_artefact(copy, kind)["fingerprint"]
    for name in PLAIN_FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, target / name)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    origin = {"command": command or metrics.pop("command", "from Python"), "commit": commit}
    metrics.pop("command", None)
    write_json(target / "metrics.json", metrics)
    write_json(target / "origin.json", origin)
    if not (target / "latent_classifier.pt").is_file():
        save_samples(target)


def save_samples(folder: Path, seeds: range = range(64)) -> None:
    """Draws samples.png from the artefacts of a folder."""
    autoencoder, facts = load_artefact(folder / "autoencoder.pt", "autoencoder")
    diffusion, diffusion_facts = load_artefact(folder / "diffusion.pt", "diffusion")
    schedule = NoiseSchedule(**diffusion_facts["schedule"])
    models = LatentModels(diffusion, autoencoder, schedule, facts["latent"], facts["patch_size"])
    images = sample_images(models, list(seeds))
    marks = {"Model": diffusion_facts["fingerprint"], "Seeds": f"{seeds[0]} to {seeds[-1]}"}
    save_grid(folder / "samples.png", images, synthetic=marks)


def is_published(content: dict) -> bool:
    """Whether an artefact is a small copy already, as the pre-trained models of an adaptation may be."""
    floating = [tensor for tensor in content["weights"].values() if tensor.is_floating_point()]
    return all(tensor.dtype == torch.float16 for tensor in floating) and not TRAINING_ONLY & content.keys()


def save_half(path: Path, content: dict) -> Path:
    facts = {name: value for name, value in content.items() if name not in ARTEFACT_HEAD | TRAINING_ONLY}
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in content["weights"].items()
    }
    network = build_from_definition(content["definition"])
    return save_artefact(path, content["kind"], network, weights=weights, **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished pre-training or adaptation")
    parser.add_argument("target", type=Path, help="folder for the copies")
    parser.add_argument("--commit", default="unknown", help="commit of this repository that trained them")
    parser.add_argument("--command", help="what to record as the command, where the real one has private paths in it")
    arguments = parser.parse_args()
    publish(arguments.run, arguments.target, arguments.commit, arguments.command)
    size = sum(file.stat().st_size for file in arguments.target.iterdir()) / 1e6
    print(f"{arguments.target}: {size:.1f} MB")
