"""docs/README.md in the Zoo's form and docs/model_card.md, filled with facts of the weights and their measurements."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bundle.models.adapted import AdaptedModels
from bundle.runs.tables import markdown_row, markdown_table, markdown_text
from bundle.zoo.measured import Table, evaluation_tables, tables, training_rows

PAGES = ("README.md", "model_card.md")
TITLES = {"pretrain": "pre-training", "adapt": "adaptation", "diffusion": "adaptation of the diffusion model"}


def facts_of_pages(
    metadata: Mapping[str, Any],
    models: AdaptedModels,
    weights_sha256: str,
    metrics: Mapping[str, Mapping],
    origins: Mapping[str, Mapping],
    evaluation: Mapping[str, Any] | None,
    licence: str,
) -> dict[str, Any]:
    """What the templates take.

    Args:
        metadata: of the packaged bundle.
        models: the packaged networks.
        weights_sha256: of model.pt.
        metrics, evaluation: see `bundle.zoo.measured.eval_metrics`.
        origins: content of `origin.json` by the same names as of `metrics`: the command that trained, the commit.
        licence: text of the data's licence.
    """
    networks = {"autoencoder": models.autoencoder, "diffusion model": models.diffusion, "classifier": models.classifier}
    labelled = metrics.get("adapt", {}).get("labelled", {})
    built_in = labelled.get("built_in_patches") or metrics.get("pretrain", {}).get("autoencoder", {}).get(
        "built_in_patches"
    )
    packages = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    packages |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    return {
        "metadata": metadata,
        "packages": [f"{name}=={version}" for name, version in packages.items()],
        "patch_size": models.patch_size,
        "latents": metadata["network_data_format"]["inputs"]["image"],
        "classes": models.classes,
        "decoder": models.decoder,
        "timesteps": models.schedule.timesteps,
        "parameters": {name: sum(map(lambda one: one.numel(), part.parameters())) for name, part in networks.items()},
        "weights_sha256": weights_sha256,
        "fingerprint": models.fingerprint,
        "built_in": bool(built_in),
        "pretraining": metrics.get("pretrain", {}).get("autoencoder", {}),
        "labelled": labelled.get("patches", {}),
        "origins": {TITLES[name]: origin for name, origin in origins.items()},
        "training": [(TITLES[origin], *row) for origin, *row in training_rows(metrics)],
        "measured": tables(metrics),
        "evaluated": evaluation_tables(evaluation) if evaluation else [],
        "evaluation": evaluation,
        "licence": licence.strip(),
        "written_by": "scripts/package.py",
        "weights": "models/model.pt",
    }


def write_pages(folder: Path, facts: Mapping[str, Any], pages: Mapping[str, str] | None = None) -> None:
    """Writes pages into a folder.

    Args:
        folder: where to.
        facts: as of :func:`facts_of_pages`, with what else a template needs.
        pages: template of each page, by the page's name; `PAGES` by their own names where None.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown has marks of its own, which `shown` escapes
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "row": row, "code": code, "shell": shell}
    for page, template in (pages or {page: f"{page}.j2" for page in PAGES}).items():
        text = environment.get_template(template).render(facts)
        (folder / page).write_text(text, encoding="utf-8", newline="\n")


class Ready(str):
    """Markdown, to be written as it stands."""


def shown(value: Any) -> Any:
    """What the templates write for a value: names of classes and slides, and commands, may be a stranger's."""
    return markdown_text(value) if isinstance(value, str) and not isinstance(value, Ready) else value


def markdown(table: Table) -> Ready:
    """A table in Markdown."""
    return Ready(markdown_table(table.columns, table.rows).rstrip())


def row(cells: Iterable[Any]) -> Ready:
    """A line of a table."""
    return Ready(markdown_row(cells))


def code(text: Any) -> Ready:
    """A text within backticks, which none in it may end."""
    return Ready(str(text).replace("`", "'"))


def shell(name: Any) -> Ready:
    """A word of a command that is there to be copied."""
    return code(shlex.quote(" ".join(str(name).split())))
