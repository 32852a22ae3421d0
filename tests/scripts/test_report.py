"""scripts/report.py as it is called: one file of all folders, and what it says when one is not what it should be."""

import re
import shutil
import subprocess
import sys

import pytest
from evaluated import write_evaluation
from PIL import Image

from bundle.runs.files import write_json
from bundle.runs.tables import markdown_table, write_csv, write_markdown
from bundle.selection.table import SelectionRow, write_selection


def report(bundle_root, *arguments):
    command = [sys.executable, str(bundle_root / "scripts" / "report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    write_evaluation(folder / "evaluate")
    table = markdown_table(("row", "accuracy"), [["real only", "0.736 (0.710 to 0.761)"]])
    write_markdown(folder / "study" / "table.md", "Title", [("Images as they are", table)], ["of one seed"])
    write_csv(folder / "study" / "results.csv", [{"row": "real", "title": "real only", "test_accuracy": 0.7357}])
    Image.new("RGB", (30, 20), "white").save(folder / "study" / "accuracy_by_ratio.png")
    rows = [
        SelectionRow("TUM/TUM_1.png", "TUM", 1, 0.9, 0.1, 1.0, "TUM", 1, True, "kept", 100, 100),
        SelectionRow("TUM/TUM_2.png", "TUM", 2, 0.4, 0.1, 1.0, "TUM", None, False, "copy of a.png", None, None),
    ]
    facts = {"pool": "pool", "pool_hash": "0a", "split": "0b", "classes": ["TUM"], "ratios": [100]}
    facts |= {"labelled": {"TUM": 4}, "quotas": {"TUM": {100: 4}}, "shortfall": {"TUM": {100: 3}}}
    (folder / "select").mkdir()
    write_selection(folder / "select" / "selection.csv", rows, {**facts, "settings": {"gates": "both"}})
    write_json(folder / "adapt" / "metrics.json", {"decoder": {"psnr_after": 34.776}})
    return folder


def test_one_page_of_all_folders(bundle_root, folders):
    flags = ["--study_dir", folders / "study", "--selection_dir", folders / "select"]
    flags += ["--adapted_dir", folders / "adapt", "--output", folders / "out" / "page.html"]
    run = report(bundle_root, folders / "evaluate", *flags)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{folders / 'out' / 'page.html'}: 0.") and run.stdout.endswith(" MB\n")
    text = (folders / "out" / "page.html").read_text(encoding="utf-8")
    for part in ("0.736 (0.710 to 0.761)", "of one seed", "0.7357", "a copy</th>", "34.78", "Pathology Atlas"):
        assert part in text, part
    assert "Not measured here: what the images gain" not in text and "no TensorBoard files" in text
    assert [path.name for path in (folders / "out").iterdir()] == ["page.html"]


def test_figures_are_drawn_where_asked(bundle_root, folders, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(bundle_root / "scripts"))
    import report as script

    asked = []
    monkeypatch.setattr(script, "write_figures", lambda *given: asked.append(given) or ["a", "b"])
    flags = ["--adapted_dir", folders / "adapt", "--study_dir", folders / "study", "--output", tmp_path / "page.html"]
    script.main([str(part) for part in (folders / "evaluate", *flags)])
    assert not asked
    script.main([str(part) for part in (folders / "evaluate", *flags, "--figures", tmp_path / "figures")])
    ((folder, content, study, trainings),) = asked
    assert (folder, study, [one["title"] for one in trainings]) == (
        tmp_path / "figures",
        folders / "study",
        ["Adaptation"],
    )
    assert content["compared"] and f"{folder}: 2 figures, each as SVG, PDF and CSV" in capsys.readouterr().out


def test_what_is_missing_is_said_here_too(bundle_root, folders, tmp_path):
    shutil.copytree(folders / "evaluate", tmp_path / "evaluate")
    (tmp_path / "evaluate" / "grids" / "TUM.png").unlink()
    run = report(bundle_root, tmp_path / "evaluate")
    assert run.returncode == 0 and "grids/TUM.png is missing" in run.stderr
    assert (tmp_path / "evaluate" / "report.html").is_file()


@pytest.mark.parametrize(
    "flag, name, error",
    [
        (None, "select", "no .*evaluation.json.*configs/evaluate.json"),
        ("--study_dir", "select", "table.md"),
        ("--selection_dir", "study", "selection.csv"),
        ("--pretrained_dir", "study", "metrics.json"),
        ("--licence_file", "nowhere.txt", "--licence_file"),
    ],
)
def test_a_wrong_folder_is_an_error_in_one_line(bundle_root, folders, flag, name, error):
    arguments = [folders / name] if flag is None else [folders / "evaluate", flag, folders / name]
    run = report(bundle_root, *arguments, "--output", folders / "none.html")
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1
    assert re.search(error, run.stderr)
    assert not (folders / "none.html").exists()
