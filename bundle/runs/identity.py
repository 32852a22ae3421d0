"""What decides how a stage trains, read off the config that runs it: a resumed run must share all of it.

A setting cannot be forgotten here, since none is written down twice: every value that the stage's section holds or
refers to counts, but for `LEFT_OUT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigParser

from bundle.runs.workflow import is_plain, is_setting

# Where and how fast things are computed, what is only looked at, and what has a fingerprint of its own.
LEFT_OUT = {
    "context", "device", "accumulate", "activation_checkpointing",
    "num_workers", "inference_batch_size", "cache_gigabytes", "max_epochs",
    "val_interval", "picture_interval", "num_inference_steps", "eta", "train_handlers", "evaluator", "_mode_",
    "maximum_unused", "folder", "labelled", "patches", "pretrained", "run",
}  # fmt: skip
# Where files lie and which they must be: what is there is compared by its fingerprint.
PATHS = re.compile(r"(_dir|_file|_path|_weights|^weights|_sha256|^sha256)$")
REFERENCE = re.compile(r"@([\w:#]+)")


def stage_settings(parser: ConfigParser, stage: str) -> dict[str, Any]:
    """{flag: value} of all that the config's section of a stage holds or refers to, as plain data.

    Args:
        parser: of the running config.
        stage: its name; a stage without a trainer in a section of that name is the one in `train`.
    """
    section = parser.get(stage)
    own = isinstance(section, dict) and "trainer" in section
    values = _values(parser, f"{stage if own else 'train'}::trainer", set())
    return {f"--{place.replace('::', '#')}": value for place, value in values}


def _values(parser: ConfigParser, place: str, seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Places and values below one place, each once, references followed."""
    holder, name = place.split("::")[-2:] if "::" in place else ("", place)
    left_out = name in LEFT_OUT or PATHS.search(name) or (name == "steps" and holder == "trainer")
    if left_out or place in seen or place not in parser:
        return
    seen.add(place)
    content = parser[place]
    if name == "_target_":
        yield place, str(content).split(".")[-1]  # a class may move between modules
    elif isinstance(content, dict):
        for key in content:
            yield from _values(parser, f"{place}::{key}", seen)
    elif isinstance(content, list) and not is_setting(content):
        for number in range(len(content)):
            yield from _values(parser, f"{place}::{number}", seen)
    elif isinstance(content, str) and content.startswith("$"):
        value = parser.get_parsed_content(place)
        yield place, value if is_plain(value) else content
        for reference in () if is_plain(value) else REFERENCE.findall(content):
            yield from _values(parser, reference.replace("#", "::"), seen)
    elif isinstance(content, str) and content.startswith("@"):
        yield from _values(parser, content[1:].replace("#", "::"), seen)
    else:
        yield place, content
