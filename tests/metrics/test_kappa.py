"""Fleiss' kappa against the examples that it was published with and that everybody takes since."""

import numpy as np
import pytest

from bundle.metrics.kappa import fleiss_kappa


def test_the_example_of_fleiss():
    """Of 1971: diagnoses of 30 patients by six psychiatrists, a word a patient, as statsmodels' tests have them."""
    ratings = """444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444
    224445 333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"""
    counts = np.array([[row.count(str(category)) for category in range(1, 6)] for row in ratings.split()])
    assert counts.shape == (30, 5) and round(fleiss_kappa(counts), 3) == 0.430


def test_the_example_of_fourteen_raters():
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.20993, abs=1e-5)


def test_the_ends_of_its_scale():
    assert fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1
    assert fleiss_kappa(np.array([[3, 0], [3, 0]])) is None


@pytest.mark.parametrize("counts", [np.zeros((0, 2)), [[1, 0]], [[2, 0], [2, 1]]])
def test_what_has_no_kappa_is_refused(counts):
    with pytest.raises(ValueError, match="as many readers"):
        fleiss_kappa(counts)
