"""The kit for a paper: every sentence has its file and goes with it, tables and entries are escaped."""

import csv
import json
import re
import shutil
import sys

import pytest
from evaluated import evaluation, write_evaluation
from helpers import ROOT

from bundle.report.kit import folder as kit
from bundle.report.kit.checklists import ITEMS, NOT_RECORDED, answers
from bundle.report.kit.citations import ENTRIES, bibliography
from bundle.report.kit.latex import escaped, latex_table
from bundle.report.kit.methods import methods
from bundle.report.kit.runs import kind_of, read_runs
from bundle.runs.files import write_json
from bundle.runs.tables import markdown_table, write_csv, write_markdown
from bundle.selection.table import SelectionRow, write_selection

METADATA = json.loads((ROOT / "configs" / "metadata.json").read_text())
BEGIN = ["$import sys", {"_target_": "bundle.runs.workflow.begin", "config": "adapt.json"}]
LICENCE = "x\n  DOI:         10.1234/abc.5, https://doi.org/10.1234/abc.5\n  Attribution: Somebody & others\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of all kinds as the configs leave them."""
    folder = tmp_path_factory.mktemp("runs")
    write_evaluation(folder / "evaluate")
    labelled = {"classes": ["LYM", "TUM"], "patches": {"train": {"LYM": 3, "TUM": 4}, "test": {"LYM": 1, "TUM": 1}}}
    labelled |= {"fingerprint": "ab" * 32, "pretraining_overlap": 2}
    stage = {"steps": 40, "best_step": 30, "seconds": 600.0}
    metrics = {"labelled": labelled, "latent_classifier": stage, "command": "python -m monai.bundle run adapt.json"}
    write_json(folder / "adapt" / "metrics.json", metrics)
    write_json(folder / "adapt" / "config.json", {"initialize": BEGIN, "seed": 7, "patch_size": 32, "device": "$torch"})
    write_json(folder / "adapt" / "software.json", {"python": "3.11", "torch": "2.10.0", "monai": "1.6.1"})
    patches = {"training_patches": 5000, "validation_patches": 60, "validation_slides": ["a", "b"], "steps": 9}
    write_json(folder / "pretrain" / "metrics.json", {"autoencoder": patches})
    rows = [SelectionRow("TUM/TUM_1.png", "TUM", 1, 0.9, 0.1, 1.0, "TUM", 1, True, "kept", 100, 100)]
    facts = {"pool": "pool", "pool_hash": "0a", "split": "0b", "classes": ["TUM"], "ratios": [50, 100]}
    facts |= {"labelled": {"TUM": 4}, "quotas": {"TUM": {50: 2, 100: 4}}, "shortfall": {"TUM": {50: 1, 100: 3}}}
    (folder / "select").mkdir()
    write_selection(folder / "select" / "selection.csv", rows, {**facts, "settings": {"gates": "both"}})
    table = markdown_table(("row", "accuracy"), [["real & 100 %", "0.736 (0.710 to 0.761)"]])
    write_markdown(folder / "study" / "table.md", "Title", [("Images as they are", table)], ["A note of the study."])
    write_csv(folder / "study" / "results.csv", [{"title": "real", "seed": 0, "status": "done", "test_accuracy": 0.7}])
    return folder


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def sentences(folder):
    return " ".join(claim.text for of in methods(read_runs([folder])).values() for claim in of)


SAID = {
    "adapt/metrics.json": ("7 in the part train", "step 30 was kept, in 10 minutes", "2 labelled patches were seen"),
    "adapt/config.json": ("Seeds of the adaptation: seed 7",),
    "adapt/software.json": ("torch 2.10.0",),
    "pretrain/metrics.json": ("5,000 unlabelled patches, with 60 held out from 2 slides",),
    "evaluate/evaluation.json": ("sampler sde_dpm_solver++", "60 synthetic images were compared", "judge_grey, 64"),
    "select/selection.csv": ("Images were selected by these rules: gates both", "50 % and 100 %"),
    "study/table.md": ("A note of the study.",),
    "study/results.csv": ("Classifiers trained: 1, with the seeds 0",),
}


def test_all_files_are_told(made):
    text = sentences(made)
    for of in SAID.values():
        for part in of:
            assert part in text, part


@pytest.mark.parametrize("file", SAID)
def test_without_its_file_a_sentence_goes(copied, file):
    (copied / file).unlink()
    if file.startswith("study"):  # neither says anything without the other
        shutil.rmtree(copied / "study")
    text = sentences(copied)
    for part in SAID[file]:
        assert part not in text, part
    others = [part for name, of in SAID.items() if name.split("/")[0] != file.split("/")[0] for part in of]
    assert all(part in text for part in others)


def test_each_sentence_names_a_file_that_is_there(made):
    for of in methods(read_runs([made])).values():
        for claim in of:
            assert (made / claim.source).is_file(), claim


def test_checklists_answer_what_the_files_hold_and_no_more(made, copied):
    def rows(folder):
        runs = read_runs([folder])
        return {(checklist, item): (text, source) for checklist, item, _, text, source in answers(runs, methods(runs))}

    full = rows(made)
    assert len(full) == len(ITEMS)
    assert full["CLAIM 2024", "23"] == ("Versions of the adaptation: python 3.11, torch 2.10.0, monai 1.6.1.",) + (
        "adapt/software.json",
    )
    assert "agreement without colour: 0.750" in full["CLAIM 2024", "37"][0]
    assert full["CLAIM 2024", "9"] == ("adapt: patch size 32.", "adapt/config.json")
    assert full["CLAIM 2024", "33"] == full["TRIPOD+AI", "14"] == (NOT_RECORDED, "")
    (copied / "adapt" / "software.json").unlink()
    shutil.rmtree(copied / "evaluate")
    less = rows(copied)
    for item in ("23", "28", "32", "37", "39", "40"):
        assert less["CLAIM 2024", item] == (NOT_RECORDED, ""), item


def test_entries_are_of_what_was_used(made, copied):
    text = bibliography(read_runs([made]), METADATA, LICENCE)
    keys = re.findall(r"^@\w+\{(.+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
    used = {"ye2023histodiffusion", "rombach2022", "dhariwal2021", "lu2022", "heusel2017", "binkowski2018", "data_set"}
    assert used | {"kynkaanniemi2019", "software_torch", "software_monai", "histodiffusion_bundle"} == set(keys)
    assert "doi = {10.1234/abc.5}" in text and r"Somebody \& others" in text and "version = {2.10.0}" in text
    assert text.count("{") == text.count("}")
    (copied / "adapt" / "software.json").unlink()
    shutil.rmtree(copied / "evaluate")
    less = bibliography(read_runs([copied]), METADATA, None)
    assert not [key for key in ("software_", "lu2022", "heusel2017", "data_set") if key in less]
    assert all("title" in fields and "year" in fields for _, fields in ENTRIES.values())


def test_latex_holds_no_command_of_a_name():
    assert escaped(r"50 % of a_b & \input{x} $y$ #1 ~^<>") == (
        r"50 \% of a\_b \& \textbackslash{}input\{x\} \$y\$ \#1 "
        r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"
    )
    table = latex_table(("a", "b"), [("x & y", "1\n2")], "of_all", "tab:x")
    assert r"x \& y & 1 2 \\" in table and r"\caption{of\_all}" in table and r"\begin{tabular}{lr}" in table


def test_the_folder(made, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(kit, "write_figures", lambda *given: drawn.append(given))
    assert kit.write_kit(tmp_path, read_runs([made]), METADATA, LICENCE) == []
    names = {path.name for path in tmp_path.iterdir()}
    tables = {f"{stem}_table{end}" for stem in ("main", "study") for end in (".csv", ".tex")}
    assert names == tables | {"methods.md", "methods.tex", "sources.csv", "checklists.csv", "checklists.md"} | {
        "citations.bib",
        "dataset_card.md",
    }
    with open(tmp_path / "main_table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["synthetic"] == "5.12" and rows[0]["interval"] == "4.87 to 5.38" and rows[0]["floor"] == "1.71"
    tex = (tmp_path / "main_table.tex").read_text()
    assert r"frechet (title), judge\_grey & 5.12 & 4.87 to 5.38 & 1.71" in tex
    assert r"real \& 100 \% & 0.736" in (tmp_path / "study_table.tex").read_text()
    assert drawn[0][0] == tmp_path / "figures" and drawn[0][1]["compared"]
    (path,) = (tmp_path / "methods.tex").parent.glob("methods.tex")
    assert r"sampler sde\_dpm\_solver++" in path.read_text()
    assert "Congruence" in (tmp_path / "dataset_card.md").read_text()


def test_what_lacks_is_told(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "write_figures", lambda *given: None)
    missing = kit.write_kit(tmp_path, read_runs([made / "pretrain"]), METADATA)
    assert [line.split(":")[0] for line in missing] == [
        "main table, dataset card and figures of an evaluation",
        "table of the worth to a classifier",
        "versions of the software",
    ]
    assert not (tmp_path / "main_table.tex").exists()


def test_built_in_patches_are_said_and_no_data_set_is_cited(tmp_path):
    write_evaluation(tmp_path / "evaluate", evaluation(built_in=True))
    runs = read_runs([tmp_path])
    assert "nothing here is tissue" in methods(runs)["Data"][0].text
    assert "data_set" not in bibliography(runs, METADATA, LICENCE)


def test_folders_that_nobody_can_mean_are_refused(made, copied, tmp_path):
    assert [kind_of(made / name) for name in ("adapt", "select", "evaluate")] == ["adapt", "select", "evaluate"]
    with pytest.raises(ValueError, match="are both of adapt.json: name the folders of one experiment"):
        read_runs([made, copied])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no output folder of this bundle's configs, and holds none"):
        read_runs([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        read_runs([tmp_path / "nowhere"])


def test_the_command(made, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(ROOT / "scripts"))
    import paper_kit

    monkeypatch.setattr(kit, "write_figures", lambda *given: None)
    paper_kit.main([str(made), "--output_dir", str(tmp_path / "paper")])
    said = capsys.readouterr()
    assert "(evaluate)" in said.out and "missing: model card:" in said.err and "autoencoder.pt" in said.err
    assert (tmp_path / "paper" / "methods.md").is_file() and not (tmp_path / "paper" / "model_card.md").exists()
    with pytest.raises(SystemExit, match="there is no folder"):
        paper_kit.main([str(tmp_path / "nowhere")])
