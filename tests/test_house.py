"""The house keeps its order: rooms import one way, and what must stay small does."""

import ast
from collections import Counter

from helpers import ROOT

ROOMS = (
    "runs data slides diffusion models metrics training synthesis selection downstream evaluation reading report zoo "
    "baselines"
).split()
MODULES = {path: ast.parse(path.read_text()) for path in (ROOT / "bundle").rglob("*.py")}


def test_rooms_import_one_way():
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [name.name for name in node.names if name.name.split(".")[0] == "bundle"], path
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            assert not getattr(node, "level", 0), f"{path}: a relative import"
            if module and module.split(".")[0] == "bundle":
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
