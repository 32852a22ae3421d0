"""What a config builds opens itself at the first use of a fact, once, and not at all where that fails."""

import pytest

from bundle.runs.opening import OpenedOnUse


class Numbers(OpenedOnUse):
    opened = ("first", "second")

    def __init__(self, fails=False):
        self.fails = fails
        self.times = 0

    def open(self):
        self.times += 1
        self.first = 1
        if self.fails:
            raise ValueError("refused")
        self.second = self.first + 1


def test_it_opens_at_the_first_use_and_once():
    made = Numbers()
    assert made.times == 0
    assert (made.second, made.first, made.prepare().second) == (2, 1, 2) and made.times == 1


def test_what_was_refused_is_refused_again():
    made = Numbers(fails=True)
    for ask in (lambda: made.first, lambda: made.second, made.prepare):
        with pytest.raises(ValueError, match="refused"):
            ask()
    assert made.times == 3


def test_what_is_no_fact_of_it_opens_nothing():
    made = Numbers()
    with pytest.raises(AttributeError, match="Numbers has no attribute 'third'"):
        made.third  # noqa: B018
    assert made.times == 0 and not hasattr(made, "third")
