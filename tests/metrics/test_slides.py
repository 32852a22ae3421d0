"""Figures whose unit is the slide, against closed forms and worked cases."""

import numpy as np
import pytest

from bundle.metrics.slides import NestedBootstrap, by_slide, sign_test

RANDOM = np.random.default_rng(0)


def half_width(interval):
    return (interval.high - interval.low) / 2


def test_the_interval_is_that_of_slides_where_tiles_of_a_slide_agree():
    """Closed form: 1.96 times the spread of slide means by the root of the number of slides, whatever the tiles."""
    means = RANDOM.normal(size=40)
    for tiles in (1, 9):
        slides = np.repeat(np.arange(40), tiles)
        found = NestedBootstrap(slides, 1).mean(np.repeat(means, tiles)[None])
        assert found.value == pytest.approx(means.mean(), abs=1e-6)
        assert half_width(found) == pytest.approx(1.96 * means.std() / 40**0.5, rel=0.1)


def test_the_spread_of_draws_and_of_tiles_is_in_it():
    slides = np.repeat(np.arange(200), 2)
    draws = RANDOM.normal(size=30)
    found = NestedBootstrap(slides, 30).mean(np.repeat(draws[:, None], 400, axis=1))
    assert half_width(found) == pytest.approx(1.96 * draws.std() / 30**0.5, rel=0.1)
    tiles = RANDOM.normal(size=(1, 400))
    # Slides of two independent tiles: drawn slides, then drawn tiles within, 3/2 times the variance of tiles alone.
    expected = 1.96 * tiles.std() * (1.5 / 400) ** 0.5
    assert half_width(NestedBootstrap(slides, 1).mean(tiles)) == pytest.approx(expected, rel=0.12)


def test_what_a_run_did_not_test_does_not_count():
    slides = np.array(list("aabb"))
    values = np.array([[1, np.nan, 0, 0], [1, 1, np.nan, 0]])
    bootstrap = NestedBootstrap(slides, 2)
    assert bootstrap.mean(values).value == 0.5
    with pytest.raises(ValueError, match="every tile needs a run"):
        bootstrap.mean(np.full((2, 4), np.nan))


def test_one_slide_has_no_interval():
    found = NestedBootstrap(np.array(["a"] * 3), 2).mean(np.ones((2, 3)))
    assert (found.value, found.low, str(found), found.points(), found.above_zero) == (1, None, "1.000", "+100.0", False)


def test_a_constant_difference_has_an_interval_of_no_width():
    found = NestedBootstrap(np.arange(5), 3).mean(np.full((3, 5), 0.25))
    assert (found.low, found.high, found.above_zero) == (0.25, 0.25, True)
    assert found.points() == "+25.0 (+25.0 to +25.0)" and str(found) == "0.250 (0.250 to 0.250)"


def test_the_mean_of_each_slide():
    assert by_slide(np.array([[1, 0, 1], [1, 0, 0]]), np.array(["a", "a", "b"])) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    "better, worse, same, chance", [(8, 1, 2, 20 / 512), (3, 3, 0, 1.0), (0, 5, 0, 2 / 32), (0, 0, 4, 1.0)]
)
def test_the_sign_test_is_binomial(better, worse, same, chance):
    signs = [1] * better + [-1] * worse + [0] * same
    found = sign_test({str(number): float(sign) for number, sign in enumerate(signs)})
    assert found[:2] == (better, worse) and found[2] == pytest.approx(chance)
