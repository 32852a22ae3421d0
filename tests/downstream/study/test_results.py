import numpy as np
import pytest
from scipy.stats import bootstrap

from bundle.downstream.study.results import accuracy, gain, read_correct, stack


def test_read_and_stack(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("file,part,class,predicted,A,B\nb.png,test,A,B,0,1\na.png,test,A,A,1,0\nc.png,unused,B,B,0,1\n")
    found = read_correct(path)
    assert found == {"test": {"b.png": False, "a.png": True}, "unused": {"c.png": True}}
    assert stack([found["test"], {"a.png": False, "b.png": True}]).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="different tiles"):
        stack([{"a.png": True}, {"b.png": True}])
    apart = stack([{"a.png": True}, {"b.png": False, "a.png": True}], same=False)
    assert np.array_equal(apart, [[1, np.nan], [1, 0]], equal_nan=True)


def test_accuracy_and_its_interval_of_tiles():
    correct = np.random.default_rng(0).random((1, 1000)) < 0.8
    found = accuracy(correct.astype(float))
    error = 1.96 * (found.value * (1 - found.value) / 1000) ** 0.5  # a proportion's, by the normal approximation
    assert found.value == correct.mean()
    assert found.low == pytest.approx(found.value - error, abs=0.004)
    assert found.high == pytest.approx(found.value + error, abs=0.004)


def test_gain_is_paired_by_tile():
    baseline = (np.random.default_rng(0).random((3, 400)) < 0.5).astype(float)
    same = gain(baseline, baseline)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = baseline.copy()
    better[:, :40] = 1  # differs on these tiles only, so the interval is narrow although tiles vary
    found = gain(better, baseline)
    assert found.value == pytest.approx((better - baseline).mean())
    assert 0 < found.low < found.value < found.high < found.value + 0.03
    assert found.points().startswith("+")
    with pytest.raises(ValueError, match="paired"):
        gain(baseline, baseline[:2])


def test_the_interval_is_that_of_drawing_tiles_again():
    """Against scipy, which draws them one by one; tiles that only one run measured count once."""
    random = np.random.default_rng(0)
    correct = (random.random((3, 200)) < 0.7).astype(float)
    baseline = (random.random((3, 200)) < 0.6).astype(float)
    for found, values in ((accuracy(correct), correct), (gain(correct, baseline), correct - baseline)):
        expected = bootstrap(
            (values.mean(0),), np.mean, n_resamples=10_000, method="percentile", rng=random
        ).confidence_interval
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx(expected, abs=0.004)
    apart = np.full((2, 400), np.nan)
    apart[0, :200], apart[1, 200:] = correct[:2]
    found, one = accuracy(apart), accuracy(np.concatenate(correct[:2])[None])
    assert found.value == pytest.approx(correct[:2].mean())
    # Tiles of two runs that share none are as many more tiles.
    assert (found.low, found.high) == pytest.approx((one.low, one.high), abs=0.004)
