import numpy as np
import pytest

from bundle.study.results import accuracy, gain, read_correct, stack


def test_read_and_stack(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("file,part,class,predicted,A,B\nb.png,test,A,B,0,1\na.png,test,A,A,1,0\nc.png,unused,B,B,0,1\n")
    assert read_correct(path, "test") == {"b.png": False, "a.png": True}
    assert stack([read_correct(path, "test"), {"a.png": False, "b.png": True}]).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="different tiles"):
        stack([{"a.png": True}, {"b.png": True}])


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
