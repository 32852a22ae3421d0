"""The networks of synthesis as the Model Zoo wants them: one state dict, and beside it what the networks are.

`model.pt` is the state dict of `AdaptedModels` and of `PatchGenerator`: plain tensors named `autoencoder.*`,
`diffusion.*` and `classifier.*`, the decoder's weights being those that were chosen. `definition.json` has what the
artefacts said besides their weights: architectures, schedule, latent scale, classes. In `model.safetensors` the same
tensors are as the Hugging Face hub has them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bundle.models.artefacts import fingerprint
from bundle.models.foreign_weights import is_state_dict, reason_of
from bundle.runs.sums import check_sum

WEIGHTS = "model.pt"
SAFE_WEIGHTS = "model.safetensors"
DEFINITION = "definition.json"
FORMAT = "histodiffusion-models/1"
PREFIXES = {"autoencoder": "autoencoder.", "diffusion": "diffusion.", "latent_classifier": "classifier."}
UNPACK = "unpack the bundle again, or name the folder of an adaptation"


def is_packed(folder: Path) -> bool:
    """Whether the folder is one of `save_packed`, complete or not."""
    return any((folder / name).is_file() for name in (WEIGHTS, SAFE_WEIGHTS, DEFINITION))


def packed_weights(folder: Path) -> Path:
    """The folder's file of weights: `model.safetensors` where there is no `model.pt`."""
    safe = folder / SAFE_WEIGHTS
    return safe if safe.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def read_packed(folder: Path) -> dict[str, dict[str, Any]]:
    """What `read_artefact` gives, for each kind; the weights of an adapted decoder are among the autoencoder's.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: one can't be read, or they don't belong together.
    """
    path, described = packed_weights(folder), folder / DEFINITION
    if not path.is_file():
        raise FileNotFoundError(
            f"{described} is there without {path}: get the weights (python -m monai.bundle download_large_files "
            "--bundle_path BUNDLE), or name the folder of an adaptation with --adapted_dir"
        )
    if not described.is_file():
        raise FileNotFoundError(f"{path} is there without {described}, which says what its networks are: {UNPACK}")
    try:
        definition = json.loads(described.read_text(encoding="utf-8"))
        found, expected, networks = (definition[name] for name in ("format", "weights", "networks"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{described} can't be read as what {path.name} holds: {error!r}. {UNPACK}") from error
    if found != FORMAT:
        raise ValueError(f"{described} has the format {found!r}, expected {FORMAT!r}: {UNPACK}")
    check_sum(path)
    try:
        state = (
            load_file(path) if path.name == SAFE_WEIGHTS else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise ValueError(f"{path} can't be read as weights ({reason_of(error)}); is it complete?") from error
    if not is_state_dict(state) or fingerprint(state) != expected:
        raise ValueError(f"{path} is not the file that {described} describes: their weights differ. {UNPACK}")
    weights = {
        kind: {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for kind, prefix in PREFIXES.items()
    }
    return {kind: {**facts, "weights": weights.get(kind, {})} for kind, facts in networks.items()}
