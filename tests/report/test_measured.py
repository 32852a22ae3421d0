"""Figures in a table: the reading against the floor, the digits, the places on the scale; spreads; curves."""

import pytest
from torch.utils.tensorboard import SummaryWriter

from bundle.evaluation.figures import figure
from bundle.report.measured import as_texts, cell, reading
from bundle.report.training import HEIGHT, POINTS, WIDTH, curve, read_training
from bundle.runs.files import write_json


@pytest.mark.parametrize(
    "found, expected",
    [
        (figure(2, 1, (1.8, 2.2), (0.8, 1.2)), "worse"),
        (figure(0.5, 1, (0.4, 0.6), (0.8, 1.2)), "better"),
        (figure(0.5, 1, (0.4, 0.9), (0.8, 1.2)), "better"),  # intervals that overlap, and yet 0.5 > hypot(0.4, 0.2)
        (figure(0.5, 1, (0.4, 0.97), (0.8, 1.2)), "alike"),  # 0.5 < hypot(0.47, 0.2)
        (figure(1, 0.5, (0.8, 1.2), (0.4, 0.97), "higher"), "alike"),
        (figure(1, 0.5, (0.8, 1.2), (0.4, 0.9)), "worse"),
        (figure(1, 0.5, (1.1, 1.9), (0.4, 0.6)), "worse"),  # an interval beside its value does not reach below it
        (figure(0.5, 0.5, (0.4, 0.6), (0.4, 0.6)), "alike"),
        (figure(0.5, 1, (0.4, 0.6), (0.8, 1.2), "higher"), "worse"),
        (figure(2, 1, (1.8, 2.2), (0.8, 1.2), "higher"), "better"),
        (figure(2, 1, (1.8, 2.2), (0.8, 1.2), "floor"), "above"),
        (figure(0.5, 1, (0.4, 0.6), (0.8, 1.2), "floor"), "below"),
        (figure(2, 1, floor_interval=(0.8, 2.5)), "alike"),
        (figure(2, 1), ""),  # nothing says how far chance goes
        (figure(2, interval=(1, 3)), ""),
    ],
)
def test_a_figure_is_read_against_its_floor(found, expected):
    assert reading(found) == expected


@pytest.mark.parametrize(
    "found, expected",
    [
        (figure(5.1234, 1.5), {"value": "5.12", "floor": "1.50"}),
        (figure(-0.01234, 0.5), {"value": "\N{MINUS SIGN}0.012", "floor": "0.500"}),
        (figure(0.5, 0.00001), {"value": "0.500", "floor": "1e\N{MINUS SIGN}05"}),
        (figure(1234.5, 20.0), {"value": "1,234", "floor": "20"}),
        (figure(0.0, 0.001), {"value": "0", "floor": "0.00100"}),
        (figure(1.0, 0.5), {"value": "1.000", "floor": "0.500"}),
        (figure(3, 0, (1, 4)), {"value": "3", "floor": "0", "interval": "1 to 4"}),
    ],
)
def test_numbers_of_a_figure_have_as_many_decimals(found, expected):
    assert as_texts(found) == expected


def test_marks_of_a_metric_share_a_scale_from_end_to_end():
    low, high = figure(1.0, 0.0, (0.5, 1.5)), figure(4.0)
    mark = cell(low, "a", [high]).mark
    assert mark == {"value": 33.0, "floor": 6.0, "interval": (19.5, 27.0)}  # 6 + 108 x / 4
    assert cell(high, "b", [low]).mark == {"value": 114.0}
    assert cell(high, "c").mark == {"value": 60.0}


def test_a_curve_keeps_the_means_of_its_stretches():
    line = curve("loss", [0, 1, 2], [4.0, 2.0, 3.0])
    assert line["points"] == f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT:.1f} {WIDTH:.1f},{HEIGHT / 2:.1f}"
    assert (line["first"], line["last"], line["low"], line["log"]) == ("4.00", "3.00", "2.00", False)
    long = curve("loss", range(10 * POINTS), [1.0, 0.0] * 5 * POINTS)
    assert len(long["points"].split()) == POINTS and long["low"] == long["high"] == "0.500"
    assert curve("loss", [1, 2, 3], [float("nan"), 1.0, float("inf")]) is None
    assert curve("loss", [1, 2], [100.0, 1.0])["log"]


def test_a_training_that_was_resumed_is_one_curve(tmp_path):
    write_json(tmp_path / "metrics.json", {"diffusion": {"steps": 3, "seconds": 2.5}, "command": "python -m x"})
    for steps in ((1, 2, 3), (3, 4)):
        with SummaryWriter(str(tmp_path / "tensorboard" / "diffusion"), filename_suffix=str(steps[0])) as writer:
            for step in steps:
                writer.add_scalar("loss", 10.0 * steps[0] + step, step)
    found = read_training(tmp_path, "Pre-training")
    assert found["command"] == "python -m x" and found["stages"] == [
        ("diffusion", [("steps", "3"), ("seconds", "2.5")])
    ]
    stage, (line,) = found["curves"][0]
    assert (stage, line["first"], line["last"], line["steps"]) == ("diffusion", "11.0", "34.0", "4")
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        read_training(tmp_path, "Pre-training")
