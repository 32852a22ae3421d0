"""Pages of a package: what a stranger may have named stays text, in Markdown and in the commands to copy."""

import json
import re
import shlex
from types import SimpleNamespace

import torch

from bundle.zoo.pages import PAGES, facts_of_pages, write_pages

NAMES = ["<img src=//a.org>", "x | y", "[a](https://a.org)\n# b", "`c`", "$(touch /tmp/evil); *d*"]


def written(bundle_root, folder, classes):
    part = torch.nn.Linear(1, 1)
    models = SimpleNamespace(autoencoder=part, diffusion=part, classifier=part, classes=classes, patch_size=64)
    models.schedule, models.decoder, models.fingerprint = SimpleNamespace(timesteps=9), "adapted", "f" * 64
    counts = {"train": {name: 3 for name in classes}}
    metrics = {"adapt": {"labelled": {"patches": counts}, f"stage {classes[0]}": {"steps": 3, "seconds": 60}}}
    metrics["pretrain"] = {
        "autoencoder": {"training_patches": 8, "validation_patches": 2, "validation_slides": classes}
    }
    metrics["pretrain"]["autoencoder"]["perceptual_network"] = classes[0]
    origins = {"adapt": {"command": f"run ```\n# {classes[0]}", "commit": classes[0]}}
    figure = {"value": 0.5, "floor": 0.25, "interval": [0.5, 0.5], "floor_interval": [0.2, 0.3], "better": "lower"}
    found = {"overall": {"kid": figure}, "metrics": {"kid": {"title": classes[0]}}}
    evaluation = {"synthetic": {"images": counts["train"], "settings": {classes[0]: classes[0]}}}
    evaluation |= {"reference": {"part": classes[0]}, "floor": {"part": classes[0]}, "compared": counts["train"]}
    evaluation["fidelity"] = {classes[0]: found}
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    write_pages(folder, facts_of_pages(metadata, models, "a" * 64, metrics, origins, evaluation, "A licence.\n```"))
    return [(folder / page).read_text() for page in PAGES]


def test_names_stay_text(bundle_root, tmp_path):
    plain = written(bundle_root, tmp_path, ["ADI"] * len(NAMES))
    for name in NAMES:
        for page, usual in zip(written(bundle_root, tmp_path, [name, *NAMES[1:]]), plain):
            fences = re.findall("^```.*$", page, re.MULTILINE)
            assert fences == re.findall("^```.*$", usual, re.MULTILINE)
            assert [len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line[:1] == "|"] == [
                line.count("|") for line in usual.splitlines() if line[:1] == "|"
            ]
            prose = re.sub(r"```.*?^```|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)
            assert not re.search(r"(?<!\\)<|(?<!\\)\[[ab]|^# b|(?<!\\)`", prose, re.MULTILINE), prose


def test_the_commands_to_copy_have_one_word_for_a_class(bundle_root, tmp_path):
    readme = written(bundle_root, tmp_path, NAMES[::-1])[0]
    (given,) = re.findall("`--classes ([^`]*)`", readme)
    assert shlex.split(given) == ["$(touch /tmp/evil); *d*"]
    assert "`--classes ADI`" in written(bundle_root, tmp_path, ["ADI"])[0]
