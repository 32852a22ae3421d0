"""What several test files use."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_python, run_until_killed

from bundle.runs.workflow import components, is_setting, taken_by_name

ROOT = Path(__file__).resolve().parents[1]
KILLED_STAGE = """
import sys, time
sys.path.insert(0, {root!r})
from monai.bundle import ConfigWorkflow
from bundle.training.stage import StageTrainer

check = StageTrainer._require_finite


def check_and_wait(self):
    check(self)
    if self.stage == {stage!r} and self.state.iteration == 3:  # one step past the checkpoint of step 2
        open({flag!r}, "w").close()
        time.sleep(60)
StageTrainer._require_finite = check_and_wait
workflow = ConfigWorkflow(config_file={config!r}, bundle_root={root!r}, **{settings!r})
workflow.initialize()
workflow.run()
"""


def flags_of(config, also=()):
    """Ids of a config that a user may set: plain values and expressions, and those of `also` that it has."""
    content = json.loads((ROOT / "configs" / config).read_text())
    return {name for name, value in content.items() if is_setting(value) or name in also} - {
        "description",
        "bundle_root",
        "training",
        "handlers",
    }


def flags_with_a_row(rows, config):
    """Top-level flags of a table of rows (flag, value, ...), but for those that a function takes by their names."""
    content = json.loads((ROOT / "configs" / config).read_text())
    return {flag for flag, *_ in rows if "#" not in flag} - (by_name(content) - content.keys())


def by_name(content):
    """Settings that functions of a config take by their names, and that it need not list."""
    return set().union(*map(taken_by_name, components(content)))


def flag_tests(config, table, also=(), not_flags=(), given=None, beside=None):
    """Two tests of a config: each flag changes what it says, and each has its row. They need the fixture `content`.

    Args:
        config: its file name.
        table: rows of a flag, another value for it, and a function that says of what the config makes, by its ids,
            whether the flag shows.
        also, not_flags: ids that are settings though they don't look so, and the other way round.
        given: settings under which every part of the config is there, so that each flag has something to change.
        beside: flag -> settings without which it means nothing.
    """
    untouched = {}

    @pytest.mark.parametrize("flag, value, changed", table, ids=[f"{row[0]}-{at}" for at, row in enumerate(table)])
    def test_each_flag_changes_what_it_says(content, flag, value, changed):
        besides = {**(given or {}), **(beside or {}).get(flag, {})}
        if repr(besides) not in untouched:
            untouched[repr(besides)] = content(config, **besides)
        assert not changed(untouched[repr(besides)]), "it is so without the flag"
        assert changed(content(config, **{**besides, flag: value}))

    def test_every_setting_has_its_flag_test():
        odd = (flags_of(config, also) - set(not_flags)) ^ flags_with_a_row(table, config)
        assert not odd, f"a flag without a row, or a row without a flag: {odd}"

    return test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test


def nested(section="train#trainer", **settings):
    """Settings of a section of a config, by the names under which MONAI reaches them."""
    return {f"{section}#{name}": value for name, value in settings.items()}


def root_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def changed_settings(one, other):
    """Names of what differs between the identities of two trainers, by which the one's checkpoint is refused."""
    one, other = (trainer.whole_identity() for trainer in (one, other))
    return {name for name in {**one, **other} if one.get(name) != other.get(name)}


def states(folder):
    files = ("autoencoder_checkpoint.pt", "diffusion_checkpoint.pt", "autoencoder.pt", "diffusion.pt")
    return {name: torch.load(folder / name, weights_only=True) for name in files if (folder / name).is_file()}


def assert_equal(left, right, place=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for name in left.keys() - {"seconds"}:
            assert_equal(left[name], right[name], f"{place}/{name}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), place
        for number, (one, other) in enumerate(zip(left, right)):
            assert_equal(one, other, f"{place}/{number}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{place} differs"
    else:
        assert left == right, place


def build_elsewhere(config, names, folder):
    """Builds parts of a config in a process of its own, from an empty folder, as MONAI's own tools do."""
    code = (
        "from monai.bundle import ConfigWorkflow\n"
        f"w = ConfigWorkflow(config_file={config!r}, workflow_type='train', bundle_root={str(ROOT)!r})\n"
        "w.initialize()\n"
        f"for name in {names!r}:\n"
        "    assert w.parser.get_parsed_content(name)\n"
    )
    run = run_python("-c", code, cwd=folder)
    assert run.returncode == 0, run.stderr[-2000:]
    assert not os.listdir(folder)


def few_images(folder, count, first=0):
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def kill_stage(stage, config, settings, folder, flag, fresh=False):
    """Runs a config and kills it in step 3 of a stage, whose checkpoint is then that of step 2.

    In a child of this process, or in one that is `fresh`.
    """
    settings = {**settings, "output_dir": str(folder)}
    code = KILLED_STAGE.format(
        root=str(ROOT), stage=stage, flag=str(flag), config=str(ROOT / "configs" / config), settings=settings
    )
    run_until_killed(code, flag, fresh)
    assert torch.load(folder / f"{stage}_checkpoint.pt", weights_only=True)["step"] == 2
