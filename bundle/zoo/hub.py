"""A folder for the Hugging Face hub: weights as safetensors, their card, licences, pictures and an example."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch

from bundle.models.adapted import AdaptedModels, save_packed
from bundle.models.packed import SAFE_WEIGHTS
from bundle.report.evaluation_folder import synthetic_grids
from bundle.runs.files import explain_full_disk
from bundle.runs.sums import SUMS, file_sha256, read_sums, write_sums
from bundle.zoo.package import assembled, described, origin_of, read_evaluation, read_object
from bundle.zoo.pages import facts_of_pages, write_pages

TOKEN = "HF_TOKEN"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def build_hub(
    source: Path,
    output_dir: Path,
    adapted_dir: Path,
    pretrained_dir: Path | None = None,
    diffusion_dir: Path | None = None,
    evaluation_dir: Path | None = None,
    licence_file: Path | None = None,
) -> Path:
    """Writes the folder; it is there once it has loaded again.

    Args:
        source: the repository.
        output_dir: the folder, which must not be there yet.
        adapted_dir: folder of an adaptation.
        pretrained_dir: folder of its pre-training, for what the card says of it.
        diffusion_dir: folder of a diffusion model that takes the place of the adaptation's.
        evaluation_dir: folder of `configs/evaluate.json`, of images made by these weights; its synthetic grids are
            shown, its pictures of real tiles are not copied.
        licence_file: of the data; docs/data_license.txt where None.

    Returns:
        the folder.

    Raises:
        FileExistsError: it is there already.
        FileNotFoundError, ValueError: see `bundle.zoo.package.build_package`.
    """
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} is there already: remove it, or give another --output_dir")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with (
        explain_full_disk(output_dir, ", or give an --output_dir on another disk,"),
        tempfile.TemporaryDirectory(prefix=".hub.", dir=output_dir.parent) as temporary,
    ):
        folder = Path(temporary) / "hub"
        models, half = assembled(adapted_dir, diffusion_dir)
        evaluation = read_evaluation(evaluation_dir, models)
        save_packed(models, folder, half=half, safe=True)
        shutil.copyfile(source / "LICENSE", folder / "LICENSE")
        shutil.copyfile(source / "docs" / "zoo" / "hub_example.py", folder / "example.py")
        licence = (licence_file or source / "docs" / "data_license.txt").read_text(encoding="utf-8")
        (folder / "LICENSE_OF_WEIGHTS.txt").write_text(licence, encoding="utf-8", newline="\n")
        grids = []
        for number, (name, path) in enumerate(synthetic_grids(evaluation_dir, models.classes)):
            grids.append((name, f"samples_{number}.png"))  # a class may have a name that no address can have
            shutil.copyfile(path, folder / grids[-1][1])
        folders = {"pretrain": pretrained_dir, "adapt": adapted_dir, "diffusion": diffusion_dir}
        metrics = {origin: read_object(place / "metrics.json") for origin, place in folders.items() if place}
        origins = {origin: origin_of(folders[origin], metrics[origin]) for origin in metrics}
        metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
        sha256 = file_sha256(folder / SAFE_WEIGHTS)
        facts = facts_of_pages(described(metadata, models), models, sha256, metrics, origins, evaluation, licence)
        facts |= {"written_by": "scripts/publish_hub.py", "weights": SAFE_WEIGHTS, "grids": grids}
        write_pages(folder, facts, {"README.md": "hub.md.j2"})
        write_sums(folder)
        check_hub(folder, models.fingerprint)
        os.replace(folder, output_dir)
    return output_dir


def check_hub(folder: Path, expected: str | None = None) -> AdaptedModels:
    """Loads a folder as whoever got it does: all its files as recorded, its networks built, one image decoded.

    Args:
        folder: of :func:`build_hub`, or a download of it.
        expected: the fingerprint that its models must have; None for any.

    Raises:
        FileNotFoundError, ValueError: a file is missing or another, or the networks don't give numbers.
    """
    if not (folder / SUMS).is_file():
        raise FileNotFoundError(
            f"{folder} has no {SUMS}: it is not a folder of scripts/publish_hub.py, or not all of it"
        )
    for name, recorded in read_sums(folder / SUMS).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != recorded:
            raise ValueError(
                f"{folder / name} is missing or another than {SUMS} records: write or get the folder again"
            )
    models = AdaptedModels(folder).prepare()
    if expected is not None and models.fingerprint != expected:
        raise ValueError(f"{folder} holds the models {models.fingerprint}, not {expected}: write or get it again")
    side = models.patch_size // 2 ** (len(models.facts["autoencoder"]["definition"]["channels"]) - 1)
    with torch.inference_mode():
        image = models.decode(torch.zeros(1, len(models.latent["mean"]), side, side, device=models.device))
    if not image.isfinite().all():
        raise ValueError(f"the weights of {folder} decode to what is no number: train again, or give other weights")
    return models


def push(folder: Path, repository: str) -> str:
    """Uploads the folder, gets it back and checks what came.

    A new repository is private: its owner looks at it before anybody else does. The token is read from the
    environment and goes to huggingface_hub alone.

    Args:
        folder: of :func:`build_hub`.
        repository: OWNER/NAME.

    Returns:
        the address of the commit.

    Raises:
        ValueError: no token, a name that is none, or a file in the folder that is not of it.
        ImportError: huggingface_hub is missing; says how to install it.
        OSError: the hub refuses or can't be reached.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"--push is {repository!r}; it must be OWNER/NAME of a repository on the hub")
    token = os.environ.get(TOKEN)
    if not token:
        raise ValueError(f"--push needs your own token of the hub in the environment: export {TOKEN}=...")
    try:
        from huggingface_hub import HfApi, snapshot_download  # here, as only this needs it
    except ImportError as error:
        raise ImportError("--push needs the package huggingface_hub: pip install 'histodiffusion[hub]'") from error
    models = check_hub(folder)
    own = {SUMS, *read_sums(folder / SUMS)}
    strange = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if strange:  # such as a picture of real tiles, put there to look at
        raise ValueError(
            f"{folder} holds {strange[0]}, which {SUMS} does not record: remove it, or write the folder again"
        )
    with tempfile.TemporaryDirectory() as temporary:
        try:
            api = HfApi(token=token)
            api.create_repo(repository, private=True, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Weights, card, example")
            snapshot_download(repository, revision=commit.oid, local_dir=temporary, token=token)
        except Exception as error:  # of a library over a network
            said = str(error).replace(token, "(token)")
            raise OSError(
                f"the hub did not take {folder} as {repository} ({said}): look at the name, and whether the token may "
                "write; give the same command again"
            ) from None
        check_hub(Path(temporary), models.fingerprint)
    return str(commit.commit_url)
