"""Copies a run's artefacts in half precision, small enough to be kept under version control or sent to a colleague.

    python scripts/publish_weights.py runs/pretrain models/pretrain --commit COMMIT

Writes autoencoder.pt and diffusion.pt (averaged weights only), metrics.json, samples.png and origin.json (the command
that trained them and the commit of this repository). The copies load like the originals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.artefacts import (  # noqa: E402
    ARTEFACT_HEAD,
    build_from_definition,
    read_artefact,
    require_same,
    save_artefact,
)
from bundle.files import write_json  # noqa: E402

TRAINING_ONLY = {"raw_weights"}  # needed to train on, not to sample


def publish(run: Path, target: Path, commit: str) -> None:
    """Copies the artefacts of `run` to `target` in half precision.

    Raises:
        FileNotFoundError: the run has not ended.
        ValueError: its two artefacts don't belong together.
    """
    autoencoder = read_artefact(run / "autoencoder.pt", "autoencoder")
    diffusion = read_artefact(run / "diffusion.pt", "diffusion")
    require_same(
        "the autoencoder",
        "autoencoder.pt",
        autoencoder["fingerprint"],
        "diffusion.pt",
        diffusion["autoencoder_fingerprint"],
    )
    copy = save_half(target / "autoencoder.pt", autoencoder)
    # Rounding changes the weights, so the diffusion model must name the rounded autoencoder as its own.
    diffusion["autoencoder_fingerprint"] = read_artefact(copy, "autoencoder")["fingerprint"]
    save_half(target / "diffusion.pt", diffusion)
    for name in ("metrics.json", "samples.png"):
        shutil.copyfile(run / name, target / name)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    write_json(target / "origin.json", {"command": metrics.get("command", "from Python"), "commit": commit})


def save_half(path: Path, content: dict) -> Path:
    facts = {name: value for name, value in content.items() if name not in ARTEFACT_HEAD | TRAINING_ONLY}
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in content["weights"].items()
    }
    network = build_from_definition(content["definition"])
    return save_artefact(path, content["kind"], network, weights=weights, **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished pre-training")
    parser.add_argument("target", type=Path, help="folder for the copies")
    parser.add_argument("--commit", default="unknown", help="commit of this repository that trained them")
    arguments = parser.parse_args()
    publish(arguments.run, arguments.target, arguments.commit)
    size = sum(file.stat().st_size for file in arguments.target.iterdir()) / 1e6
    print(f"{arguments.target}: {size:.1f} MB")
