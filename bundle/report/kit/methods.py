"""The methods of a paper as sentences, each with the file that holds what it says; without the file, no sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundle.models.artefacts import read_artefact
from bundle.report.evaluation_folder import plain_text, readable, told
from bundle.report.kit.runs import Run, Runs
from bundle.report.measured import sections
from bundle.report.neighbours import read_study
from bundle.report.summary import floor_is, listed

TITLES = {
    "pretrain": "pre-training",
    "adapt": "adaptation",
    "inference": "synthesis",
    "select": "selection",
    "evaluate": "evaluation",
    "study": "study",
}
NETWORKS = {
    ("pretrain", "autoencoder"): "autoencoder",
    ("pretrain", "diffusion"): "diffusion model",
    ("adapt", "latent_classifier"): "classifier of noisy latents",
}


@dataclass(frozen=True)
class Claim:
    """A sentence, and the file that it is from."""

    text: str
    source: str


def methods(runs: Runs) -> dict[str, list[Claim]]:
    """Heading -> sentences; a heading without any is left out."""
    parts: dict[str, Callable[[Runs], Iterator[Claim]]] = {
        "Data": _data,
        "Models": _models,
        "Training": _training,
        "Sampling": _sampling,
        "Selection": _selection,
        "Evaluation and statistics": _evaluation,
        "Worth to a classifier": _study,
        "Software and reproduction": _software,
    }
    found = {title: list(part(runs)) for title, part in parts.items()}
    return {title: claims for title, claims in found.items() if claims}


def _data(runs: Runs) -> Iterator[Claim]:
    if runs.built_in:
        yield Claim("All patches are built-in ones, drawn by a program: nothing here is tissue.", "metrics.json")
    pretrain = runs.of.get("pretrain")
    found = pretrain.metrics.get("autoencoder", {}) if pretrain else {}
    if "training_patches" in found:
        text = f"Pre-training used {found['training_patches']:,} unlabelled patches"
        text += f", with {found['validation_patches']:,} held out" if "validation_patches" in found else ""
        slides = found.get("validation_slides")
        text += f" from {len(slides)} slides that nothing was trained on" if slides else ""
        yield Claim(f"{text}.", pretrain.file("metrics.json"))
    labelled, source = runs.labelled
    if "patches" in labelled:
        classes = labelled.get("classes", [])
        yield Claim(f"The labelled patches are of {len(classes)} classes: {listed(classes)}.", source)
        counts = [
            f"{sum(of.values()):,} in the part {part}" for part, of in labelled["patches"].items() if any(of.values())
        ]
        yield Claim(f"They number {listed(counts)}.", source)
    if isinstance(labelled.get("pretraining_overlap"), int):
        yield Claim(f"{labelled['pretraining_overlap']:,} labelled patches were seen in pre-training as well.", source)


def _models(runs: Runs) -> Iterator[Claim]:
    for (kind, name), title in NETWORKS.items():
        run = runs.of.get(kind)
        if run and (run.folder / f"{name}.pt").is_file():
            content = read_artefact(run.folder / f"{name}.pt", name)
            count = sum(tensor.numel() for tensor in content["weights"].values())
            network = content["definition"]["_target_"].rsplit(".", 1)[-1]
            text = f"The {title} ({network}) has {count:,} parameters"
            if "patch_size" in content:
                text += f" and is for patches of {content['patch_size']} x {content['patch_size']} pixels"
            yield Claim(f"{text}.", run.file(f"{name}.pt"))


def _training(runs: Runs) -> Iterator[Claim]:
    for kind, run in runs.of.items():
        for stage, found in run.metrics.items():
            if isinstance(found, Mapping) and "steps" in found:
                # Published figures lie beside the diffusion model that was adapted, and its training's record.
                of = TITLES["adapt" if kind == "evaluate" else kind].capitalize()
                text = f"{of}, {readable(stage)}: {plain_text(found['steps'])} optimiser steps"
                text += f", of which step {found['best_step']} was kept" if "best_step" in found else ""
                text += f", in {found['seconds'] / 60:.0f} minutes" if "seconds" in found else ""
                yield Claim(f"{text}.", run.file("metrics.json"))


def _sampling(runs: Runs) -> Iterator[Claim]:
    for settings, source in (
        (runs.evaluation.get("synthetic", {}).get("settings"), "evaluate/evaluation.json"),
        (_metrics(runs, "inference").get("synthesis", {}).get("settings"), "inference/metrics.json"),
    ):
        if settings:
            given = {name: value for name, value in settings.items() if value is not None}
            yield Claim(f"Images were sampled with these settings: {told(given)}.", source)
            return


def _selection(runs: Runs) -> Iterator[Claim]:
    if runs.selection:
        source, settings = "select/selection.csv", runs.selection.get("settings", {})
        yield Claim(f"Images were selected by these rules: {told(settings)}.", source)
        yield Claim(
            f"Selected sets are {listed([f'{ratio} %' for ratio in runs.selection['ratios']])} of the labelled.", source
        )


def _evaluation(runs: Runs) -> Iterator[Claim]:
    found, source = runs.evaluation, "evaluate/evaluation.json"
    if not found:
        return
    total, part = sum(found["compared"].values()), found["reference"].get("part")
    of = f" of the part {part}" if part else ""
    yield Claim(
        f"{total:,} synthetic images were compared with as many real ones{of}, class by class in equal number.", source
    )
    yield Claim(f"Every figure stands beside its floor, the same figure of real images {floor_is(found)}.", source)
    for extractor in found.get("extractors", ()):
        text = f"Features are those of {extractor['name']}, {extractor['dimension']} numbers an image (resizing: "
        text += f"{extractor['resize']}; weights of SHA-256 {extractor['weights_sha256'][:12]})"
        yield Claim(f"{text}.", source)
    draws = found.get("settings", {}).get("draws")
    if draws:
        yield Claim(f"Where intervals are drawn, they are of {draws:,} draws of the images with replacement.", source)
    told_of = [note for _, section in sections(found) for note in section.get("notes", ()) if "nterval" in note]
    for note in dict.fromkeys(told_of):
        yield Claim(note if note.endswith(".") else f"{note}.", source)
    for note in dict.fromkeys(found.get("notes", ())):
        yield Claim(f"Note: {note}.", source)


def _study(runs: Runs) -> Iterator[Claim]:
    run = runs.of.get("study")
    if run is None or not (run.folder / "results.csv").is_file():
        return
    content = read_study(run.folder)
    header, rows = content["runs"]
    done = [row for row in rows if "status" not in header or row[header.index("status")] == "done"]
    text = f"Classifiers trained: {len(done)}"
    if "seed" in header:
        text += f", with the seeds {listed(sorted({row[header.index('seed')] for row in done}))}"
    yield Claim(f"{text}.", run.file("results.csv"))
    for note in content["notes"]:
        yield Claim(note if note.endswith(".") else f"{note}.", run.file("table.md"))


def _software(runs: Runs) -> Iterator[Claim]:
    for kind, run in runs.of.items():
        seeds = {
            name: run.config[name] for name in ("seed", "split_seed", "seeds") if isinstance(run.config.get(name), int)
        }
        if seeds:
            yield Claim(f"Seeds of the {TITLES[kind]}: {told(seeds)}.", run.file("config.json"))
        if "precision" in run.config:
            yield Claim(f"Precision of the {TITLES[kind]}: {run.config['precision']}.", run.file("config.json"))
    for kind, run in runs.of.items():
        if run.software:
            yield Claim(f"Versions of the {TITLES[kind]}: {told(run.software)}.", run.file("software.json"))
    for kind, run in runs.of.items():
        yield from _command(kind, run)


def _command(kind: str, run: Run) -> Iterator[Claim]:
    for found, name in ((run.origin, "origin.json"), (run.metrics, "metrics.json")):
        if found.get("command"):
            commit = f" (commit {found['commit']})" if found.get("commit") else ""
            config = re.search(r"(\w+)\.json", found["command"])
            of = TITLES.get(config[1], TITLES[kind]) if config else TITLES[kind]
            yield Claim(f"Command of the {of}{commit}: {found['command']}", run.file(name))
            return


def _metrics(runs: Runs, kind: str) -> Mapping[str, Any]:
    return runs.of[kind].metrics if kind in runs.of else {}
