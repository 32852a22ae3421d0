"""What a study says before it measures."""

import json
from pathlib import Path

import pytest

from bundle.downstream.proof.declaration import declare, require_declared

STUDY = {
    "primary": {"backbone": "net_frozen", "labels": 10, "row": "mine_random_100"},
    "draws": 2,
    "folds": 1,
    "seed": 0,
    "chosen_on_development": ["C 0.01"],
}


@pytest.fixture
def study(tmp_path):
    def write(**changes):
        path = tmp_path / "study.json"
        path.write_text(json.dumps({**STUDY, **changes}))
        return path

    return write


def test_it_is_kept_with_its_time_and_found_again(study, tmp_path):
    first = declare(study(), tmp_path / "out", has_runs=False)
    assert first.is_primary("net_frozen", "10", "mine_random_100") and not first.is_primary("net_frozen", "5", "x")
    assert first.primary["against"] == "best control" and first.chosen == ("C 0.01",) and first.declared_at
    assert declare(study(), tmp_path / "out", has_runs=True) == first


def test_a_changed_or_late_study_file_is_refused(study, tmp_path):
    declare(study(), tmp_path / "out", has_runs=False)
    changed = declare(study(draws=3), tmp_path / "out", has_runs=False)  # nothing was measured yet
    assert changed.numbers["draws"] == 3
    with pytest.raises(ValueError, match="has changed since runs were made in .*put the former text back"):
        declare(study(), tmp_path / "out", has_runs=True)
    with pytest.raises(ValueError, match="was declared by the study file .*give it again"):
        declare(None, tmp_path / "out", has_runs=True)
    with pytest.raises(ValueError, match="comes after runs were made"):
        declare(study(), tmp_path / "other", has_runs=True)
    with pytest.raises(FileNotFoundError, match="there is no study file"):
        declare(tmp_path / "none.json", tmp_path / "other", has_runs=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"primary": {"labels": 10, "row": "x"}}, "names no backbone of the primary contrast"),
        ({"secret": 1}, "has 'secret', which it can't have"),
        ({"draws": "many"}, "is no study file"),
    ],
)
def test_what_is_no_study_file_is_refused(study, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        declare(study(**changes), tmp_path / "out", has_runs=False)


@pytest.mark.parametrize(
    "changes, numbers, message",
    [
        ({}, {"draws": 5}, "--draws is 5, and the study file declares 2"),
        ({"primary": {**STUDY["primary"], "row": "other"}}, {}, "names the row 'other' .* has real, mine_random_100"),
        ({"primary": {**STUDY["primary"], "against": "mine_random_100"}}, {}, "with itself"),
    ],
)
def test_a_run_that_was_not_declared_is_refused(study, tmp_path, changes, numbers, message):
    declaration = declare(study(**changes), tmp_path / "out", has_runs=False)
    given = {"draws": 2, "folds": 1, "seed": 0}
    with pytest.raises(ValueError, match=message):
        require_declared(declaration, {**given, **numbers}, ["net_frozen"], ["10"], ["real", "mine_random_100"])


def test_nothing_declared_refuses_nothing():
    require_declared(declare(None, Path("none"), has_runs=True), {"draws": 1}, [], [], [])
