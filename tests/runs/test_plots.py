"""Plots are whole files that open, whatever the figures are."""

import math

import pytest
from matplotlib.figure import Figure
from PIL import Image

from bundle.runs.plots import save_confusion, save_lines

LABELS = ("timestep t", "balanced accuracy")
LINES = {"validation": ([0, 500, 999], [0.9, 0.5, 0.11]), "test": ([0, 500, 999], [0.8, 0.45, 0.12])}


def pixels(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 200
        return picture.convert("RGB").tobytes()


def test_plot_is_written_into_a_new_folder_and_shows_its_lines(tmp_path):
    path = tmp_path / "new" / "plot.png"
    save_lines(path, LINES, LABELS, level=("chance", 1 / 9), title="Accuracy")
    both = pixels(path)
    assert [file.name for file in path.parent.iterdir()] == ["plot.png"]
    save_lines(path, {"validation": LINES["validation"]}, LABELS, level=("chance", 1 / 9), title="Accuracy")
    assert pixels(path) != both
    save_lines(path, LINES, LABELS, title="Accuracy")
    assert pixels(path) != both, "the dashed line is missing"


def test_a_failed_plot_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    save_lines(path, LINES, LABELS)
    before = path.read_bytes()

    def killed(self, target, **settings):
        with open(target, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        save_lines(path, LINES, LABELS)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(
    "y", [[-3.0, 1e6, 2.0], [0.5, math.nan, 0.7], [math.inf, 0.5, -math.inf], [0.0, 0.0, 0.0], [math.nan] * 3]
)
def test_figures_out_of_range_are_no_error(tmp_path, y):
    save_lines(tmp_path / "plot.png", {"validation": ([0, 500, 999], y)}, LABELS, level=("chance", 1 / 9))
    pixels(tmp_path / "plot.png")


def test_confusion_matrix_is_drawn_for_any_counts(tmp_path):
    def drawn(counts):
        save_confusion(tmp_path / "confusion.png", counts, ["ADI", "LYM"], "held-out slides")
        return pixels(tmp_path / "confusion.png")

    assert len({drawn(counts) for counts in ([[3, 0], [1, 2]], [[0, 3], [1, 2]], [[3, 0], [0, 0]])}) == 3
