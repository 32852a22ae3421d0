import pytest

from bundle.downstream.study.rows import EQUAL_STEPS, OWN_POOLS, STRONG_STAIN, all_rows, choose_rows


def test_every_row_has_its_baseline_before_it_and_trained_alike():
    rows = all_rows(["stylegan2"])
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for place, row in enumerate(rows):
        if row.baseline is not None:
            assert row.baseline in names[:place]
            assert row.baseline == (STRONG_STAIN if row.stain else EQUAL_STEPS)
    assert {row.pool for row in rows} == {None, "stylegan2", *OWN_POOLS}


def test_the_papers_rows_are_there():
    kept = {(row.selection, row.ratio) for row in all_rows() if row.pool == "guided" and not row.stain}
    assert kept == {("random", 50), ("selective", 50), ("selective", 100), ("selective", 200), ("selective", 300)}
    steps = {row.name: row.steps for row in all_rows()}
    assert steps["real"] == 0.25 and steps["guided_selective_300"] == 1  # as many epochs of a fourth of the images


def test_another_pool_has_each_ratio_chosen_and_at_random():
    rows = [row for row in all_rows(["gan"]) if row.pool == "gan"]
    plain = {(row.selection, row.ratio): row for row in rows if not row.stain}
    assert set(plain) == {(kind, ratio) for kind in ("random", "selective") for ratio in (50, 100, 200, 300)}
    assert all(plain["selective", ratio].control == plain["random", ratio].name for ratio in (50, 100, 200, 300))
    assert [row.name for row in rows if row.stain] == ["gan_selective_100_strong_stain"]


def test_chosen_rows_bring_their_baselines():
    assert [row.name for row in choose_rows("guided_selective_100_strong_stain")] == [
        "strong_stain",
        "guided_selective_100_strong_stain",
    ]
    assert choose_rows(["real", "oversampled"]) == choose_rows("oversampled, real")
    assert [row.name for row in choose_rows("gan_selective_100", ["gan"])] == [EQUAL_STEPS, "gan_selective_100"]
    with pytest.raises(ValueError, match="nonsense.*there are real"):
        choose_rows("nonsense")


@pytest.mark.parametrize("name", ["guided", "from_scratch", "../gan", "a/b", "", ".gan", "a gan"])
def test_a_pool_that_can_not_have_its_name(name):
    with pytest.raises(ValueError, match="--pools names one .*; it must be letters"):
        choose_rows(None, [name])
