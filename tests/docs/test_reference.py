"""The tables of the reference: every flag of every config, each with a meaning."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.json")) if "run" in json.loads(path.read_text())]


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT / "docs"))
    from extension import pages

    yield pages
    sys.path.remove(str(ROOT / "docs"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_plain_setting_is_a_flag_with_a_meaning(pages, path):
    config = json.loads(path.read_text())
    flags = {flag.name: pages.settings.meaning(config, flag) for flag in pages.settings.flags(config)}
    plain = {name for name, content in config.items() if content is None or isinstance(content, (bool, int, float))}
    assert plain <= flags.keys() and {"output_dir", "dataset_dir"} & config.keys() <= flags.keys()
    assert all(flags.values()), [name for name, meaning in flags.items() if not meaning]
    placed = [name for name, meaning in flags.items() if meaning.startswith("goes to")]
    assert len(placed) < len(flags) / 4, f"no docstring says what {placed} mean"
    text = pages.config_page(path, config)
    assert all(f"| `--{name}` |" in text for name in flags) and "`run training`" in text or "`run inference`" in text


def test_a_docstring_gives_meanings_through_base_classes_and_what_it_hands_on(pages):
    from extension.docstrings import arguments_of, described, first_sentence

    from bundle.data.labelled import LabelledPatches
    from bundle.downstream.classifier import DownstreamTrainer

    assert "normalise" in described(LabelledPatches, "normalise_stain")  # of PatchStore
    assert "optimiser steps" in described(DownstreamTrainer, "steps")  # of StageTrainer
    assert described(DownstreamTrainer, "nothing_of_the_kind") is None
    text = "X.\n\nArgs:\n    a, b: both,\n        more.\n    c (int): third\n\nReturns:\n    d: none\n"
    assert arguments_of(text) == {"a": "both, more.", "b": "both, more.", "c": "third"}
    assert first_sentence("Of e.g. 3.5 things, see :func:`f`. More") == "Of e.g. 3.5 things, see `f`"


def test_settings_in_sections_are_found_by_their_place(pages):
    config = {
        "seed": 0,
        "demo": "${'steps': 4}",
        "autoencoder": {
            "steps": "$@demo.get('steps', 9)",
            "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.1},
            "trainer": {
                "_target_": "bundle.training.autoencoder.AutoencoderTrainer",
                "steps": "@autoencoder#steps",
                "seed": "@seed",
                "autoencoder_optimizer": "@autoencoder#optimizer",
            },
        },
        "network": {"_target_": "torch.nn.Linear", "in_features": 1},
        "run": [{"_target_": "bundle.training.stage.run_stages", "stages": ["@autoencoder#trainer"]}],
        "training": "@run",
    }
    settings = pages.settings
    assert [flag.name for flag in settings.flags(config)] == ["seed"]
    meanings = {one.name: settings.meaning(config, one) for one in settings.deep_settings(config)}
    assert meanings.keys() == {"autoencoder#steps", "autoencoder#optimizer#lr", "network#in_features"}
    assert (
        "optimiser steps" in meanings["autoencoder#steps"] and "learning rate" in meanings["autoencoder#optimizer#lr"]
    )
    trainer = "bundle.training.autoencoder.AutoencoderTrainer"
    files = ["autoencoder.pt"]
    assert settings.runs(config) == [("run", [trainer], files), ("training", [trainer], files)]


def test_settings_that_a_function_takes_by_name_are_flags_too(pages):
    text = pages.config_page(ROOT / "configs" / "adapt.json", json.loads((ROOT / "configs" / "adapt.json").read_text()))
    assert "| `--generated_per_class` | `60` | built-in patches a class" in text  # of LabelledPatches
    assert "| `--maximum_rejected_share` | `0.01` | share of unreadable files" in text  # of PatchStore
    assert "| `--num_workers` | `0` | processes that load ahead" in text  # of RunContext
    assert "| `--normalise_stain` |" not in text  # the config gives it itself, so no flag would reach it
    assert "| `run decoder` | Trains decoder" in text and "`decoder.pt`" in text
