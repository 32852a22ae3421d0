"""Each figure of the report as SVG, PDF and CSV, with the numbers of the file."""

import csv
import xml.etree.ElementTree as ElementTree

import pytest
from evaluated import evaluation

from bundle.report.measured import all_figures
from bundle.report.training import curve
from bundle.report.vector_figures import write_figures
from bundle.runs.tables import write_csv


def few(classes=("LYM", "NORM", "TUM")):
    """An evaluation of fewer figures, as each costs a drawing."""
    content = evaluation(classes)
    kept = {"frechet", "kid"}
    section = content["fidelity"]["judge_grey"]
    section["overall"] = {name: section["overall"][name] for name in kept}
    for of in section["classes"].values():
        of.pop("precision")
    for view in ("colour",):
        content["agreement"]["confusion"].pop(view)
    content["agreement"]["overall"].pop("agreement_colour")
    for of in content["agreement"]["classes"].values():
        of.pop("agreement_colour")
    for name in ("nuclei", "copies"):
        del content[name]
    return content


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    runs = [
        {"title": f"HistoDiffusion, selective {ratio} %", "variant": "plain", "selection": "selective", "seed": seed}
        | {"ratio": ratio, "test_accuracy": 0.7 + ratio / 1000 + seed / 100}
        for ratio in (50, 100)
        for seed in (0, 1)
    ]
    (folder / "study").mkdir()
    write_csv(folder / "study" / "results.csv", runs)
    training = {"title": "Adaptation", "curves": [("decoder", [curve("loss", [1, 2, 3], [4.0, 2.0, 1.0])])]}
    return folder / "out", write_figures(folder / "out", few(), folder / "study", [training])


def rows(folder, name):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_there_three_times(drawn):
    folder, names = drawn
    assert len(names) == len(set(names)) and len(names) == 2 + 1 + 2 + 1 + 1 + 1 + 1
    assert {path.name for path in folder.iterdir()} == {
        f"{name}{end}" for name in names for end in (".svg", ".pdf", ".csv")
    }
    for name in names:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_numbers_are_those_of_the_file(drawn):
    folder, names = drawn
    content = few()
    for section, label, metric, found in all_figures(content):
        section = section.replace("fidelity0", "fidelity-judge_grey")
        (row,) = (row for row in rows(folder, f"{section}-{metric}") if row["class"] == (label or "all"))
        assert float(row["value"]) == found["value"]
        assert [row["low"], row["high"]] == [str(end) for end in found.get("interval", ("", ""))]
        assert row["floor"] == str(found.get("floor", ""))
    assert rows(folder, "agreement-confusion-grey-synthetic")[1] == {
        "asked": "NORM",
        "LYM": "1",
        "NORM": "18",
        "TUM": "1",
    }
    spread = rows(folder, "stain-spread-eosin_mean")
    assert len(spread) == 4 * 3 and spread[0]["percentile_50"] == "0.36"
    assert rows(folder, "Adaptation-decoder-loss")[1] == {"step": "2.0", "value": "2.0"}
    study = rows(folder, "study-accuracy")
    assert [(row["ratio"], float(row["accuracy"]), row["runs"]) for row in study] == [
        ("50.0", pytest.approx(0.755), "2"),
        ("100.0", pytest.approx(0.805), "2"),
    ]
    assert ">LYM<" in (folder / "agreement-agreement_grey.svg").read_text()  # text stays text


def test_the_same_bytes_twice_and_a_name_is_no_formula(tmp_path):
    content = few(("$x^", "../b", "<i>"))
    del content["fidelity"], content["stain"], content["agreement"]["confusion"]
    for name in ("a", "b"):
        names = write_figures(tmp_path / name, content)
    assert names == ["agreement-agreement_grey"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert "$x^" in (tmp_path / "a" / f"{names[0]}.svg").read_text()
