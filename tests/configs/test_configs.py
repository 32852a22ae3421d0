"""Configs say each thing once, in short lines, and a stage has one name."""

import itertools
import json
import pydoc
import re
from collections import Counter

from helpers import ROOT

CONFIGS = {path.name: path.read_text().splitlines() for path in (ROOT / "configs").glob("*.json")}
BRACKETS = re.compile(r"[\s{}\[\],]*")


def test_configs_say_each_thing_once():
    blocks = Counter()
    for name, lines in CONFIGS.items():
        assert all(len(line) <= 120 for line in lines) or name == "metadata.json", name
        said = [line.strip() for line in lines if not BRACKETS.fullmatch(line)]
        blocks.update({tuple(said[at : at + 6]) for at in range(len(said) - 5)})
    repeated = [block for block, count in blocks.items() if count > 2]
    assert not repeated, "\n".join(itertools.chain.from_iterable(repeated[:1]))
    assert not re.search(r"inspect\.|stack\(", "".join(map("".join, CONFIGS.values())))


def test_a_stage_has_one_name():
    """That of its trainer is the config's section or run id, the prefix of its steps, and so its file and metrics."""
    for name in CONFIGS:
        config = json.loads((ROOT / "configs" / name).read_text())
        sections = {
            id: part for id, part in config.items() if isinstance(part, dict) and "steps" in part.get("trainer", ())
        }
        for section, part in sections.items():
            made = pydoc.locate(part["trainer"]["_target_"])
            stage = getattr(made, "section", "") or getattr(made, "stage", "") or section
            assert part["trainer"]["steps"] == f"@{stage}_steps", f"{name}: {section}"
            assert (
                stage == section or section == "train" and (stage in config or len(sections) == 1)
            ), f"{name}: {stage}"
