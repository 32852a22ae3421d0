"""The repository and trained weights as a bundle of the MONAI Model Zoo."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bundle.models.adapted import AdaptedModels, save_packed
from bundle.models.artefacts import read_artefact
from bundle.models.packed import WEIGHTS
from bundle.runs.files import explain_full_disk, write_json
from bundle.runs.sums import file_sha256, write_sums
from bundle.zoo.archive import sorted_files, write_zip
from bundle.zoo.measured import eval_metrics
from bundle.zoo.pages import facts_of_pages, write_pages

logger = logging.getLogger(__name__)

LARGE = 25_000_000  # bytes; larger files may not be in a pull request to the Zoo
PLACES = {
    "bundle": {".py", ".typed", ".j2", ".css", ".html", ".js", ".json"},
    "configs": {".json", ".conf"},
    "scripts": {".py"},
}
LEFT_OUT = {"scripts/package.py", "scripts/publish_hub.py"}  # of a repository; a package is none
# Settings whose default names what a repository's user has trained: there they take what the package brings.
DEFAULTS = {
    "inference.json": ("adapted_dir", "models"),
    "evaluate.json": ("adapted_dir", "models"),
    "read.json": ("adapted_dir", "models"),
    "adapt.json": ("pretrained_dir", "models/pretrain"),
    "study.json": ("pretrained_dir", "models/pretrain"),
}
ADAPTED_FILES = ("judge_colour.pt", "judge_grey.pt", "judge_normalised.pt", "split.csv")
PRETRAINED_FILES = ("autoencoder.pt", "diffusion.pt", "discriminator.pt", "image_hashes.txt")


def build_package(
    source: Path,
    output_dir: Path,
    adapted_dir: Path,
    pretrained_dir: Path,
    diffusion_dir: Path | None = None,
    evaluation_dir: Path | None = None,
    licence_file: Path | None = None,
    large_files_url: str | None = None,
    large: int = LARGE,
) -> tuple[Path, Path]:
    """Writes `<name>/` and `<name>_v<version>.zip`, both as `configs/metadata.json` names them. The same from the same.

    Args:
        source: the repository.
        output_dir: where to; made where it is missing.
        adapted_dir: folder of an adaptation: the networks of synthesis and the judge.
        pretrained_dir: folder of the pre-training that it started from, for adapting to other classes.
        diffusion_dir: folder of a diffusion model that takes the place of the adaptation's.
        evaluation_dir: folder of `configs/evaluate.json`, of images made by these weights.
        licence_file: of the data; docs/data_license.txt where None.
        large_files_url: address below which files larger than `large` will be found, each by its path.
        large: bytes.

    Returns:
        the folder and the zip.

    Raises:
        FileExistsError: one of them is there already.
        FileNotFoundError: weights or a file of the repository are missing.
        OSError: the disk is full; nothing is left there.
        ValueError: weights that don't belong together, an evaluation of others, a large file without an address.
    """
    metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
    name, version = metadata["name"].lower(), metadata["version"]
    folder, archive = output_dir / name, output_dir / f"{name}_v{version}.zip"
    for path in (folder, archive):
        if path.exists():
            raise FileExistsError(f"{path} is there already: remove it, or give another --output_dir")
    output_dir.mkdir(parents=True, exist_ok=True)
    remedy = ", or give an --output_dir on another disk,"
    with (
        explain_full_disk(folder, remedy),
        tempfile.TemporaryDirectory(prefix=".package.", dir=output_dir) as temporary,
    ):
        bundle = Path(temporary) / name
        models = pack_weights(bundle / "models", adapted_dir, pretrained_dir, diffusion_dir)
        evaluation = read_evaluation(evaluation_dir, models)
        copy_code(source, bundle)
        for config, (setting, place) in DEFAULTS.items():
            path = bundle / "configs" / config
            path.write_text(with_default(path, setting, place), encoding="utf-8", newline="\n")
        folders = {"pretrain": pretrained_dir, "adapt": adapted_dir, "diffusion": diffusion_dir}
        metrics = {origin: read_object(place / "metrics.json") for origin, place in folders.items() if place}
        origins = {origin: origin_of(folders[origin], metrics[origin]) for origin in metrics}
        metadata = described(metadata, models) | {"eval_metrics": eval_metrics(metrics, evaluation)}
        write_json(bundle / "configs" / "metadata.json", metadata)
        (bundle / "docs").mkdir()
        licence = (licence_file or source / "docs" / "data_license.txt").read_text(encoding="utf-8")
        (bundle / "docs" / "data_license.txt").write_text(licence, encoding="utf-8", newline="\n")
        shutil.copyfile(source / "docs" / "zoo" / f"test_{name}.py", bundle / "docs" / f"test_{name}.py")
        sha256 = file_sha256(bundle / "models" / WEIGHTS)
        write_pages(bundle / "docs", facts_of_pages(metadata, models, sha256, metrics, origins, evaluation, licence))
        write_large_files(bundle, large_files_url, large)
        write_zip(bundle, archive)
        os.replace(bundle, folder)
    return folder, archive


def pack_weights(folder: Path, adapted_dir: Path, pretrained_dir: Path, diffusion_dir: Path | None) -> AdaptedModels:
    """`model.pt` with what belongs to it, and the weights to adapt from; half precision where the weights have it."""
    models, half = assembled(adapted_dir, diffusion_dir)
    save_packed(models, folder, half=half)
    for place, names, target in (
        (adapted_dir, ADAPTED_FILES, folder),
        (pretrained_dir, PRETRAINED_FILES, folder / "pretrain"),
    ):
        target.mkdir(exist_ok=True)
        for name in names:
            if (place / name).is_file():
                shutil.copyfile(place / name, target / name)
    fingerprint = read_artefact(folder / "pretrain" / "autoencoder.pt", "autoencoder")["fingerprint"]
    if fingerprint != models.facts["autoencoder"]["fingerprint"]:
        raise ValueError(
            f"{adapted_dir} was adapted from another autoencoder than that of {pretrained_dir}: name the pre-training "
            "that it started from with --pretrained_dir"
        )
    for target in (folder / "pretrain", folder):
        write_sums(target)
    return models


def assembled(adapted_dir: Path, diffusion_dir: Path | None) -> tuple[AdaptedModels, bool]:
    """The networks of an adaptation, with another folder's diffusion model where one is named.

    Returns:
        the networks, and whether all of their files are half precision.
    """
    kinds = {kind: adapted_dir / f"{kind}.pt" for kind in ("autoencoder", "decoder", "latent_classifier", "diffusion")}
    if diffusion_dir:
        kinds["diffusion"] = diffusion_dir / "diffusion.pt"
    half = True
    with tempfile.TemporaryDirectory() as temporary:  # as the folder of one adaptation
        for kind, path in kinds.items():
            weights = read_artefact(path, kind)["weights"].values()
            half &= all(tensor.dtype == torch.float16 for tensor in weights if tensor.is_floating_point())
            shutil.copyfile(path, Path(temporary) / f"{kind}.pt")
        models = AdaptedModels(temporary).prepare()
    return models, half


def copy_code(source: Path, bundle: Path) -> None:
    """LICENSE, configs and Python; imports sorted as the Zoo's isort wants them, which knows no `bundle` of its own."""
    try:
        import isort
    except ImportError as error:
        raise ImportError("packaging sorts imports by isort: pip install -r requirements-test.txt") from error
    style = isort.Config(profile="black", line_length=120, known_third_party=frozenset({"bundle"}))
    shutil.copyfile(source / "LICENSE", bundle / "LICENSE")
    for place, suffixes in PLACES.items():
        for path in sorted_files(source / place):
            relative = path.relative_to(source)
            if path.suffix not in suffixes or relative.as_posix() in LEFT_OUT:
                continue
            target = bundle / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            text = isort.code(text, config=style) if path.suffix == ".py" else text
            target.write_text(text, encoding="utf-8", newline="\n")


def with_default(path: Path, setting: str, place: str) -> str:
    """The text of a config in which a setting's default is a place in the bundle, wherever that lies."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf'^    "{setting}": "([^"$@]*)",$', text, re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{path.name} has {len(found)} plain defaults of {setting}, not the one to be replaced")
    text = text.replace(f" --{setting} {found[0]}", "", 1)  # of the command in its description
    return text.replace(f'"{setting}": "{found[0]}"', f'"{setting}": "$@bundle_root + \'/{place}\'"', 1)


def described(metadata: Mapping[str, Any], models: AdaptedModels) -> dict[str, Any]:
    """Metadata whose `*_data_format` say what these networks take and give."""
    metadata = copy.deepcopy(dict(metadata))
    definitions = {kind: part["definition"] for kind, part in models.facts.items()}
    factor, multiple = (2 ** (len(definitions[kind]["channels"]) - 1) for kind in ("autoencoder", "diffusion"))
    side, channels = models.patch_size // factor, len(models.latent["mean"])
    classes = {str(number): name for number, name in enumerate(models.classes)}
    latents = {"num_channels": channels, "spatial_shape": [side, side]}
    small = {"num_channels": channels, "spatial_shape": [f"{multiple}*n"] * 2}
    patch = {"spatial_shape": [f"{factor}*n"] * 2}
    for network, way, tensor, facts in (
        ("network", "inputs", "image", latents),
        ("network", "outputs", "pred", {"spatial_shape": [models.patch_size] * 2}),
        ("autoencoder", "inputs", "image", patch),
        ("autoencoder", "outputs", "pred", patch),
        ("diffusion", "inputs", "image", small),
        ("diffusion", "inputs", "timesteps", {"value_range": [0, models.schedule.timesteps - 1]}),
        ("diffusion", "outputs", "pred", small),
        ("classifier", "inputs", "image", latents),
        ("classifier", "inputs", "timesteps", {"value_range": [0, models.maximum_timestep - 1]}),
        ("classifier", "outputs", "pred", {"num_channels": len(classes), "channel_def": classes}),
    ):
        metadata[f"{network}_data_format"][way][tensor].update(facts)
    return metadata


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file, {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def origin_of(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The command that trained, and the commit where it is known."""
    return read_object(folder / "origin.json") or {"command": metrics.get("command", "unknown")}


def read_evaluation(folder: Path | None, models: AdaptedModels) -> dict[str, Any] | None:
    """The evaluation of images that these models made.

    Raises:
        FileNotFoundError: there is none in the folder.
        ValueError: it is of other images.
    """
    if folder is None:
        return None
    path = folder / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"--evaluation_dir {folder} has no evaluation.json: evaluate first (python -m monai.bundle run training "
            "--config_file configs/evaluate.json), or leave it out"
        )
    evaluation = read_object(path)
    found = evaluation["synthetic"].get("model")
    if found != models.fingerprint:
        raise ValueError(
            f"{path} is of images that the model {found} made; the weights to be packaged are {models.fingerprint}: "
            "make a pool with these and evaluate it, or leave out --evaluation_dir"
        )
    return evaluation


def write_large_files(bundle: Path, url: str | None, large: int) -> None:
    """Files over `large` bytes in `large_files.yml`, as `monai.bundle download_large_files` reads it; none for none."""
    paths = [path for path in sorted_files(bundle) if path.stat().st_size > large]
    names = [path.relative_to(bundle).as_posix() for path in paths]
    if names and url is None:
        raise ValueError(
            f"{', '.join(names)}: over {large / 1e6:g} MB, which the Zoo wants kept elsewhere. Give the address below "
            "which they will be found: --large_files_url https://..."
        )
    lines = ["large_files:"]
    for path, name in zip(paths, names):
        lines += [f'- path: "{name}"', f'  url: "{(url or "").rstrip("/")}/{name}"']
        lines += [f'  hash_val: "{file_sha256(path)}"', '  hash_type: "sha256"']
        logger.info(f"leave {name} out of a pull request to the Zoo; large_files.yml says where it is")
    if names:
        (bundle / "large_files.yml").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
