"""Two processes, or one in parts, train as one process does; and what they say where they can't."""

import signal

import pytest
from ways import STAGES, assert_same, copies, finish, in_two_processes, start_job, steps

FEW = ("autoencoder", "decoder", "judge", "classifier")  # between them they have all that is shared in its own way
BEGIN = """
import os, sys
sys.path[:0] = [{root!r}]
import torch
from bundle.runs import job
"""


@pytest.mark.parametrize(
    "stages, count", [(FEW, 4), pytest.param(tuple(STAGES), 20, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_shares_and_parts_train_as_the_whole(pretrained, adapted, tmp_path, stages, count):
    """Batches of 7, which neither two processes nor two parts divide."""
    folder = copies(tmp_path, pretrain=pretrained, adapt=adapted)
    whole = {stage: steps(stage, folder, count) for stage in stages}
    for stage in stages:
        assert_same(whole[stage], steps(stage, folder, count, accumulate=2))
    shared = in_two_processes(stages, folder, count)
    for stage in stages:
        assert_same(whole[stage], shared[stage])
