"""Values that a setting can't have are refused by flag, value and remedy."""

import sys

import pytest
import torch

from bundle.runs.checks import check_value


@pytest.mark.parametrize(
    ("typed", "name", "value", "message"),
    [
        ("20241128", "output_dir", 20241128, r"--output_dir is the number 20241128.*Write --output_dir \./20241128$"),
        ("12.10", "validation_slides", 12.1, r"--validation_slides is the number 12.1.*slides \"'12.10'\"$"),
        ("1_000", "classes", 1000, r"--classes is the number 1000.*--classes \"'1_000'\"$"),
        ("12.10,7", "validation_slides", (12.1, 7), r"the number 12.1.*--validation_slides \"\['12.1', ...\]\"$"),
        ("2024,2025", "dataset_dir", (2024, 2025), r"--dataset_dir is the number 2024.*\"\['\./2024', ...\]\"$"),
        ("True", "cache_dir", True, "--cache_dir is the number True"),
        ("-1", "seed", -1, "--seed is -1; it must be an integer of at least 0"),
        ("0.5", "split_seed", 0.5, "--split_seed is 0.5"),
        ("-1", "train#trainer#seed", -1, "--train#trainer#seed is -1"),
        ("gpu", "device", "gpu", "--device is 'gpu', which torch does not know; give cpu"),
        (
            "99",
            "device",
            "cuda:99",
            "--device is 'cuda:99', and torch finds [0-9]+ NVIDIA GPUs here; give --device cpu",
        ),
    ],
)
def test_what_is_refused(monkeypatch, typed, name, value, message):
    monkeypatch.setattr(sys, "argv", ["monai", "run", f"--{name}", typed])
    with pytest.raises(ValueError, match=message):
        check_value(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_dir", "./20241128"),
        ("dataset_dir", {"a": 3, "b": 1}),
        ("dataset_dir", None),
        ("validation_slides", [3, "b"]),
        ("class_names", 7),
        ("seed", 0),
        ("device", "cpu"),
        ("device", torch.device("meta")),
        ("density_scale", 0.5),
    ],
)
def test_what_is_not(name, value):
    check_value(name, value)


def test_it_is_the_first_thing_that_a_config_does(workflow, tmp_path):
    for name, value in (("output_dir", 20241128), ("seed", -1), ("device", "gpu")):
        with pytest.raises(RuntimeError) as caught:
            workflow(**{"output_dir": str(tmp_path), name: value})
        assert f"--{name} is " in str(caught.value.__cause__)
