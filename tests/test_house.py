"""The house keeps its order: rooms import one way, and what must stay small does."""

import ast
import itertools
import json
import pydoc
import re
from collections import Counter

from helpers import ROOT

ROOMS = (
    "runs data diffusion models metrics training synthesis selection downstream evaluation report zoo baselines".split()
)
MODULES = {path: ast.parse(path.read_text()) for path in (ROOT / "bundle").rglob("*.py")}
CONFIGS = {path.name: path.read_text().splitlines() for path in (ROOT / "configs").glob("*.json")}
BRACKETS = re.compile(r"[\s{}\[\],]*")


def test_rooms_import_one_way():
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("bundle."):
                room, taken = path.relative_to(ROOT / "bundle").parts[0], module.split(".")[1]
                assert ROOMS.index(taken) <= ROOMS.index(room), f"{path} imports {module}"


def test_modules_are_at_home_and_small():
    assert [path.name for path in (ROOT / "bundle").glob("*.py")] == ["__init__.py"]
    names = Counter(path.name for path in MODULES if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 2]
    for path, tree in MODULES.items():
        assert len(path.read_text().splitlines()) <= 350, path
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            own = len([name for name in given if name not in ("self", "cls")])
            assert own <= 10, f"{path}: {node.name}"


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
