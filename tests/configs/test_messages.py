"""Each flag that a message names can be given: a config, a tool of scripts/ or MONAI's command line knows it."""

import ast
import json
import re

import pytest
from helpers import ROOT, by_name
from monai.bundle import ConfigParser

FLAG = re.compile(r"(?<![\w-])--([a-z_0-9]*[a-z0-9](?:#\w+)*)(?!\w)")
OF_MONAI = {
    "bundle_path", "bundle_root", "ckpt_file", "config_file", "converter_kwargs", "filepath", "meta_file", "net_id",
    "tracking", "use_trace",
}  # fmt: skip
CONFIGS = [
    ConfigParser(json.loads(path.read_text()))
    for path in (ROOT / "configs").glob("*.json")
    if path.name != "metadata.json"
]
# Any one, and those of sha256sum, vips and torchrun.
OTHERS = {"flag", "check", "tile", "pyramid", "compression", "xres", "yres", "nproc_per_node"}
TAKEN = OF_MONAI.union(OTHERS, *(by_name(config.get()) for config in CONFIGS))
OF_SCRIPTS = set(re.findall(r"\"--(\w+)\"", "".join(path.read_text() for path in (ROOT / "scripts").glob("*.py"))))


def is_known(flag):
    return flag in TAKEN | OF_SCRIPTS or any(flag.replace("#", "::") in config for config in CONFIGS)


@pytest.mark.parametrize("path", sorted((ROOT / "bundle").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_that_the_code_names_are_there(path):
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    named = {flag for text in texts if isinstance(text, str) for flag in FLAG.findall(text)}
    assert not {flag for flag in named if not is_known(flag)}


def test_a_flag_that_is_not_there_would_be_found():
    assert FLAG.findall("raise --classifier_step or --train#trainer#stride") == [
        "classifier_step",
        "train#trainer#stride",
    ]
    assert is_known("classifier_steps") and is_known("train#trainer#steps")
    assert not is_known("classifier_step") and not is_known("train#trainer#stride")
