"""What was measured of the weights, out of the files that measured it: for `eval_metrics` and for the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundle.report.evaluation_folder import plain_text
from bundle.report.measured import READINGS, as_texts, is_figure, reading

RECONSTRUCTIONS = {
    "images": "images",
    "before.psnr": "PSNR in dB, pre-trained decoder",
    "after.psnr": "PSNR in dB, fine-tuned decoder",
    "before.ssim": "SSIM, pre-trained decoder",
    "after.ssim": "SSIM, fine-tuned decoder",
    "before.perceptual_distance": "perceptual distance, pre-trained decoder",
    "after.perceptual_distance": "perceptual distance, fine-tuned decoder",
    "original.agreement.grey": "accuracy of the grey judge on the originals",
    "after.agreement.grey": "accuracy of the grey judge after reconstruction",
}
CLASSIFICATION = {
    "images": "images",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "cross_entropy": "cross-entropy",
}
# Title, file that it is from, place in that file, and what is told of it, by place and title.
TABLES: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "Autoencoder, held-out patches",
        "pretrain",
        "autoencoder",
        {
            "validation_patches": "patches",
            "psnr": "PSNR in dB",
            "ssim": "SSIM",
            "lpips": "LPIPS",
            "perceptual_distance": "perceptual distance",
            "perceptual_network": "network of that distance",
        },
    ),
    ("Diffusion model, held-out patches", "pretrain", "diffusion", {"loss": "loss"}),
    (
        "Diffusion model, adapted",
        "diffusion",
        "diffusion",
        {
            "loss_before": "loss on target patches, before",
            "loss_after": "loss on target patches, after",
            "copies.images": "samples looked at for copies",
            "copies.share_of_copies": "share of copies among them",
        },
    ),
    ("Decoder, other tiles of the slides it was tuned to", "adapt", "decoder.same_slides", RECONSTRUCTIONS),
    ("Decoder, held-out slides", "adapt", "decoder.held_out_slides", RECONSTRUCTIONS),
    (
        "Image classifier, other tiles of the slides it was trained on",
        "adapt",
        "image_classifier.unused",
        CLASSIFICATION,
    ),
    ("Image classifier, held-out slides", "adapt", "image_classifier.test", CLASSIFICATION),
    *(
        (f"Judge, {view}, held-out slides", "adapt", f"judge_{view}.held_out_slides", CLASSIFICATION)
        for view in ("colour", "grey", "normalised")
    ),
)
BY_NOISE = "Latent classifier, accuracy by noise level"
NOISE_PARTS = {"unused": "other tiles of the same slides", "test": "held-out slides"}


@dataclass(frozen=True)
class Table:
    """Figures of one kind: rows of texts under `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def at(content: Any, place: str) -> Any:
    """What a nested dictionary has at "a.b.c", or None."""
    for name in place.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def eval_metrics(metrics: Mapping[str, Mapping], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """All measured numbers by name, such as `decoder_held_out_slides_after_psnr`.

    Args:
        metrics: content of `metrics.json` of the pre-training ("pretrain"), the adaptation ("adapt") and an adapted
            diffusion model ("diffusion"), those that there are.
        evaluation: content of `evaluation.json`, or None.
    """
    found: dict[str, Any] = {}
    for _, origin, place, names in TABLES:
        for name in names:
            value = at(metrics.get(origin, {}), f"{place}.{name}")
            if isinstance(value, (int, float)):
                found[f"{place}.{name}".replace(".", "_")] = value
    for level in noise_levels(metrics):
        for part in NOISE_PARTS:
            if (value := at(level, f"{part}.accuracy")) is not None:
                found[f"latent_classifier_{part}_accuracy_at_{level['timestep']}".replace(" ", "_")] = value
    for section, _, name, figure in figures(evaluation or {}):
        found[f"synthetic_{section}_{name}"] = {key: figure[key] for key in figure if key not in ("better", "note")}
    return found


def tables(metrics: Mapping[str, Mapping]) -> list[Table]:
    """The same of the trainings, as tables; those of which nothing was measured are left out."""
    found = []
    for title, origin, place, names in TABLES:
        values = {shown: at(metrics.get(origin, {}), f"{place}.{name}") for name, shown in names.items()}
        rows = [(shown, plain_text(value)) for shown, value in values.items() if value is not None]
        if rows:
            found.append(Table(title, ("", "measured"), rows))
    if levels := noise_levels(metrics):
        parts = {part: shown for part, shown in NOISE_PARTS.items() if part in levels[0]}
        rows = [
            (str(level["timestep"]), *(plain_text(at(level, f"{part}.accuracy")) for part in parts)) for level in levels
        ]
        found.append(Table(BY_NOISE, ("timestep", *parts.values()), rows))
    return found


def noise_levels(metrics: Mapping[str, Mapping]) -> list[Mapping[str, Any]]:
    return at(metrics.get("adapt", {}), "latent_classifier.accuracy_by_timestep") or []


def evaluation_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Figures of synthetic images over all classes, each beside that of as many real images, its floor."""
    found: dict[str, Table] = {}
    for section, title, _, figure in figures(evaluation):
        columns = ("", "synthetic", "95 % interval", "real (floor)", "95 % interval", "reading")
        table = found.setdefault(section, Table(section.replace("_", " ").capitalize(), columns, []))
        texts = as_texts(figure)
        cells = (texts.get(name, "") for name in ("value", "interval", "floor", "floor_interval"))
        table.rows.append((title, *cells, READINGS[reading(figure)]))
    return list(found.values())


def figures(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(section, title, name, figure) of every figure over all classes."""
    sections = {f"fidelity_{name}": found for name, found in evaluation.get("fidelity", {}).items()}
    sections |= {name: evaluation[name] for name in ("agreement", "stain", "nuclei", "copies") if name in evaluation}
    for section, content in sections.items():
        for name, figure in (content or {}).get("overall", {}).items():
            if is_figure(figure):
                yield section, at(content, f"metrics.{name}.title") or name.replace("_", " "), name, figure


def training_rows(metrics: Mapping[str, Mapping]) -> list[tuple[str, ...]]:
    """(training, stage, steps, minutes) of each stage."""
    return [
        (origin, stage.replace("_", " "), plain_text(content.get("steps")), f"{content['seconds'] / 60:.0f}")
        for origin, found in metrics.items()
        for stage, content in found.items()
        if isinstance(content, Mapping) and "seconds" in content
    ]
